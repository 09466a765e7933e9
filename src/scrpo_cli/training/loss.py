"""One policy-gradient loss for every method, told the credit of each token. It knows no method's name.

    L = - sum_n w_n [ min(rho_n A_n, clip(rho_n, 1-eps_lo, 1+eps_hi) A_n) - beta_n KL_n ]
    rho_n = exp(logp_n - old_n)

w_n = mask / denominator (methods/advantages.py::token_weights), so micro-batches simply add up.
Sources: PPO clip as in GRPO (arXiv 2402.03300, Eq. 3), separate eps as in DAPO (arXiv 2503.14476, Eq. 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenBatch:
    """Flat tokens (N,) of one micro-batch. `ref_N` is None where no token has a KL coefficient."""

    logp_N: torch.Tensor
    old_N: torch.Tensor
    ref_N: torch.Tensor | None
    advantage_N: torch.Tensor
    weight_N: torch.Tensor
    kl_N: torch.Tensor


def policy_gradient_loss(
    batch: TokenBatch, clip_low: float, clip_high: float, kl_estimator: str = "k3"
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss (a sum) and detached per-token statistics: `ratio`, `clipped` (0/1) and `kl` (nats)."""
    ratio_N = torch.exp(batch.logp_N - batch.old_N)
    clipped_N = torch.clamp(ratio_N, 1 - clip_low, 1 + clip_high)
    gain_N = torch.minimum(ratio_N * batch.advantage_N, clipped_N * batch.advantage_N)
    penalty_N = torch.zeros_like(gain_N) if batch.ref_N is None else kl_penalty(batch.logp_N, batch.ref_N, kl_estimator)
    loss = -(batch.weight_N * (gain_N - batch.kl_N * penalty_N)).sum()
    with torch.no_grad():
        hit_N = (clipped_N * batch.advantage_N < ratio_N * batch.advantage_N).float()
    return loss, {"ratio": ratio_N.detach(), "clipped": hit_N, "kl": penalty_N.detach()}


def kl_penalty(logp_N: torch.Tensor, ref_N: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of the KL between policy and reference on tokens that the policy sampled; d = ref - logp.

    k3 = exp(d) - d - 1: its value is unbiased for KL(policy||ref), its gradient is that of KL(ref||policy).
    k2 = d^2 / 2: its gradient is that of KL(policy||ref). (methods.md 2.9; arXiv 2402.03300, Eq. 4 for k3)
    """
    d_N = ref_N - logp_N
    if estimator == "k2":
        return d_N.square() / 2
    return torch.exp(d_N) - d_N - 1
