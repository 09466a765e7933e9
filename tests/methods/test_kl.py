"""The three KL estimators against exact expectations, in a world small enough to list: two tokens, three words.

The second token's distribution depends on the first, so a first token has an effect on the KL of the second: the part
that separates a KL inside the reward (k1) from loss terms taken token by token (k2, k3).
"""

import numpy as np
import pytest
import torch
from methods.builders import credits_of

from scrpo_cli.methods.base import ClipConfig, flat_credit, no_credit
from scrpo_cli.methods.parts.kl import kl_in_reward
from scrpo_cli.training.loss import TokenBatch, policy_gradient_loss

WORDS, BETA = 3, 0.7
SEQUENCES = [(i, j) for i in range(WORDS) for j in range(WORDS)]


class World:
    """Logits of the first token (3,) and, for each first token, of the second (3, 3)."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.first = torch.tensor(rng.normal(size=WORDS), requires_grad=True)
        self.second = torch.tensor(rng.normal(size=(WORDS, WORDS)), requires_grad=True)

    def logp(self) -> torch.Tensor:
        """(9, 2) log-probs of every sequence's tokens."""
        a, b = torch.log_softmax(self.first, 0), torch.log_softmax(self.second, 1)
        return torch.stack([torch.stack([a[i], b[i, j]]) for i, j in SEQUENCES])

    def gradient(self, value: torch.Tensor) -> np.ndarray:
        """In the three logits of the first token, then the nine of the second."""
        return np.concatenate([g.numpy().ravel() for g in torch.autograd.grad(value, [self.first, self.second])])


POLICY, REFERENCE = World(0), World(1)
REF_ST = REFERENCE.logp().detach()
P_S = POLICY.logp().detach().sum(1).exp().numpy()


def exact(reverse: bool = False) -> np.ndarray:
    """Gradient of KL(policy||ref) over whole sequences; of KL(ref||policy) for `reverse`."""
    logp_S, ref_S = POLICY.logp().sum(1), REF_ST.sum(1)
    kl = (ref_S.exp() * (ref_S - logp_S)).sum() if reverse else (logp_S.exp() * (logp_S - ref_S)).sum()
    return POLICY.gradient(kl)


def expected_gradient(advantages_S, kl_beta: float, estimator: str, kind: str = "ppo") -> np.ndarray:
    """Of the real loss, averaged over what the policy samples."""
    logp_ST = POLICY.logp()
    flat = logp_ST.reshape(-1)
    twice = lambda x: torch.tensor(np.repeat(x, 2))  # noqa: E731
    batch = TokenBatch(
        flat,
        flat.detach(),
        REF_ST.reshape(-1),
        twice(advantages_S),
        twice(P_S),
        torch.full_like(flat, kl_beta).detach(),
        torch.arange(len(SEQUENCES)).repeat_interleave(2),
    )
    loss, _ = policy_gradient_loss(batch, ClipConfig(kind=kind), estimator)
    return POLICY.gradient(loss)


def log_ratios() -> list[np.ndarray]:
    return list((POLICY.logp().detach() - REF_ST).numpy())


def settled(rows, baselines, ratios) -> np.ndarray:
    found = kl_in_reward(credits_of(rows, "sequence_sum"), baselines, ratios).rows
    assert not any(c.kl_T.any() for c in found)
    return np.array([float(c.advantage_T[0]) for c in found])


@pytest.mark.parametrize("kind", ["ppo", "none", "cispo", "gspo"])
def test_k1_in_the_reward_has_the_exact_gradient_of_the_kl_over_whole_sequences(kind):
    rows = [flat_credit(2, 0.0, BETA) for _ in SEQUENCES]
    advantages_S = settled(rows, range(len(rows)), log_ratios())  # each alone: no baseline
    assert expected_gradient(advantages_S, 0.0, "k3", kind) == pytest.approx(BETA * exact(), abs=1e-6)


def test_the_leave_one_out_baseline_of_k1_leaves_its_gradient_as_it_is():
    """All pairs of samples: the expected advantage of a sequence differs by a constant, whose gradient is zero."""
    rows = [flat_credit(2, 0.0, BETA)] * 2
    ratios = log_ratios()
    mean_S = [
        sum(P_S[j] * settled(rows, ["g", "g"], [ratios[i], ratios[j]])[0] for j in range(len(SEQUENCES)))
        for i in range(len(SEQUENCES))
    ]
    alone_S = settled([rows[0]] * len(SEQUENCES), range(len(SEQUENCES)), ratios)
    assert np.ptp(np.array(mean_S) - alone_S) == pytest.approx(0, abs=1e-6)
    assert abs(mean_S[0] - alone_S[0]) > 0.01
    assert expected_gradient(np.array(mean_S), 0.0, "k3") == pytest.approx(BETA * exact(), abs=1e-6)


