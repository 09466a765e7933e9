"""Which wrong attempts enter the error pool, and which entries leave it: pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.shaping import with_length_penalty
from scrpo_cli.recipe.gate import PoolGateConfig
from scrpo_cli.recipe.methods import FilterConfig, PoolConfig, ScrpoConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import KEPT, Group, PoolEntry

ROUNDING = 1e-9  # thresholds are inclusive


def decisions(groups: Sequence[Group], cfg: ScrpoConfig, max_tokens: int, seed: int, step: int) -> dict[str, str]:
    """Attempt id -> decision for every wrong attempt of a step; `max_tokens` is where the length penalty ends."""
    found: dict[str, str] = {}
    for i, group in enumerate(groups):
        rewards_G = outcome_rewards(group)
        if cfg.filter.reward == "total":
            lengths_G = np.array([len(a.completion.ids) for a in group.attempts])
            rewards_G = with_length_penalty(rewards_G, lengths_G, cfg.reward, max_tokens)
        found |= admit(group, rewards_G, cfg.filter, cfg.pool, seed, step, i)
    return found


def group_decision(rewards_G: np.ndarray, cfg: FilterConfig) -> str:
    """`kept`, or why no error of this group may enter the pool. NaN rewards (grader failures) do not count.

    For a binary reward the population variance is p(1-p): a threshold on it is a band around p = 1/2.
    """
    valid_G = rewards_G[~np.isnan(rewards_G)]
    mean, variance = (float(valid_G.mean()), float(valid_G.var())) if valid_G.size else (0.0, 0.0)
    keeps = {
        "variance": variance >= cfg.var_min - ROUNDING,
        "pass_rate_band": cfg.band[0] - ROUNDING <= mean <= cfg.band[1] + ROUNDING,
        "nonzero": variance > ROUNDING,
        "none": True,
    }[cfg.mode]
    return KEPT if keeps else "too_hard" if mean < 0.5 else "too_easy"


def admit(
    group: Group, rewards_G: np.ndarray, flt: FilterConfig, pool: PoolConfig, seed: int, step: int, index: int
) -> dict[str, str]:
    """Attempt id -> decision for every wrong attempt of a group; `kept` ones are drawn uniformly among the eligible."""
    wrong = [a for a in group.attempts if a.is_reasoning_error]
    decision = group_decision(rewards_G, flt)
    if decision != KEPT:
        return {a.id: decision for a in wrong}
    decisions = {a.id: "truncated" for a in wrong if a.truncated and not pool.include_truncated}
    eligible = [a.id for a in wrong if a.id not in decisions]
    room = len(eligible) if pool.per_prompt == "all" else min(pool.per_prompt, len(eligible))
    drawn = generator(seed, step, "admit", index).permutation(len(eligible))[:room]
    chosen = {eligible[i] for i in drawn}
    return decisions | {a: KEPT if a in chosen else "not_drawn" for a in eligible}


def bounded(decided: dict[str, str], capacity: int, seed: int, step: int) -> dict[str, str]:
    """The decisions where no more than `capacity` errors enter: of more a uniform draw, and the others have no room."""
    kept = [a for a, decision in decided.items() if decision == KEPT]
    drawn = generator(seed, step, "room").permutation(len(kept))[: max(0, capacity)]
    chosen = {kept[i] for i in drawn}
    return {a: "no_room" if d == KEPT and a not in chosen else d for a, d in decided.items()}


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


def worth_reflecting(entry: PoolEntry, gate: PoolGateConfig) -> bool:
    """Whether the gate lets a reflection step draw this error: the model was less sure of it than the threshold, or
    nothing is known of how sure it was.
    """
    return gate.signal == "none" or entry.confidence is None or entry.confidence < gate.threshold


def spread(keys: Sequence[Hashable], count: int, rng: np.random.Generator) -> list[int]:
    """`count` places of `keys` drawn so that distinct keys are drawn as evenly as their numbers allow: the keys take
    turns in a random order. With one key for all it is a uniform draw.
    """
    piles: dict[Hashable, list[int]] = {}
    for i in rng.permutation(len(keys)):
        piles.setdefault(keys[i], []).append(int(i))
    shuffled = list(piles.values())
    order = [shuffled[k] for k in rng.permutation(len(shuffled))]
    longest = max(map(len, order), default=0)
    return [pile[turn] for turn in range(longest) for pile in order if turn < len(pile)][:count]
