"""How long a run takes, by what one micro-step of everything took here: arithmetic alone, nothing is run in this file.

With the measured part of a step of phase p, `whole` of which make a step, and E problems of evaluations of which e were
measured:

    a step         whole x (sampling + grading + update + storing) + sync
    steps          optim.steps, or as many as generate optim.max_generated_tokens at the measured lengths, or as many as
                   take optim.max_seconds
    evaluations    E / e x what the measured problems took
    a checkpoint   every checkpoint.every steps

Answers that only the measurement cut off are counted at their cap, each token at what it takes at the longest context.
`at_cap` is the same sum with every answer at its cap and every token at the longest context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scrpo_cli.jobs.budget import Budget, evaluation_times
from scrpo_cli.recipe.models import Recipe


@dataclass(frozen=True)
class Long:
    """Rows of the longest context, as many as one generate call holds. `prefill`: seconds of all their prompts;
    `token`: seconds of one more token for all of them; `alone`: of one more token for one of them.
    """

    rows: int
    context: int
    prefill: float
    token: float
    alone: float

    def of(self, rows: float) -> float:
        """Seconds of one more token for so many rows."""
        return self.alone + max(0.0, self.token - self.alone) * max(0.0, rows - 1) / max(1, self.rows - 1)

    def call(self, tokens: int) -> float:
        """Seconds of one generate call whose answers all have so many tokens."""
        return self.prefill + tokens * self.token


@dataclass(frozen=True)
class Part:
    """What was sampled for real, with the seconds of what was done with it, by name (`sampling`, `grading`, `update`,
    `storing`). `whole` times that is a step of the phase, or all problems of an evaluation.

    `tokens` and `prompt_tokens` are those of its `rows` answers; `live` of the rows earned credit as they were graded;
    `cut` of them reached `limit` tokens, where the measurement stopped and the recipe does not.
    """

    name: str
    whole: float
    rows: int
    tokens: int
    prompt_tokens: int
    seconds: Mapping[str, float]
    limit: int
    cut: int = 0
    live: int = 0

    def length(self, cap: int) -> float:
        """Mean tokens of an answer; what was cut off counts as long as the recipe allows."""
        return (self.tokens + self.cut * (cap - self.limit)) / self.rows


@dataclass(frozen=True)
class Measured:
    """One micro-step of everything on this machine. Memory is in bytes, times are in seconds.

    `update_token`: of a trained token of the longest rows. `sync`: of all that a step asks of the engine beside
    sampling; where it gives back memory during the update, that too. `batch_size` and `microbatch_tokens` are those of
    the recipe, or what was left of them when the memory did not hold them.
    """

    device: str
    engine: str
    start: float
    long: Long
    phases: Sequence[Part]
    evaluation: Part | None
    evaluation_long: Long | None
    update_token: float
    sync: float
    checkpoint: float
    row_bytes: float
    """Of the database, for every token of a stored prompt and answer."""
    peaks: Mapping[str, int]
    memory: int
    """Bytes that there are for this process: what is free, and what it holds."""
    batch_size: int
    microbatch_tokens: int


@dataclass(frozen=True)
class Total:
    """A whole run in which the phases have the shares `mix` of the steps; seconds by part."""

    mix: Mapping[str, float]
    steps: int
    generated_tokens: int
    seconds: Mapping[str, float]
    database: int

    @property
    def all_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def dominant(self) -> tuple[str, float]:
        """The part that takes longest, and its share."""
        name = max(self.seconds, key=lambda part: self.seconds[part])
        return name, self.seconds[name] / self.all_seconds


def totals(recipe: Recipe, budget: Budget, measured: Measured) -> tuple[Total, Total, Total]:
    """The fastest and the slowest run, and the slowest one at the cap."""
    found = [total(recipe, budget, measured, mix) for mix in mixes(recipe, measured)]
    fastest, slowest = (pick(found, key=lambda t: t.all_seconds) for pick in (min, max))
    at_cap = total(recipe, budget, measured, slowest.mix, at_cap=True)
    return fastest, slowest, max(at_cap, slowest, key=lambda t: t.all_seconds)


def mixes(recipe: Recipe, measured: Measured) -> list[Mapping[str, float]]:
    """The shares of the phases: as the settings say, else each phase that samples for itself."""
    if known := recipe.method.schedule(recipe.method.needs(recipe.setting())):
        return [known]
    return [{part.name: 1.0} for part in measured.phases if part.rows and part.tokens]


def total(recipe: Recipe, budget: Budget, measured: Measured, mix: Mapping[str, float], at_cap: bool = False) -> Total:
    """The run whose steps have the shares `mix`; `at_cap`: as if no answer ended before its cap."""
    cap = recipe.rollout.max_tokens
    parts = [(share, part) for part in measured.phases if (share := mix.get(part.name, 0.0))]
    tokens = sum(share * p.whole * p.rows * (cap if at_cap else p.length(cap)) for share, p in parts)
    sampled = float(recipe.optim.steps)  # steps
    if limit := recipe.optim.max_generated_tokens:
        sampled = min(sampled, limit / tokens)  # the last one is cut to fit
    if recipe.optim.max_seconds:
        each = sum(share * sum(step_seconds(measured, part, cap, at_cap).values()) for share, part in parts)
        sampled = min(sampled, recipe.optim.max_seconds / (each + measured.sync))
    times = {"start": measured.start}
    for share, part in parts:
        for name, seconds in step_seconds(measured, part, cap, at_cap).items():
            key = f"{name}, steps '{part.name}'" if name in ("sampling", "update") else name
            times[key] = times.get(key, 0.0) + sampled * share * seconds
    fits, fit = fit_steps(recipe, measured, sampled, parts)
    if fit is not None:
        times[f"update, steps '{fit.name}'"] = fits * fit.whole * fit.seconds["update"]
    steps = math.ceil(sampled) + fits
    times["sync"] = steps * measured.sync
    times["checkpoints"] = math.ceil(steps / recipe.checkpoint.every) * measured.checkpoint
    stored = sampled * sum(share * p.whole * stored_tokens(p, cap, at_cap) for share, p in parts)
    asked, long = measured.evaluation, measured.evaluation_long
    if asked is not None and long is not None:
        evaluated = evaluated_problems(recipe, budget, steps, round(sampled * tokens))
        times["evaluation"] = evaluated * evaluation_seconds(asked, long, eval_cap(recipe), at_cap)
        stored += evaluated * asked.whole * stored_tokens(asked, eval_cap(recipe), at_cap)
    return Total(mix, steps, round(sampled * tokens), times, round(stored * measured.row_bytes))


def step_seconds(measured: Measured, part: Part, cap: int, at_cap: bool) -> dict[str, float]:
    """One step of a phase."""
    seconds = {name: part.whole * taken for name, taken in part.seconds.items()}
    if at_cap:
        seconds["sampling"] = at_the_cap(measured.long, part, cap)
        if "update" in seconds:
            seconds["update"] = part.whole * part.rows * cap * measured.update_token
    elif part.cut:
        seconds["sampling"] += part.whole * cut_off(part, measured.long, cap)
        seconds["update"] = seconds.get("update", 0.0) * part.length(cap) * part.rows / part.tokens
    return seconds


def cut_off(part: Part, long: Long, cap: int) -> float:
    """Seconds of what the measurement left out: the answers that it cut off, all of them to the cap."""
    return (cap - part.limit) * long.of(part.cut) if part.cut else 0.0


def at_the_cap(long: Long, part: Part, cap: int) -> float:
    """Seconds of sampling all rows of a part, every one to the cap, in full generate calls."""
    return part.whole * part.rows / long.rows * long.call(cap)


def fit_steps(
    recipe: Recipe, measured: Measured, steps: float, parts: Sequence[tuple[float, Part]]
) -> tuple[int, Part | None]:
    """Steps that fit what was collected, at most: as if every answer became an example."""
    fit = next((part for part in measured.phases if not part.tokens), None)
    how = recipe.method.fitting
    if fit is None or how is None:
        return 0, None
    examples = steps * sum(share * part.whole * part.rows for share, part in parts) / how.completions
    return min(max(0, recipe.optim.steps - math.ceil(steps)), math.ceil(how.passes * examples / how.batch)), fit


def stored_tokens(part: Part, cap: int, at_cap: bool) -> float:
    """Of the prompts and answers of a part."""
    return part.prompt_tokens + part.rows * (cap if at_cap else part.length(cap))


def eval_cap(recipe: Recipe) -> int:
    return recipe.eval.max_tokens or recipe.rollout.max_tokens


def evaluated_problems(recipe: Recipe, budget: Budget, steps: int, tokens: int) -> float:
    """Problems of all evaluations, in units of those of the first split: `Part.whole` is counted in these."""
    work = budget.evaluation
    if work is None:
        return 0.0
    times = evaluation_times(recipe, steps, tokens)
    first = work.problems[next(iter(work.times))]
    return sum(often * work.problems[split] for split, often in times.items()) / first


def evaluation_seconds(part: Part, long: Long, cap: int, at_cap: bool) -> float:
    """One evaluation of the first split."""
    if at_cap:
        return at_the_cap(long, part, cap) + part.whole * (sum(part.seconds.values()) - part.seconds["sampling"])
    return part.whole * (sum(part.seconds.values()) + cut_off(part, long, cap))
