"""SFT on own right first answers (rejection sampling): max sum_t log pi(y_t | x) over sampled y with r(y) = 1."""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.methods.base import Needs, Setting
from scrpo_cli.methods.parts.offline import Example, Key, Offline, OfflineConfig, by_problem
from scrpo_cli.types import Attempt


class SftConfig(OfflineConfig):
    """SFT on own right first answers (rejection sampling)."""

    def needs(self, setting: Setting) -> Needs:
        return self.offline_needs(setting)


class Sft(Offline[SftConfig]):
    Config = SftConfig
    nothing = "No first answer is right"

    def examples_of(self, attempts: Sequence[Attempt]) -> dict[Key, list[Example]]:
        return {k: [(a,) for a in same if a.reward == 1] for k, same in by_problem(attempts).items()}
