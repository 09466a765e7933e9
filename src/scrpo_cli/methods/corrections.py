"""The credit of corrections, which ScRPO (arXiv 2511.06065) and Reflect, Retry, Reward (arXiv 2505.24726) share.

    o_i = (refl_i, sol_i),  r_i = verify(sol_i, a*),  A_i = relative to the corrections of the same error
    m_{i,t} = 1[t in refl_i] * 1[r_i = 1]          `tokens: reflection`, `failed: zero`

An attempt whose grade failed leaves its group; groups without signal are skipped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.methods.advantages import ADVANTAGES, has_signal
from scrpo_cli.methods.base import Credits, Prompts, flat_credit, no_credit, outcome_rewards
from scrpo_cli.methods.kl import with_kl
from scrpo_cli.recipe.methods import KlConfig, ScrpoLoss
from scrpo_cli.types import Attempt, Credit, Group


def correction_credit(
    groups: Sequence[Group], loss: ScrpoLoss, kl: KlConfig, prompts: Prompts, overlong: str, group_by: str = "error"
) -> Credits:
    """One row a correction. `group_by: question`: the corrections of all errors of a question share their baseline."""
    advantages = relative_advantages(groups, loss.advantage, group_by)
    rows = [
        no_credit(len(a.completion.ids)) if a_G is None else one_correction(a, float(A), loss, kl, prompts, overlong)
        for group, a_G in zip(groups, advantages, strict=True)
        for a, A in zip(group.attempts, np.zeros(len(group.attempts)) if a_G is None else a_G, strict=True)
    ]
    skipped = sum(a_G is None for a_G in advantages)
    return with_kl(Credits(rows, loss.normalizer, loss.stage2_weight, skipped), groups, kl)


def relative_advantages(groups: Sequence[Group], advantage: str, group_by: str) -> list[np.ndarray | None]:
    """A_i (G,) of each group, None without signal."""
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
    attempt: Attempt, advantage: float, loss: ScrpoLoss, kl: KlConfig, prompts: Prompts, overlong: str
) -> Credit:
    """Success-conditioned: a failed correction teaches nothing unless `failed: negative`."""
    ids, text = attempt.completion.ids, attempt.completion.text
    failed = attempt.reward != 1 and loss.failed == "zero"
    cut = attempt.truncated and overlong == "mask"
    if np.isnan(advantage) or failed or cut:
        return no_credit(len(ids))
    return flat_credit(len(ids), advantage, kl.beta, token_mask(ids, text, loss.tokens, prompts))


def token_mask(ids: Sequence[int], text: str, tokens: str, prompts: Prompts) -> np.ndarray:
    """(T,) m of the switch `tokens`."""
    if tokens == "all":
        return np.ones(len(ids), dtype=np.float32)
    reflection_T = prompts.reflection_mask(ids, text)
    return reflection_T if tokens == "reflection" else 1 - reflection_T
