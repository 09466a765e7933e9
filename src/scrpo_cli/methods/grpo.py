"""GRPO (Shao et al., arXiv 2402.03300) and the methods that change single pieces of it.

    for each question q of the batch:
        o_1..o_G ~ pi_old(.|q);  r_i = verify(o_i)                 0/1
        A_i = (r_i - mean_j r_j) / (std_j r_j + eps)               the same for every token of o_i
    J = 1/Z sum_{i,t} min(rho_{i,t} A_i, clip(rho_{i,t}, 1-eps_lo, 1+eps_hi) A_i) - beta KL(pi||pi_ref)

    DAPO (2503.14476)      r = +1/-1 + length penalty (shaping.py), Z = all tokens, eps_hi > eps_lo, no KL, and more():
                           groups without signal are replaced, 0 < #correct < G (Eq. 11)
    Dr. GRPO (2503.20783)  A_i = r_i - mean, Z = a constant
    RLOO (2402.14740)      A_i = r_i - mean of the others, Z = rows; the KL is inside the reward (kl.py)
    GSPO (2507.18071)      one rho a sequence; CISPO (2506.13585): rho is a clipped weight (both: training/loss.py)

Groups without signal (all right or all wrong) are skipped before the backward pass and counted. A completion that the
grader failed on leaves its group; a truncated one earns nothing where `overlong: mask` (DAPO's overlong filtering), but
its outcome stays in the group's baseline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.methods.advantages import ADVANTAGES, has_signal
from scrpo_cli.methods.base import Credits, Method, Plan, Prompts, flat_credit, no_credit, outcome_rewards
from scrpo_cli.methods.kl import with_kl
from scrpo_cli.methods.shaping import with_length_penalty
from scrpo_cli.recipe.methods import GrpoLoss, KlConfig, OnPolicyConfig, RewardConfig
from scrpo_cli.types import Credit, Group, PoolEntry, SampleRequest


class Grpo(Method):
    """Every step is a first-answer step."""

    def __init__(self, cfg: OnPolicyConfig, prompts: Prompts, group_size: int, max_tokens: int = 1) -> None:
        self.cfg, self.prompts, self.group_size, self.max_tokens = cfg, prompts, group_size, max_tokens
        self.state = {}

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        return first_answer_plan(self.prompts, step, self.group_size)

    def more(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        """Dynamic sampling: as many further problems as groups lack signal, for at most `resample` rounds."""
        if round > self.cfg.resample:
            return []
        signal = sum(has_signal(outcome_rewards(g), self.cfg.loss.advantage) for g in groups)
        missing = max(0, len(self.prompts.problems(step)) - signal)
        return [self.prompts.first(p, self.group_size) for p in self.prompts.problems(step, round)[:missing]]

    def credit(self, groups: Sequence[Group]) -> Credits:
        return first_answer_credit(groups, self.cfg.loss, self.cfg.kl, self.cfg.reward, self.max_tokens)


def first_answer_plan(prompts: Prompts, step: int, group_size: int) -> Plan:
    return Plan("first", [prompts.first(problem, group_size) for problem in prompts.problems(step)])


def first_answer_credit(
    groups: Sequence[Group], loss: GrpoLoss, kl: KlConfig, reward: RewardConfig | None = None, max_tokens: int = 1
) -> Credits:
    """The credit of first answers; `max_tokens` is where the length penalty of `reward` ends."""
    reward = reward or RewardConfig()
    rows = [credit for group in groups for credit in group_credit(group, loss, kl.beta, reward, max_tokens)]
    skipped = sum(not has_signal(outcome_rewards(g), loss.advantage) for g in groups)
    return with_kl(Credits(rows, loss.normalizer, skipped_groups=skipped), groups, kl)


def group_credit(group: Group, loss: GrpoLoss, kl_beta: float, reward: RewardConfig, max_tokens: int) -> list[Credit]:
    outcomes_G = outcome_rewards(group)
    lengths = [len(a.completion.ids) for a in group.attempts]
    if not has_signal(outcomes_G, loss.advantage):
        return [no_credit(n) for n in lengths]
    advantages_G = ADVANTAGES[loss.advantage](with_length_penalty(outcomes_G, np.array(lengths), reward, max_tokens))
    dropped_G = np.isnan(outcomes_G) | [loss.overlong == "mask" and a.truncated for a in group.attempts]
    return [
        no_credit(n) if dropped else flat_credit(n, advantage, kl_beta)
        for n, advantage, dropped in zip(lengths, advantages_G, dropped_G, strict=True)
    ]
