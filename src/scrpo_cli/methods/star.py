"""STaR on two turns, as SCoRe's baseline (arXiv 2409.12917, sections 4 and 6 [C]).

    max sum_t log pi(y2_t | x2)     over sampled (y1, y2) with r(y1) = 0, r(y2) = 1;  D+ adds 1 -> 1

That only the second answer is fitted, and that a round goes on from the adapter of the one before, is ours [I].
"""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.methods.base import Needs, Setting
from scrpo_cli.methods.parts.offline import Example, Key, Offline, OfflineConfig, is_wrong, key
from scrpo_cli.section import PositiveInt
from scrpo_cli.types import Attempt, AttemptKind, Group, SampleRequest


class StarConfig(OfflineConfig):
    """STaR on two turns, as SCoRe's baseline (section 4): traces kept when y1 is wrong and y2 right."""

    iterations: PositiveInt = 3
    """[C]."""
    plus: bool = False
    """D+: also right -> right [C]."""

    def needs(self, setting: Setting) -> Needs:
        return self.offline_needs(setting, turns=2)


class Star(Offline[StarConfig]):
    """Second answers that repair: to the check prompt, or the corrections that other runs have recorded."""

    Config = StarConfig
    nothing = "No wrong answer was repaired"

    def next_round(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        return [self.prompts.check(g.request, a) for g in groups for a in g.attempts] if round == 1 else []

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        first = {a.id: a for a in attempts}
        found: dict[Key, list[Example]] = {}
        for attempt in attempts:
            if self.teaches(attempt, first.get(attempt.parent or "")):
                found.setdefault(key(attempt.problem), []).append((attempt,))
        return found

    def teaches(self, attempt: Attempt, before: Attempt | None) -> bool:
        if attempt.reward != 1 or attempt.kind is AttemptKind.FIRST:
            return False
        if before is None:  # a correction of an error that lies in another run
            return attempt.kind is AttemptKind.CORRECTION
        return is_wrong(before) or (self.cfg.plus and before.reward == 1)
