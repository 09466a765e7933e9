"""Imitation of own answers: SFT on right first answers, and SCoRe's two offline baselines of self-correction.

    SFT        max sum_t log pi(y_t | x)         over sampled y with r(y) = 1 (rejection sampling)
    STaR       max sum_t log pi(y2_t | x2)       over sampled (y1, y2) with r(y1) = 0, r(y2) = 1;  D+ adds 1 -> 1
    Pair-SFT   max sum_t log pi(y+_t | x, y-, p) y-, y+ sampled alone as first answers to one problem;  D+ adds 1 -> 1

STaR and Pair-SFT: SCoRe (arXiv 2409.12917), sections 4 and 6 [C]. That only the second answer is fitted, and that a
round of STaR goes on from the adapter of the one before, is ours [I].
"""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.methods.base import Fit
from scrpo_cli.methods.offline import Key, Offline, after, by_problem, imitate, is_wrong, key
from scrpo_cli.recipe.methods import PairSftConfig, SftConfig, StarConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import Attempt, AttemptKind, Completion, Group, SampleRequest


class Sft(Offline[SftConfig, Completion]):
    nothing = "No first answer is right"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Completion]]:
        return {k: [a.completion for a in same if a.reward == 1] for k, same in by_problem(attempts).items()}

    def fit(self, batch: Sequence[Completion]) -> Fit:
        return imitate(batch)


class Star(Offline[StarConfig, Completion]):
    """Second answers that repair: to the check prompt, or the corrections that other runs have recorded."""

    nothing = "No wrong answer was repaired"

    def more(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        return [self.prompts.check(g.request, a) for g in groups for a in g.attempts] if round == 1 else []

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Completion]]:
        first = {a.id: a for a in attempts}
        found: dict[Key, list[Completion]] = {}
        for attempt in attempts:
            if self.teaches(attempt, first.get(attempt.parent or "")):
                found.setdefault(key(attempt.problem), []).append(attempt.completion)
        return found

    def teaches(self, attempt: Attempt, before: Attempt | None) -> bool:
        if attempt.reward != 1 or attempt.kind is AttemptKind.FIRST:
            return False
        if before is None:  # a correction of an error that lies in another run
            return attempt.kind is AttemptKind.CORRECTION
        return is_wrong(before) or (self.cfg.plus and before.reward == 1)

    def fit(self, batch: Sequence[Completion]) -> Fit:
        return imitate(batch)


class PairSft(Offline[PairSftConfig, tuple[Attempt, Attempt]]):
    """Synthetic repairs: every right answer after a wrong one to the same problem, drawn uniformly."""

    nothing = "No problem has both a right and a wrong answer"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[tuple[Attempt, Attempt]]]:
        return {k: self.pairs(same, i) for i, (k, same) in enumerate(by_problem(attempts).items())}

    def pairs(self, same: Sequence[Attempt], index: int) -> list[tuple[Attempt, Attempt]]:
        right, wrong = [a for a in same if a.reward == 1], [a for a in same if is_wrong(a)]
        rng = generator(self.seed, self.state["iteration"], "pairs", index)
        found = [(wrong[rng.integers(len(wrong))], r) for r in right] if wrong else []
        if self.cfg.plus and right:
            found += [(right[rng.integers(len(right))], r) for r in right]
        return found

    def fit(self, batch: Sequence[tuple[Attempt, Attempt]]) -> Fit:
        requests = [self.prompts.check(self.prompts.first(shown.problem, 1), shown) for shown, _ in batch]
        targets = [right.completion for _, right in batch]
        return imitate([after(self.prompts.ids(a), t) for a, t in zip(requests, targets, strict=True)])
