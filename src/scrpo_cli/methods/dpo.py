"""DPO (Rafailov et al., arXiv 2305.18290) on a right and a wrong first answer to the same problem.

    m = beta [ log pi(y+)/pi_ref(y+) - log pi(y-)/pi_ref(y-) ],   L = - mean log sigmoid(m)           (Eq. 7)
    grad L = - mean beta sigmoid(-m) [ grad log pi(y+) - grad log pi(y-) ]

So DPO is a policy gradient whose advantages are +beta sigmoid(-m) on the right answer's tokens and its negative on the
wrong one's: credit that is known once log pi / pi_ref is. Log-probs are summed over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.methods.base import ClipConfig, Credits, Fitting, Needs, Setting, flat_credit
from scrpo_cli.methods.parts.kl import LogRatios
from scrpo_cli.methods.parts.offline import Example, Key, Offline, OfflineConfig, by_problem, is_wrong
from scrpo_cli.rng import generator
from scrpo_cli.section import Positive
from scrpo_cli.types import Attempt, Group


class DpoConfig(OfflineConfig):
    """DPO (arXiv 2305.18290) on (right, wrong) first answers to one problem."""

    beta: Positive = 0.1
    """[C]."""

    def needs(self, setting: Setting) -> Needs:
        if setting.minibatches > 1:
            raise ValueError("dpo takes one optimizer step a batch: optim.minibatches must be 1 (method.batch is free)")
        return self.offline_needs(setting)

    @property
    def fitting(self) -> Fitting:
        return super().fitting._replace(completions=2)


class Dpo(Offline[DpoConfig]):
    """An example is a chosen and a rejected answer."""

    Config = DpoConfig
    nothing = "No problem has both a right and a wrong answer"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        return {k: self.pairs(same, i) for i, (k, same) in enumerate(by_problem(attempts).items())}

    def pairs(self, same: Sequence[Attempt], index: int) -> list[Example]:
        """Right and wrong answers in random order, each used once."""
        rng = generator(self.setting.seed, self.state["iteration"], "pairs", index)
        right, wrong = [a for a in same if a.reward == 1], [a for a in same if is_wrong(a)]
        shuffled = ([side[i] for i in rng.permutation(len(side))] for side in (right, wrong))
        return list(zip(*shuffled, strict=False))

    @property
    def uses_log_ratios(self) -> bool:
        return True

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        """A group is a pair, so rows are chosen, rejected, chosen, rejected, ..."""
        assert log_ratios is not None
        return preference_credits(log_ratios, self.cfg.beta)


def preference_credits(log_ratios: LogRatios, beta: float) -> Credits:
    sums_N = np.array([float(r.sum()) for r in log_ratios])
    margins_P = beta * (sums_N[0::2] - sums_N[1::2])
    pull_P = beta / (1 + np.exp(margins_P))
    advantages = [sign * pull for pull in pull_P for sign in (1.0, -1.0)]
    rows = [flat_credit(len(r), float(a), 0.0) for r, a in zip(log_ratios, advantages, strict=True)]
    metrics = {
        "train/dpo_loss": float(np.logaddexp(0, -margins_P).mean()),
        "train/dpo_margin": float(margins_P.mean()),
        "train/dpo_accuracy": float((margins_P > 0).mean()),
    }
    none = ClipConfig(kind="none")
    return Credits(rows, "sequence_sum", none, scale=2.0, metrics=metrics)  # mean over pairs, not over rows
