"""Which wrong attempts enter the error pool, and which entries leave it: pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.parts.rewards import RewardConfig, with_length_penalty
from scrpo_cli.rng import generator
from scrpo_cli.section import Number, PositiveInt, Section, Share
from scrpo_cli.types import KEPT, Group, PoolEntry


class FilterConfig(Section):
    """Which errors may enter the pool, decided on their group (ScRPO's variance-based filter [S])."""

    mode: Literal["variance", "pass_rate_band", "nonzero", "none"] = "variance"
    """By var_min; by band; not all right and not all wrong; every error."""
    var_min: Annotated[float, Field(ge=0, le=0.25)] = 0.10
    """Population variance p(1-p) of the binary reward, inclusive [I]."""
    band: tuple[Share, Share] = (0.125, 0.875)
    """Inclusive pass-rate band of `pass_rate_band` [I]."""
    reward: Literal["correctness", "total"] = "correctness"
    """What `mode` looks at: right or wrong, or method.reward, length penalty included [I]."""
    all_wrong: Literal["by_mode", "admit", "only"] = "by_mode"
    """Errors of groups without any right answer: as `mode` says; admitted beside those that `mode` keeps; or only
    they, and `mode` is not asked [I]."""

    @model_validator(mode="after")
    def _admits_something(self) -> FilterConfig:
        if self.all_wrong == "admit" and self.mode == "none":
            what = "method.filter.all_wrong: admit has no effect where method.filter.mode is none"
            raise ValueError(f"{what}, which keeps every error")
        return self

    @field_validator("band")
    @classmethod
    def _low_to_high(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] > band[1]:
            raise ValueError("method.filter.band is [low, high]: this one keeps nothing")
        return band


class PoolConfig(Section):
    per_prompt: PositiveInt | Literal["all"] = 1
    """How many wrong answers of one group are kept, uniformly [I]."""
    include_truncated: bool = False
    """Whether answers that were cut off count as errors [I]."""
    capacity: PositiveInt | None = None
    """Most entries alive at once; none: 4 x the reflection batch [I]."""
    evict: Literal["fifo", "random"] = "fifo"
    """Who leaves a full pool: the oldest, or a uniform draw [I]."""
    consume: Literal["once", "until_solved", "keep"] = "once"
    """An error leaves the pool after one use; once a correction of it was right; by age or eviction only [I]."""
    max_age_steps: PositiveInt | None = 50
    """Older errors are retired unused; none: no limit [I]."""
    diversity: Literal["none", "problem", "answer", "error_kind"] = "none"
    """What the errors of one reflection step are spread over, as evenly as the pool allows [I]: nothing; problems;
    wrong answers to a problem; kinds of error, where the task can tell them."""


class PoolGateConfig(Section):
    """Which pooled errors a reflection step may draw."""

    signal: Literal["none", "mean_logprob"] = "none"
    """mean_logprob: of all tokens of the error, as they were sampled; none: no gate [I]."""
    threshold: Number = 0.0
    """Errors with a lower one are reflected on, and those without one (nobody sampled them) [I]."""


@dataclass(frozen=True)
class PoolRules:
    """By which wrong answers enter a pool."""

    filter: FilterConfig
    pool: PoolConfig
    reward: RewardConfig


ROUNDING = 1e-9  # thresholds are inclusive


def decisions(groups: Sequence[Group], cfg: PoolRules, max_tokens: int, seed: int, step: int) -> dict[str, str]:
    """Attempt id -> decision for every wrong attempt of a step; `max_tokens` is where the length penalty ends."""
    found: dict[str, str] = {}
    for i, group in enumerate(groups):
        rewards_G = outcome_rewards(group)
        if cfg.filter.reward == "total":
            lengths_G = np.array([len(a.completion.ids) for a in group.attempts])
            rewards_G = with_length_penalty(rewards_G, lengths_G, cfg.reward, max_tokens)
        found |= admit(group, rewards_G, cfg.filter, cfg.pool, seed, step, i)
    return found


def group_decision(rewards_G: np.ndarray, cfg: FilterConfig, all_wrong: bool = False) -> str:
    """`kept`, or why no error of this group may enter the pool. NaN rewards (grader failures) do not count; `all_wrong`
    says that no answer of the group is right, whatever its rewards are.

    For a binary reward the population variance is p(1-p): a threshold on it is a band around p = 1/2.
    """
    if all_wrong and cfg.all_wrong != "by_mode":
        return KEPT
    if cfg.all_wrong == "only":
        return "some_right"
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
    decision = group_decision(rewards_G, flt, all_wrong=not group.rewards_G.any())
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


MEANINGS = {
    "too_hard": "most answers of the group are wrong",
    "too_easy": "most answers of the group are right",
    "some_right": "an answer of the group is right",
    "truncated": "cut off at rollout.max_tokens, so not an error of reasoning",
    "not_drawn": "others of the group were drawn",
    "no_room": "others of the step were drawn, which fill the pool",
}
"""Why an error was not kept."""


def reasons(decided: Iterable[str], cfg: PoolRules) -> dict[str, str]:
    """Decision -> why, with the rule of `cfg`, such an error was not kept; of those in `decided`."""
    flt, pool = cfg.filter, cfg.pool
    rule = {
        "variance": f"the variance of the group's rewards is below method.filter.var_min = {flt.var_min:g}",
        "pass_rate_band": f"the group's mean reward is outside of method.filter.band = {list(flt.band)}",
        "nonzero": "all rewards of the group are equal (method.filter.mode = nonzero)",
        "none": "",
    }[flt.mode]
    rules = {
        "too_hard": rule,
        "too_easy": rule,
        "some_right": f"method.filter.all_wrong = {flt.all_wrong}",
        "truncated": "method.pool.include_truncated = false",
        "not_drawn": f"method.pool.per_prompt = {pool.per_prompt}",
        "no_room": "method.pool.capacity",
    }
    return {name: f"{MEANINGS[name]} ({rules[name]})" for name in decided if name in MEANINGS}


def said(counts: Mapping[str, int]) -> str:
    """`13 of 61 errors kept: 30 not drawn, 18 too hard`, from the number of errors by decision."""
    others = [f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if name != KEPT]
    why = f": {', '.join(others)}" if others else ""
    return f"{counts.get(KEPT, 0):,} of {sum(counts.values()):,} errors kept{why}"


def expired(living: Sequence[PoolEntry], step: int, max_age_steps: int | None) -> list[str]:
    """Entries older than the limit."""
    if max_age_steps is None:
        return []
    return [e.attempt_id for e in living if step - e.added_step > max_age_steps]


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


def injected_wanted(own: int, share: float, capacity: int) -> int:
    """How many injected errors beside `own` others make up `share` of the pool, within its capacity."""
    return min(round(share * own / (1 - share)), max(0, capacity - own))
