"""GRPO (Shao et al., arXiv 2402.03300), the trial step of ScRPO and the baseline that it is held against.

    for each question q of the batch:
        o_1..o_G ~ pi_old(.|q);  r_i = verify(o_i)                 0/1
        A_i = (r_i - mean_j r_j) / (std_j r_j + eps)               the same for every token of o_i
    J = 1/Z sum_{i,t} min(rho_{i,t} A_i, clip(rho_{i,t}, 1-eps_lo, 1+eps_hi) A_i) - beta KL(pi||pi_ref)

Groups without signal (all right or all wrong) are skipped before the backward pass and counted. A completion that the
grader failed on leaves its group; a truncated one earns nothing where `overlong: mask` (DAPO's overlong filtering), but
its outcome stays in the group's baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scrpo_cli.methods.advantages import ADVANTAGES, has_signal
from scrpo_cli.methods.base import Credits, Plan, PoolChange, Prompts, flat_credit, no_credit, outcome_rewards
from scrpo_cli.recipe.models import GrpoConfig, GrpoLoss
from scrpo_cli.types import Credit, Group, PoolEntry


class Grpo:
    """Plain GRPO: every step is a trial step."""

    def __init__(self, cfg: GrpoConfig, prompts: Prompts, group_size: int) -> None:
        self.cfg, self.prompts, self.group_size = cfg, prompts, group_size
        self.state: dict[str, Any] = {}

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        return trial_plan(self.prompts, step, self.group_size)

    def credit(self, groups: Sequence[Group]) -> Credits:
        return trial_credit(groups, self.cfg.loss, self.cfg.kl.beta)

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange:
        return PoolChange()


def trial_plan(prompts: Prompts, step: int, group_size: int) -> Plan:
    return Plan("trial", [prompts.first(problem, group_size) for problem in prompts.problems(step)])


def trial_credit(groups: Sequence[Group], loss: GrpoLoss, kl_beta: float) -> Credits:
    rows = [credit for group in groups for credit in group_credit(group, loss, kl_beta)]
    skipped = sum(not has_signal(outcome_rewards(g), loss.advantage) for g in groups)
    return Credits(rows, loss.normalizer, skipped_groups=skipped)


def group_credit(group: Group, loss: GrpoLoss, kl_beta: float) -> list[Credit]:
    rewards_G = outcome_rewards(group)
    lengths = [len(a.completion.ids) for a in group.attempts]
    if not has_signal(rewards_G, loss.advantage):
        return [no_credit(n) for n in lengths]
    advantages_G = ADVANTAGES[loss.advantage](rewards_G)
    dropped_G = np.isnan(rewards_G) | [loss.overlong == "mask" and a.truncated for a in group.attempts]
    return [
        no_credit(n) if dropped else flat_credit(n, advantage, kl_beta)
        for n, advantage, dropped in zip(lengths, advantages_G, dropped_G, strict=True)
    ]
