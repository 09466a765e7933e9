"""GRPO (Shao et al., arXiv 2402.03300). Its relatives are files of their own that change single pieces of it.

    for each question q of the batch:
        o_1..o_G ~ pi_old(.|q);  r_i = verify(o_i)                 0/1
        A_i = (r_i - mean_j r_j) / (std_j r_j + eps)               the same for every token of o_i
    J = 1/Z sum_{i,t} min(rho_{i,t} A_i, clip(rho_{i,t}, 1-eps_lo, 1+eps_hi) A_i) - beta KL(pi||pi_ref)

Groups without variance of the reward (all right or all wrong) are skipped before the backward pass and counted, or
replaced (`resample`). A completion that the grader failed on leaves its group; a truncated one earns nothing where
`overlong: mask` (DAPO's overlong filtering), but its outcome stays in the group's baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from pydantic import model_validator

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
    Prompts,
    Setting,
    flat_credit,
    no_credit,
    outcome_rewards,
)
from scrpo_cli.methods.parts.advantages import ADVANTAGES, SIGNS, has_signal
from scrpo_cli.methods.parts.kl import LogRatios, in_reward, with_kl
from scrpo_cli.methods.parts.rewards import RewardConfig, with_length_penalty
from scrpo_cli.section import Count, Section
from scrpo_cli.types import Credit, Group, PoolEntry, SampleRequest

FIRST = "first"
"""The phase of a first-answer step."""


class GrpoLoss(Section):
    advantage: Literal["group_norm", "group_mean", "leave_one_out", "raw"] = "group_norm"
    """(r - mean) / std; r - mean (Dr. GRPO); r - mean of the others (RLOO); r."""
    normalizer: Literal["sequence_mean", "sequence_sum", "masked_tokens", "all_tokens", "constant"] = "masked_tokens"
    """Mean over each sequence, then rows (GRPO); sum over each sequence, mean over rows (RLOO); mean over trained
    tokens (DAPO); over all generated tokens; or the constant rows x max_tokens (Dr. GRPO)."""
    overlong: Literal["mask", "keep"] = "mask"
    """Truncated completions: no loss (DAPO's overlong filtering) or an ordinary wrong answer."""
    signs: Literal["both", "positive", "negative"] = "both"
    """positive, negative: the answers above, or below, their group's baseline alone; the others earn nothing and stay
    in the denominator, so that the two halves add up to the whole (Zhu et al., arXiv 2506.01347)."""

    @model_validator(mode="after")
    def _there_is_such_a_sign(self) -> GrpoLoss:
        if self.advantage == "raw" and self.signs == "negative":
            what = "signs: negative with advantage: raw: there is no baseline to be below"
            raise ValueError(f"{what}; use another advantage")
        return self


class GrpoConfig(MethodConfig):
    """GRPO (arXiv 2402.03300)."""

    loss: GrpoLoss = GrpoLoss()
    reward: RewardConfig = RewardConfig()
    kl: KlConfig = KlConfig()
    clip: ClipConfig = ClipConfig()
    resample: Count = 0
    """Dynamic sampling (DAPO): groups whose rewards are all equal are replaced by groups of further problems, in at
    most so many rounds a step; 0: never."""

    def needs(self, setting: Setting) -> Needs:
        refuse_lonely(self.loss.advantage, setting.group_size, "rollout.group_size")
        rollouts = setting.first_rollouts * (1 + self.resample)
        return Needs({FIRST: Phase(PhaseKind.FIRST_ANSWERS, rollouts)}, turns=1, context=setting.first_context)


Cfg = TypeVar("Cfg", bound=GrpoConfig)


class Grpo(Method[Cfg]):
    """Every step is a first-answer step."""

    Config = GrpoConfig

    @property
    def uses_log_ratios(self) -> bool:
        return in_reward(self.cfg.kl)

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        return first_answer_plan(self.prompts, step, self.setting.group_size)

    def next_round(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        """Dynamic sampling: as many further problems as groups have equal rewards, for at most `resample` rounds. What
        is filled up is the step as it was sampled: the budget may have cut it.
        """
        if round > self.cfg.resample:
            return []
        useful = sum(has_signal(outcome_rewards(g), self.cfg.loss.advantage) for g in groups)
        missing = max(0, sum(g.attempts[0].round == 0 for g in groups) - useful)
        return [self.prompts.first(p, self.setting.group_size) for p in self.prompts.problems(step, round)[:missing]]

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        cfg, longest = self.cfg, self.setting.max_tokens
        return first_answer_credit(groups, cfg.loss, cfg.kl, cfg.clip, cfg.reward, longest, log_ratios)


def refuse_lonely(advantage: str, group_size: int, key: str) -> None:
    """A baseline inside the group needs a group."""
    if group_size < 2 and advantage != "raw":
        raise ValueError(f"{key} is 1: an answer alone in its group has no baseline and trains nothing; give 2 or more")


def first_answer_plan(prompts: Prompts, step: int, group_size: int) -> Plan:
    return Plan(FIRST, [prompts.first(problem, group_size) for problem in prompts.problems(step)])


def first_answer_credit(
    groups: Sequence[Group],
    loss: GrpoLoss,
    kl: KlConfig,
    clip: ClipConfig,
    reward: RewardConfig,
    max_tokens: int,
    log_ratios: LogRatios | None,
) -> Credits:
    """The credit of first answers; `max_tokens` is where the length penalty of `reward` ends."""
    rows = [credit for group in groups for credit in group_credit(group, loss, kl.beta, reward, max_tokens)]
    skipped = sum(not has_signal(outcome_rewards(g), loss.advantage) for g in groups)
    credits = Credits(rows, loss.normalizer, clip, kl.estimator, skipped_groups=skipped)
    return with_kl(credits, groups, kl, log_ratios)


def group_credit(group: Group, loss: GrpoLoss, kl_beta: float, reward: RewardConfig, max_tokens: int) -> list[Credit]:
    outcomes_G = outcome_rewards(group)
    lengths = [len(a.completion.ids) for a in group.attempts]
    if not has_signal(outcomes_G, loss.advantage):
        return [no_credit(n) for n in lengths]
    advantages_G = ADVANTAGES[loss.advantage](with_length_penalty(outcomes_G, np.array(lengths), reward, max_tokens))
    kept_G = SIGNS[loss.signs](advantages_G)
    dropped_G = np.isnan(outcomes_G) | [loss.overlong == "mask" and a.truncated for a in group.attempts]
    return [
        no_credit(n) if dropped else flat_credit(n, advantage, kl_beta)
        for n, advantage, dropped in zip(lengths, kept_G, dropped_G, strict=True)
    ]
