"""DPO (Rafailov et al., arXiv 2305.18290) on a right and a wrong first answer to the same problem.

    m = beta [ log pi(y+)/pi_ref(y+) - log pi(y-)/pi_ref(y-) ],   L = - mean log sigmoid(m)           (Eq. 7)
    grad L = - mean beta sigmoid(-m) [ grad log pi(y+) - grad log pi(y-) ]

So DPO is a policy gradient whose advantages are +beta sigmoid(-m) on the right answer's tokens and its negative on the
wrong one's: credit that is known once log pi / pi_ref is. Log-probs are summed over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.methods.base import Credits, Fit, Settled, flat_credit
from scrpo_cli.methods.offline import Key, Offline, by_problem, is_wrong
from scrpo_cli.recipe.methods import DpoConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import Attempt, Completion

Pair = tuple[Completion, Completion]
"""Chosen and rejected."""


class Dpo(Offline[DpoConfig, Pair]):
    nothing = "No problem has both a right and a wrong answer"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Pair]]:
        return {k: self.pairs(same, i) for i, (k, same) in enumerate(by_problem(attempts).items())}

    def pairs(self, same: Sequence[Attempt], index: int) -> list[Pair]:
        """Right and wrong answers in random order, each used once."""
        rng = generator(self.seed, self.state["iteration"], "pairs", index)
        right, wrong = [a for a in same if a.reward == 1], [a for a in same if is_wrong(a)]
        shuffled = ([side[i].completion for i in rng.permutation(len(side))] for side in (right, wrong))
        return list(zip(*shuffled, strict=False))

    def fit(self, batch: Sequence[Pair]) -> Fit:
        return Fit([completion for pair in batch for completion in pair], preference_credits(batch, self.cfg.beta))


def preference_credits(pairs: Sequence[Pair], beta: float) -> Credits:
    """Rows in the order chosen, rejected, chosen, rejected, ...; the advantages are settled by the log-ratios."""

    def finish(log_ratios: Sequence[np.ndarray]) -> Settled:
        sums_N = np.array([float(r.sum()) for r in log_ratios])
        margins_P = beta * (sums_N[0::2] - sums_N[1::2])
        pull_P = beta / (1 + np.exp(margins_P))
        advantages = [sign * pull for pull in pull_P for sign in (1.0, -1.0)]
        rows = [flat_credit(len(r), float(a), 0.0) for r, a in zip(log_ratios, advantages, strict=True)]
        stats = {
            "train/dpo_loss": float(np.logaddexp(0, -margins_P).mean()),
            "train/dpo_margin": float(margins_P.mean()),
            "train/dpo_accuracy": float((margins_P > 0).mean()),
        }
        return rows, stats

    rows = [flat_credit(len(c.ids), 0.0, 0.0) for pair in pairs for c in pair]
    return Credits(rows, "sequence_sum", scale=2.0, finish=finish)  # mean over pairs, not over rows
