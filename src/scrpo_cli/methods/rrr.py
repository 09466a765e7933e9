"""Reflect, Retry, Reward (Bensal et al., arXiv 2505.24726): fresh failures only, the reflection earns the reward.

    o ~ pi(.|q);  where verify(o) = 0:
        (refl_i, retry_i) ~ pi(.|q, o, "it failed, reflect"),  i = 1..G;  r_i = verify(retry_i)
        reflection tokens: A_i = (r_i - mean) / std;  all other tokens: nothing                 [C, authors' comment]

The difference to ScRPO: no pool, no filter, first answers are never trained, failed retries are pushed down. The
authors sample the reflection and the retry as two messages; here both are segments of one completion [I].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    KlConfig,
    Method,
    MethodConfig,
    Needs,
    Phase,
    PhaseKind,
    Plan,
    Setting,
    no_credit,
)
from scrpo_cli.methods.grpo import refuse_lonely
from scrpo_cli.methods.parts.corrections import CorrectionLoss, correction_credit
from scrpo_cli.methods.parts.kl import LogRatios, in_reward
from scrpo_cli.section import Positive, PositiveInt
from scrpo_cli.types import AttemptKind, Group, PoolEntry, SampleRequest


class RrrLoss(CorrectionLoss):
    stage2_weight: Positive = 1.0
    """Factor on the loss [I]."""


class RrrConfig(MethodConfig):
    """Reflect, Retry, Reward (arXiv 2505.24726): fresh failures only, no pool; the reflection earns the reward."""

    attempts: PositiveInt = 1
    """First answers to each problem, which are not trained; every failed one is reflected on [I]."""
    loss: RrrLoss = RrrLoss(tokens="reflection", failed="negative")
    """Only reflection tokens are trained [C]; failed retries earn their negative advantage [I]."""
    overlong: Literal["mask", "keep"] = "mask"
    kl: KlConfig = KlConfig()
    """0.001 [S]."""
    clip: ClipConfig = ClipConfig()

    def needs(self, setting: Setting) -> Needs:
        refuse_lonely(self.loss.advantage, setting.group_size, "rollout.group_size")
        rollouts = setting.prompts_per_step * self.attempts * (1 + setting.group_size)
        return Needs({"retry": Phase(PhaseKind.REFLECTION, rollouts)}, turns=1, context=setting.reflection_context)


class Rrr(Method[RrrConfig]):
    """Every step attempts, and reflects on what failed."""

    Config = RrrConfig

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        return Plan("retry", [self.prompts.first(p, self.cfg.attempts) for p in self.prompts.problems(step)])

    def next_round(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        """One group of reflections for each failed first answer that was not cut off."""
        if round > 1:
            return []
        failed = [a for g in groups for a in g.attempts if a.is_reasoning_error and not a.truncated]
        return [self.prompts.reflection(PoolEntry.of(a, step), self.setting.group_size) for a in failed]

    @property
    def uses_log_ratios(self) -> bool:
        return in_reward(self.cfg.kl)

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        cfg = self.cfg
        first = [a for g in groups if g.request.kind is AttemptKind.FIRST for a in g.attempts]
        retries = [g for g in groups if g.request.kind is not AttemptKind.FIRST]
        mine = log_ratios and log_ratios[len(first) :]
        credits = correction_credit(retries, cfg.loss, cfg.kl, cfg.clip, self.prompts, cfg.overlong, mine)
        rows = [*(no_credit(len(a.completion.ids)) for a in first), *credits.rows]
        return replace(credits, rows=rows, scale=cfg.loss.stage2_weight)
