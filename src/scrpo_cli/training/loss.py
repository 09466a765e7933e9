"""One policy-gradient loss for every method, told the credit of each token. It knows no method's name.

    L = - sum_n w_n [ c_n gain_n - beta_n KL_n ]

w_n = mask / denominator (methods/parts/advantages.py::token_weights), so micro-batches simply add up. What the
probability ratio rho_n = exp(logp_n - old_n) does to the gain is the `kind` of the clip; low and high are eps_lo and
eps_hi:

    ppo    min(rho A, clip(rho, 1-low, 1+high) A)           arXiv 2402.03300, Eq. 3; two eps: DAPO, 2503.14476, Eq. 8
    gspo   the same with s = exp(mean_t log rho_t), the      arXiv 2507.18071, Eq. 5 and 7
           geometric mean over the row's trained tokens
    cispo  sg[clip(rho, 1-low, 1+high)] A logp              arXiv 2506.13585, Eq. 4
    none   A logp                                            REINFORCE; with A = 1 maximum likelihood

old_n is the trainer's own log-prob before the optimizer step. c_n, which is 1 where the sampler is the trainer's own
module, corrects for a sampler that computes other log-probs from the same weights: the truncated importance weight
exp(old_n - sampled_n), of the token or of its row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from scrpo_cli.methods.base import ClipConfig
from scrpo_cli.recipe.models import CorrectionConfig


@dataclass(frozen=True)
class TokenBatch:
    """Flat tokens (N,) of one micro-batch, whole rows one after another; `row_N` numbers them from 0. `ref_N` is None
    where no token has a KL coefficient, and where `divergence_N` is that KL already.
    """

    logp_N: torch.Tensor
    old_N: torch.Tensor
    ref_N: torch.Tensor | None
    advantage_N: torch.Tensor
    weight_N: torch.Tensor
    kl_N: torch.Tensor
    row_N: torch.Tensor
    divergence_N: torch.Tensor | None = None
    correction_N: torch.Tensor | None = None
    """c_n; None: 1 everywhere."""


def policy_gradient_loss(
    batch: TokenBatch, clip: ClipConfig, kl_estimator: str = "k3"
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss (a sum) and detached per-token statistics: `ratio`, `clipped` (0/1) and `kl` (nats)."""
    gain_N, ratio_N, clipped_N = gains(batch, clip)
    penalty_N = penalties(batch, kl_estimator)
    if batch.correction_N is not None:
        gain_N = batch.correction_N * gain_N
    loss = -(batch.weight_N * (gain_N - batch.kl_N * penalty_N)).sum()
    return loss, {"ratio": ratio_N.detach(), "clipped": clipped_N, "kl": penalty_N.detach()}


def gains(batch: TokenBatch, clip: ClipConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is maximised, the ratio, and where the clip bites (0/1), each (N,)."""
    advantage_N = batch.advantage_N
    log_ratio_N = batch.logp_N - batch.old_N
    if clip.kind == "none":
        return advantage_N * batch.logp_N, torch.exp(log_ratio_N), torch.zeros_like(advantage_N)
    ratio_N = torch.exp(row_means(log_ratio_N, batch) if clip.kind == "gspo" else log_ratio_N)
    bounded_N = torch.clamp(ratio_N, 1 - clip.low, 1 + clip.high)
    if clip.kind == "cispo":
        return bounded_N.detach() * advantage_N * batch.logp_N, ratio_N, (bounded_N != ratio_N).float()
    hit_N = (bounded_N * advantage_N < ratio_N * advantage_N).float()
    return torch.minimum(ratio_N * advantage_N, bounded_N * advantage_N), ratio_N, hit_N


def corrections(log_ratio_N: torch.Tensor, row_N: torch.Tensor, cfg: CorrectionConfig) -> torch.Tensor | None:
    """c_n (N,) from the trainer's less the sampler's log-probs: exp of a token's, or of the sum over its row. Above
    `cfg.cap` it is the cap, or 0. Truncation is that of Ionides (2008): biased, with a bounded variance.
    """
    if cfg.level == "none":
        return None
    if cfg.level == "sequence":
        log_ratio_N = row_sums(log_ratio_N, row_N)[row_N]
    ratio_N = torch.exp(log_ratio_N.detach())
    if cfg.mode == "mask":
        return torch.where(ratio_N > cfg.cap, 0.0, ratio_N)
    return ratio_N.clamp(max=cfg.cap)


def row_sums(values_N: torch.Tensor, row_N: torch.Tensor) -> torch.Tensor:
    """(B,) one sum a row."""
    return values_N.new_zeros(int(row_N.max()) + 1).index_add(0, row_N, values_N)


def row_means(values_N: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """The mean of each row over its trained tokens, at every token (N,) of the row."""
    trained_N = (batch.weight_N > 0).to(values_N.dtype)
    sum_B, count_B = row_sums(values_N * trained_N, batch.row_N), row_sums(trained_N, batch.row_N)
    return (sum_B / count_B.clamp(min=1))[batch.row_N]


def penalties(batch: TokenBatch, estimator: str) -> torch.Tensor:
    """(N,) what the KL coefficients multiply: exact, estimated, or nothing."""
    if batch.divergence_N is not None:
        return batch.divergence_N
    return torch.zeros_like(batch.logp_N) if batch.ref_N is None else kl_penalty(batch.logp_N, batch.ref_N, estimator)


EXACT = ("reverse_kl", "forward_kl", "jsd")
"""What `divergence` knows, instead of an estimate from the sampled token."""


def divergence(logp_NV: torch.Tensor, ref_NV: torch.Tensor, kind: str) -> torch.Tensor:
    """(N,) how far the policy's next-token distribution is from the reference's, summed over the vocabulary.

    reverse_kl = KL(policy||ref), forward_kl = KL(ref||policy), jsd = the mean of both KLs to their even mixture.
    """
    if kind == "reverse_kl":
        return kl(logp_NV, ref_NV)
    if kind == "forward_kl":
        return kl(ref_NV, logp_NV)
    middle_NV = torch.logaddexp(logp_NV, ref_NV) - math.log(2)
    return (kl(logp_NV, middle_NV) + kl(ref_NV, middle_NV)) / 2


def kl(logp_NV: torch.Tensor, other_NV: torch.Tensor) -> torch.Tensor:
    """(N,) KL(p||q) from the log-probs of both."""
    return torch.nn.functional.kl_div(other_NV, logp_NV, reduction="none", log_target=True).sum(-1)


def kl_penalty(logp_N: torch.Tensor, ref_N: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of the KL between policy and reference on tokens that the policy sampled; d = ref - logp.

    k3 = exp(d) - d - 1: its value is unbiased for KL(policy||ref), its gradient is that of KL(ref||policy).
    k2 = d^2 / 2: its gradient is that of KL(policy||ref). (methods.md 2.9; arXiv 2402.03300, Eq. 4 for k3)
    Both are gradients token by token: what a token does to the KL of later ones is left out. k1 has no place here,
    since its gradient is zero in expectation; it belongs into the reward (parts/kl.py), where later tokens count.
    """
    d_N = ref_N - logp_N
    if estimator == "k2":
        return d_N.square() / 2
    return torch.exp(d_N) - d_N - 1
