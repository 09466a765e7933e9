"""The shared loss against numbers worked by hand and against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scrpo_cli.recipe.methods import ClipConfig
from scrpo_cli.training.loss import TokenBatch, kl_penalty, policy_gradient_loss

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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_gradient_equals_finite_differences(seed):
    """Random masks, advantages, coefficients and bounds, in float64."""
    rng = np.random.default_rng(seed)
    n = 6
    logp, old, ref, advantage = (rng.normal(size=n) * 0.4 for _ in range(4))
    weight = rng.random(n) * rng.integers(0, 2, n)
    kl, low, high = rng.random(n) * 0.2, 0.2, 0.28
    estimator = ["k2", "k3"][seed % 2]
    ratio = np.exp(logp - old)
    edges = np.abs(ratio - (1 - low)).min(), np.abs(ratio - (1 + high)).min()
    if min(edges) < 1e-3:  # the loss has a kink there
        return

    def loss_of(x):
        t = [torch.tensor(v) for v in (old, ref, advantage, weight, kl)]
        rows = torch.zeros(n, dtype=torch.long)
        return policy_gradient_loss(TokenBatch(x, *t, rows), ClipConfig(low=low, high=high), estimator)[0]

    x = torch.tensor(logp, requires_grad=True)
    loss_of(x).backward()
    h = 1e-6
    numeric = [
        (loss_of(torch.tensor(logp + h * e)) - loss_of(torch.tensor(logp - h * e))).item() / (2 * h) for e in np.eye(n)
    ]
    assert x.grad.numpy() == pytest.approx(numeric, abs=1e-6)
