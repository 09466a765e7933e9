"""The shared loss against numbers worked by hand and against finite differences."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scrpo_cli.methods.base import ClipConfig
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.recipe.models import CorrectionConfig
from scrpo_cli.training.loss import TokenBatch, corrections, kl_penalty, policy_gradient_loss
from scrpo_cli.types import Credit

PPO = ClipConfig(low=0.2, high=0.2)


def batch(ratios, advantages, weights=None, ref=None, kl=0.0, dtype=torch.float64):
    old_N = torch.full((len(ratios),), -1.0, dtype=dtype)
    logp_N = (old_N + torch.log(torch.tensor(ratios, dtype=dtype))).requires_grad_()
    return TokenBatch(
        logp_N,
        old_N,
        None if ref is None else torch.tensor(ref, dtype=dtype),
        torch.tensor(advantages, dtype=dtype),
        torch.tensor(weights or [1.0] * len(ratios), dtype=dtype),
        torch.full((len(ratios),), kl, dtype=dtype),
        torch.zeros(len(ratios), dtype=torch.long),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "clipped", "gradient"),
    [
        (1.0, 2.0, 2.0, 0, 2.0),
        (1.5, 1.0, 1.2, 1, 0.0),  # up and already 20% likelier: clipped, no gradient
        (1.25, 1.0, 1.2, 1, 0.0),
        (1.1, 1.0, 1.1, 0, 1.1),
        (0.5, 1.0, 0.5, 0, 0.5),  # up from below: never clipped
        (0.5, -1.0, -0.8, 1, 0.0),  # down and already 20% less likely: clipped
        (1.5, -1.0, -1.5, 0, -1.5),  # down from above: never clipped
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, gain, clipped, gradient):
    one = batch([ratio], [advantage])
    loss, stats = policy_gradient_loss(one, PPO)
    loss.backward()
    assert loss.item() == pytest.approx(-gain)
    assert stats["clipped"].item() == clipped
    assert one.logp_N.grad.item() == pytest.approx(-gradient)


def test_clip_higher_moves_only_the_upper_bound():
    loss, _ = policy_gradient_loss(batch([1.25, 0.7], [1.0, -1.0]), ClipConfig(low=0.2, high=0.28))
    assert loss.item() == pytest.approx(-(1.25 - 0.8))


def test_weights_are_the_whole_normalisation():
    loss, _ = policy_gradient_loss(batch([1, 1, 1], [1.0, 2.0, 30.0], weights=[0.25, 0.5, 0.0]), PPO)
    assert loss.item() == pytest.approx(-1.25)


def test_k3_and_k2_by_hand():
    logp, ref = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl_penalty(logp, ref, "k3").item() == pytest.approx(np.exp(-0.5) + 0.5 - 1)
    assert kl_penalty(logp, ref, "k2").item() == pytest.approx(0.125)


def test_kl_is_added_with_its_coefficient():
    one = batch([1.0], [0.0], ref=[-1.5], kl=0.1)
    loss, stats = policy_gradient_loss(one, PPO, "k3")
    assert loss.item() == pytest.approx(0.1 * stats["kl"].item())
    assert stats["kl"].item() == pytest.approx(np.exp(-0.5) - 0.5)


def exact_kl_gradient(logits: np.ndarray, ref_logits: np.ndarray, reverse: bool) -> np.ndarray:
    """Gradient in the logits of KL(policy||ref), or of KL(ref||policy) for `reverse`, by autograd on the sums."""
    policy = torch.tensor(logits, requires_grad=True)
    logp, logr = torch.log_softmax(policy, 0), torch.log_softmax(torch.tensor(ref_logits), 0)
    kl = (logr.exp() * (logr - logp)).sum() if reverse else (logp.exp() * (logp - logr)).sum()
    kl.backward()
    return policy.grad.numpy()


@pytest.mark.parametrize(("estimator", "reverse"), [("k2", False), ("k3", True)])
def test_the_expected_gradient_of_each_estimator_is_that_of_its_documented_direction(estimator, reverse):
    rng = np.random.default_rng(0)
    logits, ref_logits = rng.normal(size=5), rng.normal(size=5)
    policy = torch.tensor(logits, requires_grad=True)
    logp = torch.log_softmax(policy, 0)
    penalty = kl_penalty(logp, torch.log_softmax(torch.tensor(ref_logits), 0), estimator)
    (logp.detach().exp() * penalty).sum().backward()  # on-policy expectation: sampling is not differentiated
    assert policy.grad.numpy() == pytest.approx(exact_kl_gradient(logits, ref_logits, reverse), abs=1e-10)


# -- the kinds of ratio -----------------------------------------------------------------------------------------------


def two_rows(log_ratios, advantages, mask, dtype=torch.float64):
    """A row of three tokens and one of two; weights 1 on trained tokens."""
    one = batch(np.exp(log_ratios), advantages, [float(m) for m in mask], dtype=dtype)
    return replace(one, row_N=torch.tensor([0, 0, 0, 1, 1]))


def test_gspo_by_hand_is_one_ratio_a_row_the_geometric_mean_of_its_trained_tokens():
    """Row 1: log-ratios 0.1, 0.3 and an untrained 9 -> s = exp(0.2); row 2: -0.4, 0.2 -> s = exp(-0.1)."""
    one = two_rows([0.1, 0.3, 9.0, -0.4, 0.2], [1.0, 1, 1, -2, -2], [1, 1, 0, 1, 1])
    loss, stats = policy_gradient_loss(one, ClipConfig(kind="gspo", low=0.5, high=0.5))
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * np.exp(0.2) - 2 * 2 * np.exp(-0.1)))
    assert stats["ratio"].tolist() == pytest.approx([np.exp(0.2)] * 3 + [np.exp(-0.1)] * 2)
    assert one.logp_N.grad.tolist() == pytest.approx(
        [-np.exp(0.2)] * 2 + [0] + [2 * np.exp(-0.1)] * 2
    )  # d s / d logp = s / 2 on each of two tokens, which both carry the gain


def test_gspo_clips_whole_rows():
    one = two_rows([0.3, -0.1, 0.1, -0.3, 0.1], [1.0] * 3 + [-1.0] * 2, [1] * 5)
    loss, stats = policy_gradient_loss(one, ClipConfig(kind="gspo", low=0.05, high=0.05))
    loss.backward()
    assert stats["clipped"].tolist() == [1] * 5  # s = exp(0.1) with A > 0, s = exp(-0.1) with A < 0
    assert loss.item() == pytest.approx(-(3 * 1.05 - 2 * 0.95))
    assert not one.logp_N.grad.any()


def test_cispo_by_hand_clips_the_weight_and_keeps_every_gradient():
    one = batch([1.5, 0.5, 1.1], [1.0, -1.0, 2.0])
    loss, stats = policy_gradient_loss(one, ClipConfig(kind="cispo", low=1.0, high=0.28))
    loss.backward()
    assert one.logp_N.grad.tolist() == pytest.approx([-1.28, 0.5, -2.2])
    assert stats["clipped"].tolist() == [1, 0, 0]


def test_none_is_the_plain_log_prob_whatever_sampled_it():
    one = batch([1.5, 0.1], [1.0, -2.0], weights=[0.5, 1.0])
    loss, stats = policy_gradient_loss(one, ClipConfig(kind="none"))
    loss.backward()
    assert loss.item() == pytest.approx(-(0.5 * (-1 + np.log(1.5)) - 2 * (-1 + np.log(0.1))))
    assert one.logp_N.grad.tolist() == pytest.approx([-0.5, 2.0])
    assert not stats["clipped"].any()


@pytest.mark.parametrize("kind", ["ppo", "gspo", "cispo", "none"])
def test_on_policy_every_kind_has_the_gradient_of_reinforce(kind):
    one = two_rows([0.0] * 5, [1.0, 1, 1, -2, -2], [1, 1, 0, 1, 1])
    policy_gradient_loss(one, ClipConfig(kind=kind, low=0.2, high=0.2))[0].backward()
    assert one.logp_N.grad.tolist() == pytest.approx([-1, -1, 0, 2, 2])


def frozen_weights(logp: np.ndarray, t: dict[str, torch.Tensor], clip: ClipConfig, estimator: str):
    """CISPO with its ratios as constants of this point: what its gradient is the gradient of."""
    bound = np.clip(np.exp(logp - t["old_N"].numpy()), 1 - clip.low, 1 + clip.high)

    def loss(x: np.ndarray) -> float:
        gain = bound * t["advantage_N"].numpy() * x
        kl = kl_penalty(torch.tensor(x), t["ref_N"], estimator).numpy()
        return float(-(t["weight_N"].numpy() * (gain - t["kl_N"].numpy() * kl)).sum())

    return loss


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["ppo", "gspo", "cispo", "none"]), st.sampled_from(["k2", "k3"]))
def test_gradient_equals_finite_differences(seed, kind, estimator):
    """Random rows, masks, normalisers, advantages, KL coefficients and bounds, in float64."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, rng.integers(1, 4))
    n = int(lengths.sum())
    logp, old, ref = (rng.normal(size=n) * 0.4 for _ in range(3))
    masks = np.split(rng.integers(0, 2, n).astype(np.float32), np.cumsum(lengths)[:-1])
    zero = [np.zeros(len(m), dtype=np.float32) for m in masks]
    normalizer = rng.choice(["sequence_mean", "sequence_sum", "masked_tokens", "all_tokens", "constant"])
    weights = token_weights([Credit(z, m, z) for z, m in zip(zero, masks)], str(normalizer), max_tokens=7)
    clip = ClipConfig(kind=kind, low=float(rng.uniform(0.05, 0.3)), high=float(rng.uniform(0.05, 0.4)))
    t = {
        "old_N": torch.tensor(old),
        "ref_N": torch.tensor(ref),
        "advantage_N": torch.tensor(rng.normal(size=n)),
        "weight_N": torch.tensor(np.concatenate(weights).astype(float)),
        "kl_N": torch.tensor(rng.random(n) * 0.3),
        "row_N": torch.repeat_interleave(torch.tensor(lengths)),
    }

    def loss_of(x):
        return policy_gradient_loss(TokenBatch(x, **t), clip, estimator)

    x = torch.tensor(logp, requires_grad=True)
    loss, stats = loss_of(x)
    ratio = stats["ratio"].numpy()
    if min(np.abs(ratio - (1 - clip.low)).min(), np.abs(ratio - (1 + clip.high)).min()) < 1e-3:
        return  # the loss has a kink there
    loss.backward()
    value = (
        frozen_weights(logp, t, clip, estimator) if kind == "cispo" else lambda x: loss_of(torch.tensor(x))[0].item()
    )
    h = 1e-6
    numeric = [(value(logp + h * e) - value(logp - h * e)) / (2 * h) for e in np.eye(n)]
    assert x.grad.numpy() == pytest.approx(numeric, abs=1e-6)