def test_k2_is_right_on_the_last_token_and_misses_what_a_token_does_to_later_ones():
    got, want = expected_gradient(np.zeros(len(SEQUENCES)), BETA, "k2"), BETA * exact()
    assert got[WORDS:] == pytest.approx(want[WORDS:], abs=1e-9)
    a, ref = torch.log_softmax(POLICY.first, 0), torch.log_softmax(REFERENCE.first, 0).detach()
    alone = torch.autograd.grad((a.exp() * (a - ref)).sum(), POLICY.first)[0].numpy()
    assert got[:WORDS] == pytest.approx(BETA * alone, abs=1e-9)  # the first token's own KL and no more
    assert np.abs(got[:WORDS] - want[:WORDS]).max() > 0.02


def test_k3_has_the_gradient_of_the_other_direction_token_by_token():
    got = expected_gradient(np.zeros(len(SEQUENCES)), BETA, "k3")
    first, second = torch.log_softmax(POLICY.first, 0), torch.log_softmax(POLICY.second, 1)
    ref_a, ref_b = torch.log_softmax(REFERENCE.first, 0).detach(), torch.log_softmax(REFERENCE.second, 1).detach()
    reached = first.detach().exp()  # prefixes are the policy's own
    reverse = (ref_a.exp() * (ref_a - first)).sum() + (reached[:, None] * ref_b.exp() * (ref_b - second)).sum()
    assert got == pytest.approx(BETA * POLICY.gradient(reverse), abs=1e-9)
    assert np.abs(got - BETA * exact()).max() > 0.02
    assert np.abs(got[WORDS:] - BETA * exact(reverse=True)[WORDS:]).max() > 0.02  # nor is it KL(ref||policy) as a whole


def test_the_values_of_k1_and_k3_are_unbiased_and_that_of_k2_is_not():
    logp_ST = POLICY.logp().detach()
    d_ST = REF_ST - logp_ST
    kl = float((P_S * (-d_ST).sum(1).numpy()).sum())
    assert float((P_S * (d_ST.exp() - d_ST - 1).sum(1).numpy()).sum()) == pytest.approx(kl)
    assert abs(float((P_S * (d_ST**2 / 2).sum(1).numpy()).sum()) - kl) > 0.01


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_a_rows_penalty_is_summed_over_its_trained_tokens_less_the_mean_of_the_others():
    half = np.array([1, 1, 0], dtype=np.float32)
    rows = [flat_credit(3, 1.0, 0.5, half), flat_credit(1, -1.0, 0.5), flat_credit(2, 0.0, 0.5)]
    ratios = [np.array([0.2, 0.4, 9.0]), np.array([0.1]), np.array([1.0, 1.0])]
    # penalties 0.3, 0.05 | 1.0 alone
    assert settled(rows, ["p", "p", "q"], ratios) == pytest.approx([1 - 0.25, -1 + 0.25, -1.0])


def test_rows_without_credit_have_no_penalty_and_are_nobodys_baseline():
    rows = [flat_credit(1, 0.0, 1.0), no_credit(1), flat_credit(1, 0.0, 1.0)]
    ratios = [np.array([1.0]), np.array([50.0]), np.array([3.0])]
    found = kl_in_reward(credits_of(rows, "sequence_sum"), ["p"] * 3, ratios).rows
    assert [float(c.advantage_T[0]) for c in found][::2] == [2.0, -2.0]
    assert not found[1].mask_T.any()


def test_what_is_measured_is_the_kl_of_the_trained_tokens():
    half = np.array([1, 0], dtype=np.float32)
    rows = [flat_credit(2, 0.0, 1.0, half, "turn1"), flat_credit(2, 0.0, 1.0, part="turn2"), no_credit(1)]
    ratios = [np.array([0.5, 9.0]), np.array([0.1, 0.3]), np.array([7.0])]
    assert kl_in_reward(credits_of(rows, "sequence_sum"), ["p", "q", "r"], ratios).metrics == pytest.approx(
        {
            "train/kl": 0.9 / 3,
            "train/kl_sequence": 0.9 / 2,
            "train/kl_turn1": 0.5,
            "train/kl_turn1_sequence": 0.5,
            "train/kl_turn2": 0.2,
            "train/kl_turn2_sequence": 0.4,
        }
    )
    assert kl_in_reward(credits_of([no_credit(1)], "sequence_sum"), ["p"], [np.ones(1)]).metrics == {}
