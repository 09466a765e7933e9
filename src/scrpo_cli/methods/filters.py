"""Which wrong attempts enter the error pool, and which entries leave it: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scrpo_cli.recipe.methods import FilterConfig, PoolConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import KEPT, Attempt, Group, PoolEntry, Verdict


def group_decision(rewards_G: np.ndarray, cfg: FilterConfig) -> str:
    """`kept`, or why no error of this group may enter the pool. NaN rewards (grader failures) do not count.

    For a binary reward the population variance is p(1-p): a threshold on it is a band around p = 1/2.
    """
    valid_G = rewards_G[~np.isnan(rewards_G)]
    p = float(valid_G.mean()) if valid_G.size else 0.0
    too_far = "too_hard" if p < 0.5 else "too_easy"
    if cfg.mode == "variance":
        return KEPT if p * (1 - p) >= cfg.var_min else too_far
    if cfg.mode == "pass_rate_band":
        return KEPT if cfg.band[0] <= p <= cfg.band[1] else too_far
    if cfg.mode == "nonzero":
        return KEPT if 0 < p < 1 else too_far
    return KEPT


def is_reasoning_error(attempt: Attempt) -> bool:
    """Wrong or without an answer; a grader's timeout or failure says nothing about the reasoning."""
    return attempt.grade.verdict in (Verdict.WRONG, Verdict.UNPARSABLE)


def admit(
    group: Group, rewards_G: np.ndarray, flt: FilterConfig, pool: PoolConfig, seed: int, step: int, index: int
) -> dict[str, str]:
    """Attempt id -> decision for every wrong attempt of a group; `kept` ones are drawn uniformly among the eligible."""
    wrong = [a for a in group.attempts if is_reasoning_error(a)]
    decision = group_decision(rewards_G, flt)
    if decision != KEPT:
        return {a.id: decision for a in wrong}
    decisions = {a.id: "truncated" for a in wrong if a.truncated and not pool.include_truncated}
    eligible = [a.id for a in wrong if a.id not in decisions]
    room = len(eligible) if pool.per_prompt == "all" else min(pool.per_prompt, len(eligible))
    drawn = generator(seed, step, "admit", index).permutation(len(eligible))[:room]
    chosen = {eligible[i] for i in drawn}
    return decisions | {a: KEPT if a in chosen else "not_drawn" for a in eligible}


def expired(waiting: Sequence[PoolEntry], step: int, max_age_steps: int | None) -> list[str]:
    """Entries older than the limit."""
    if max_age_steps is None:
        return []
    return [e.attempt_id for e in waiting if step - e.added_step > max_age_steps]


def evicted(alive: Sequence[PoolEntry], newcomers: int, capacity: int, how: str, seed: int, step: int) -> list[str]:
    """Entries that must leave so that `newcomers` fit: the oldest (fifo) or uniformly drawn ones."""
    excess = min(len(alive), max(0, len(alive) + newcomers - capacity))
    if how == "fifo":
        return [e.attempt_id for e in alive[:excess]]
    drawn = generator(seed, step, "evict").permutation(len(alive))[:excess]
    return [alive[i].attempt_id for i in sorted(drawn)]
