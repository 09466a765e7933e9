"""Reflect, Retry, Reward (Bensal et al., arXiv 2505.24726): fresh failures only, the reflection earns the reward.

    o ~ pi(.|q);  where verify(o) = 0:
        (refl_i, retry_i) ~ pi(.|q, o, "it failed, reflect"),  i = 1..G;  r_i = verify(retry_i)
        reflection tokens: A_i = (r_i - mean) / std;  all other tokens: nothing                 [C, authors' comment]

The difference to ScRPO: no pool, no filter, first answers are never trained, failed retries are pushed down. The
authors sample the reflection and the retry as two messages; here both are segments of one completion [I].
"""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.methods.base import Credits, Method, Plan, Prompts, no_credit
from scrpo_cli.methods.corrections import correction_credit
from scrpo_cli.recipe.methods import RrrConfig
from scrpo_cli.types import AttemptKind, Group, PoolEntry, SampleRequest


class Rrr(Method):
    """Every step attempts, and reflects on what failed."""

    def __init__(self, cfg: RrrConfig, prompts: Prompts, group_size: int) -> None:
        self.cfg, self.prompts, self.group_size = cfg, prompts, group_size
        self.state = {}

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        return Plan("retry", [self.prompts.first(p, self.cfg.attempts) for p in self.prompts.problems(step)])

    def more(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        """One group of reflections for each failed first answer that was not cut off."""
        if round > 1:
            return []
        failed = [a for g in groups for a in g.attempts if a.is_reasoning_error and not a.truncated]
        return [self.prompts.reflection(PoolEntry.of(a, step), self.group_size) for a in failed]

    def credit(self, groups: Sequence[Group]) -> Credits:
        first = [g for g in groups if g.request.kind is AttemptKind.FIRST]
        retries = groups[len(first) :]
        untaught = [no_credit(len(a.completion.ids)) for g in first for a in g.attempts]
        if not retries:
            return Credits(untaught, self.cfg.loss.normalizer)
        taught = correction_credit(retries, self.cfg.loss, self.cfg.kl, self.prompts, self.cfg.overlong)
        return taught.after(untaught)
