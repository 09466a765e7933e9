"""The credit of corrections, which ScRPO (arXiv 2511.06065) and Reflect, Retry, Reward (arXiv 2505.24726) share.

    o_i = (refl_i, sol_i),  r_i = verify(sol_i, a*),  A_i = relative to the corrections of the same error
    m_{i,t} = 1[t in refl_i] * 1[r_i = 1]          `tokens: reflection`, `failed: zero`

An attempt whose grade failed leaves its group; groups without variance of the reward are skipped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    KlConfig,
    Prompts,
    flat_credit,
    no_credit,
    outcome_rewards,
)
from scrpo_cli.methods.parts.advantages import ADVANTAGES, has_signal
from scrpo_cli.methods.parts.kl import LogRatios, with_kl
from scrpo_cli.section import Section
from scrpo_cli.types import Attempt, Credit, Group


class CorrectionLoss(Section):
    tokens: Literal["reflection", "solution", "all"] = "reflection"
    """Which tokens of a correction carry the reward [S]."""
    failed: Literal["zero", "negative"] = "zero"
    """Failed corrections: no gradient (success-conditioned [S]) or their negative advantage (ordinary GRPO)."""
    advantage: Literal["group_norm", "group_mean", "raw"] = "group_norm"
    """As in stage 1 [I]."""
    normalizer: Literal["masked_tokens", "all_tokens", "constant"] = "masked_tokens"
    """As in stage 1; with masked_tokens only the tokens that `tokens` and `failed` leave are counted [I]."""


def correction_credit(
    groups: Sequence[Group],
    loss: CorrectionLoss,
    kl: KlConfig,
    clip: ClipConfig,
    prompts: Prompts,
    overlong: str,
    log_ratios: LogRatios | None,
    group_by: str = "error",
) -> Credits:
    """One row a correction. `group_by: question`: the corrections of all errors of a question share their baseline."""
    advantages = relative_advantages(groups, loss.advantage, group_by)
    rows = [
        no_credit(len(a.completion.ids)) if a_G is None else one_correction(a, float(A), loss, kl, prompts, overlong)
        for group, a_G in zip(groups, advantages, strict=True)
        for a, A in zip(group.attempts, np.zeros(len(group.attempts)) if a_G is None else a_G, strict=True)
    ]
    skipped = sum(a_G is None for a_G in advantages)
    credits = Credits(rows, loss.normalizer, clip, kl.estimator, skipped_groups=skipped)
    return with_kl(credits, groups, kl, log_ratios)


def relative_advantages(groups: Sequence[Group], advantage: str, group_by: str) -> list[np.ndarray | None]:
    """A_i (G,) of each group, None where all its rewards are equal."""
    rewards = [outcome_rewards(g) for g in groups]
    by_error = group_by == "error"
    keys = [i if by_error else (g.request.problem.source, g.request.problem.id) for i, g in enumerate(groups)]
    found: list[np.ndarray | None] = [None] * len(groups)
    for key in dict.fromkeys(keys):
        same = [i for i, k in enumerate(keys) if k == key]
        pooled_N = np.concatenate([rewards[i] for i in same])
        if has_signal(pooled_N, advantage):
            splits = np.cumsum([len(rewards[i]) for i in same])[:-1]
            for i, a_G in zip(same, np.split(ADVANTAGES[advantage](pooled_N), splits), strict=True):
                found[i] = a_G
    return found


def one_correction(
    attempt: Attempt, advantage: float, loss: CorrectionLoss, kl: KlConfig, prompts: Prompts, overlong: str
) -> Credit:
    """Success-conditioned: a failed correction teaches nothing unless `failed: negative`."""
    ids, text = attempt.completion.ids, attempt.completion.text
    failed = attempt.reward != 1 and loss.failed == "zero"
    cut = attempt.truncated and overlong == "mask"
    if np.isnan(advantage) or failed or cut:
        return no_credit(len(ids))
    mask_T = {"reflection": prompts.reflection_mask, "solution": prompts.solution_mask}.get(loss.tokens)
    return flat_credit(len(ids), advantage, kl.beta, mask_T and mask_T(ids, text))
