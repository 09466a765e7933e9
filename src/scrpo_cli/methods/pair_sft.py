"""Pair-SFT, as SCoRe's baseline (arXiv 2409.12917, section 4 [C]): synthetic repairs.

max sum_t log pi(y+_t | x, y-, p)     y-, y+ sampled alone as first answers to one problem;  D+ adds 1 -> 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scrpo_cli.methods.base import Needs, Setting
from scrpo_cli.methods.parts.offline import Example, Key, Offline, OfflineConfig, after_prompt, by_problem, is_wrong
from scrpo_cli.rng import generator
from scrpo_cli.types import Attempt


class PairSftConfig(OfflineConfig):
    """Pair-SFT, as SCoRe's baseline (section 4): a wrong answer, then a right one to the same problem."""

    plus: bool = False
    """D+: also right -> right [C]."""

    def needs(self, setting: Setting) -> Needs:
        needs = self.offline_needs(setting)
        return replace(needs, turns=2, context=setting.conversation_context(2))  # sampled alone, fitted as two turns


class PairSft(Offline[PairSftConfig]):
    """Every right answer after a wrong one to the same problem, drawn uniformly."""

    Config = PairSftConfig
    nothing = "No problem has both a right and a wrong answer"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        return {k: self.pairs(same, i) for i, (k, same) in enumerate(by_problem(attempts).items())}

    def pairs(self, same: Sequence[Attempt], index: int) -> list[Example]:
        right, wrong = [a for a in same if a.reward == 1], [a for a in same if is_wrong(a)]
        rng = generator(self.setting.seed, self.state["iteration"], "pairs", index)
        found: list[Example] = [(wrong[rng.integers(len(wrong))], r) for r in right] if wrong else []
        if self.cfg.plus and right:
            found += [(right[rng.integers(len(right))], r) for r in right]
        return found

    def as_fitted(self, example: Example) -> Example:
        """The right answer alone, after the other one and the request to check it."""
        shown, right = example
        request = self.prompts.check(self.prompts.first(shown.problem, 1), shown)
        return (after_prompt(self.prompts.ids(request), right),)