# -- the sampler is another one than the trainer -----------------------------------------------------------------------


def corrected(log_ratios, rows, **fields):
    return corrections(torch.tensor(log_ratios, dtype=torch.float64), torch.tensor(rows), CorrectionConfig(**fields))


def test_corrections_by_hand():
    logs, rows = [math.log(0.5), math.log(4), math.log(1.5), 0.0], [0, 0, 1, 1]
    assert corrected(logs, rows).tolist() == pytest.approx([0.5, 2, 1.5, 1])
    assert corrected(logs, rows, mode="mask").tolist() == pytest.approx([0.5, 0, 1.5, 1])
    assert corrected(logs, rows, level="sequence").tolist() == pytest.approx([2, 2, 1.5, 1.5])
    assert corrected(logs, rows, level="sequence", cap=1.6, mode="mask").tolist() == pytest.approx([0, 0, 1.5, 1.5])
    assert corrected(logs, rows, level="none") is None


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_corrected_gradient_is_that_of_the_trainers_own_samples(level):
    """All rows of two tokens of a vocabulary of three, weighted by how often the sampler draws them. By token it is
    exact where rows have one token; by sequence always.
    """
    generator = torch.Generator().manual_seed(0)
    logits_VV, off_VV = (torch.randn((4, 3), generator=generator, dtype=torch.float64) for _ in range(2))
    length = 1 if level == "token" else 2
    advantages = {
        ids: float(np.sin(1 + sum(3**t * i for t, i in enumerate(ids)))) for ids in product(range(3), repeat=length)
    }

    def gradient(sampler_VV, correct):
        policy_VV = logits_VV.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for ids, advantage in advantages.items():
            contexts = [3, *ids[:-1]]
            logp_N = torch.stack([policy_VV[c].log_softmax(-1)[i] for c, i in zip(contexts, ids)])
            sampled_N = torch.stack([sampler_VV[c].log_softmax(-1)[i] for c, i in zip(contexts, ids)])
            row_N = torch.zeros(length, dtype=torch.long)
            cfg = CorrectionConfig(level=level, cap=1e6)
            own = corrections(logp_N.detach() - sampled_N, row_N, cfg) if correct else None
            ones_N = torch.ones(length, dtype=torch.float64)
            one = TokenBatch(logp_N, logp_N.detach(), None, advantage * ones_N, ones_N, 0 * ones_N, row_N, None, own)
            total = total + sampled_N.sum().exp() * policy_gradient_loss(one, PPO)[0]
        total.backward()
        return policy_VV.grad

    wanted = gradient(logits_VV, correct=False)
    assert torch.allclose(gradient(logits_VV + off_VV, correct=True), wanted, atol=1e-12)
    assert not torch.allclose(gradient(logits_VV + off_VV, correct=False), wanted, atol=1e-2)
