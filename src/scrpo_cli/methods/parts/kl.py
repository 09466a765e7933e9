"""The KL penalty inside the reward (`kl.estimator: k1`), as REINFORCE writes it (arXiv 2402.14740; SCoRe, Eq. 2).

    R_i = r_i - sum_t beta_t (log pi(o_t) - log pi_ref(o_t)),   A_i = R_i - baseline of the others

The log-ratio is a number here, not a term of the loss: its policy gradient is that of KL(policy||ref) over whole
completions, what a token does to later ones included.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from scrpo_cli.methods.base import Credits, KlConfig
from scrpo_cli.types import Credit, Group

LogRatios = Sequence[np.ndarray]
"""(T,) log pi - log pi_ref of every completion."""


def in_reward(kl: KlConfig) -> bool:
    """Whether the credit depends on log-ratios."""
    return kl.estimator == "k1" and kl.beta > 0


def with_kl(credits: Credits, groups: Sequence[Group], kl: KlConfig, log_ratios: LogRatios | None) -> Credits:
    """Credits of `groups` with the KL where the recipe wants it: inside the reward (k1), or left in the loss."""
    if not in_reward(kl):
        return credits
    assert log_ratios is not None
    return kl_in_reward(credits, [i for i, group in enumerate(groups) for _ in group.attempts], log_ratios)


def kl_in_reward(credits: Credits, baselines: Sequence[Hashable], log_ratios: LogRatios) -> Credits:
    """Credits whose KL coefficients have become part of the advantage.

    `baselines` names the group of each row: from a row's penalty the mean penalty of the others in its group is taken,
    which leaves the gradient unbiased. Rows without a trained token have no penalty and are nobody's baseline.
    """
    rows = credits.rows
    penalties = np.array([float((c.kl_T * c.mask_T * r).sum()) for c, r in zip(rows, log_ratios, strict=True)])
    trained = np.array([bool(c.mask_T.any()) for c in rows])
    number = {key: n for n, key in enumerate(dict.fromkeys(baselines))}
    keys = np.array([number[key] for key in baselines])
    excess = [relative(penalties, trained & (keys == keys[i]), i) for i in range(len(rows))]
    settled = [
        replace(c, advantage_T=c.advantage_T - np.float32(e), kl_T=np.zeros_like(c.kl_T))
        for c, e in zip(rows, excess, strict=True)
    ]
    return replace(credits, rows=settled, metrics={**credits.metrics, **measured(rows, log_ratios)})


def measured(rows: Sequence[Credit], log_ratios: LogRatios) -> dict[str, float]:
    """KL of the trained tokens (nats) before the update, of all rows and of each part: mean over tokens, and mean over
    rows of their sum.
    """
    found = {}
    for part in sorted({c.part for c in rows} | {""}):
        mine = [(c.mask_T, r) for c, r in zip(rows, log_ratios, strict=True) if c.mask_T.any() and part in ("", c.part)]
        if mine:
            total, name = sum(float((m * r).sum()) for m, r in mine), f"train/kl_{part}" if part else "train/kl"
            found[name] = total / sum(float(m.sum()) for m, _ in mine)
            found[f"{name}_sequence"] = total / len(mine)
    return found


def relative(penalties: np.ndarray, group: np.ndarray, i: int) -> float:
    """Row i's penalty less the mean of the other rows of its group; its own penalty where it is alone."""
    others = group.copy()
    others[i] = False
    return float(penalties[i] - (penalties[others].mean() if others.any() else 0.0))
