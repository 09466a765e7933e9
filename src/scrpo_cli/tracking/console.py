"""The run on the screen: a live display on a terminal, one plain line a step elsewhere, nothing under --quiet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from scrpo_cli.methods.base import PhaseKind
from scrpo_cli.numbers import percent
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.activity import now

FIELDS = (
    ("reward", "first/reward", "{:.2f}"),
    ("accuracy", "first/accuracy", "{:.0%}"),
    ("second answer", "turns/t2", "{:.0%}"),
    ("fix rate", "reflect/fix_rate", "{:.0%}"),
    ("pool", "pool/size", "{:.0f}"),
    ("pool age", "pool/age", "{:.1f}"),
    ("skipped", "groups/skipped_share", "{:.0%}"),
    ("truncated", "first/truncated", "{:.0%}"),
    ("KL", "train/kl", "{:.2g}"),
    ("entropy", "train/entropy", "{:.2f}"),
    ("grad norm", "train/grad_norm", "{:.2g}"),
    ("tokens/s", "tokens/s", "{:,.0f}"),
)
"""Label, metric and format of what is shown of a step; `tokens/s` is derived here."""

SECONDS = ("seconds/sample", "seconds/grade", "seconds/train")
BARS = "▁▂▃▄▅▆▇█"
SPARK_STEPS = 40
ENOUGH = 3
"""Steps that show the pace of a run [I]."""
IN_A_ROW = 4  # numbers side by side, which 80 columns can hold


class ConsoleSink:
    """Shows steps on a Rich console; on a terminal as a panel over what is being done. `start`: steps already done
    before this process.
    """

    def __init__(self, console: Console, recipe: Recipe, start: int = 0) -> None:
        self._console, self._steps = console, recipe.optim.steps
        self._latest: dict[str, float] = {}
        self._accuracy: deque[float] = deque(maxlen=SPARK_STEPS)
        self._evals: list[str] = []
        self._progress, self._bars = _progress(recipe, start, console)
        self._pace = Pace(recipe, start)
        self._panel = console.is_interactive and not console.quiet
        if self._panel:
            now().panel = self.render

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = {**metrics, **_tokens_per_second(metrics)}
        self._latest.update(shown)
        if math.isfinite(metrics.get("first/accuracy", math.nan)):
            self._accuracy.append(metrics["first/accuracy"])
        self._evals += describe_evals(step, metrics)
        self._pace.log(step, metrics)
        self._progress.update(self._bars["steps"], completed=step)
        if "tokens" in self._bars and "tokens/total" in metrics:
            self._progress.update(self._bars["tokens"], completed=metrics["tokens/total"])
        if not self._panel:
            self._say("  ".join(filter(None, (describe_step(step, self._steps, shown), self._pace.left()))))
        if "seconds/step" in metrics and (line := self._pace.over_a_day()):
            self._say(line)

    def event(self, text: str) -> None:
        self._say(text)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        if self._panel:
            now().panel = None
            now().clear()
            self._console.print(self.render())

    def render(self) -> RenderableType:
        """Bars, the time left, the latest numbers, the course of first-answer accuracy, warnings, evaluations."""
        numbers = Table.grid(padding=(0, 2))
        for start in range(0, len(FIELDS), IN_A_ROW):
            cells = [_cell(field, self._latest) for field in FIELDS[start : start + IN_A_ROW]]
            numbers.add_row(*(cell for cell in cells if cell))
        parts: list[RenderableType] = [self._progress, Text(self._pace.left()), numbers]
        if self._accuracy:
            parts.append(Text(f"first-answer accuracy {sparkline(self._accuracy)} {self._accuracy[-1]:.0%}"))
        if warned := warnings_of(self._latest):
            parts.append(Text(f"warnings {', '.join(warned)}", style="yellow"))
        parts += [Text(line) for line in [*self._evals[:1], *self._evals[1:][-3:]]]
        return Group(*parts)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
        now().spoke()


class Pace:
    """How long it still takes to the limit that is reached first: optim.steps, optim.max_generated_tokens or
    optim.max_seconds (of a run that was taken up again it is not known here how many are over).
    """

    def __init__(self, recipe: Recipe, start: int = 0) -> None:
        self._steps, self._done, self._seen = recipe.optim.steps, start, 0
        self._seconds = self._sampled = self._total = 0.0  # both first of the steps seen; all tokens of the run
        phases = recipe.method.needs(recipe.setting()).phases.values()
        self._fits = any(phase.kind is PhaseKind.FIT for phase in phases)
        """What is sampled is fitted afterwards: the method ends by itself, at a step that nobody knows beforehand."""
        self._tokens = None if self._fits else recipe.optim.max_generated_tokens
        self._limit = None if start else recipe.optim.max_seconds

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Evaluations, which have no seconds of their own, are passed over."""
        if "seconds/step" not in metrics:
            return
        self._done, self._seen = step, self._seen + 1
        self._seconds += metrics["seconds/step"]
        self._sampled += metrics.get("rollout/tokens", 0.0)
        self._total = metrics.get("tokens/total", 0.0)

    def left(self) -> str:
        """`about 0:04:10 left (steps)`; empty before the first step and after the last."""
        left, limit = self.reckoned()
        return f"{'at most' if self._fits else 'about'} {left} left ({limit})" if limit else ""

    def over_a_day(self) -> str:
        """Said once, when a few steps have shown the pace; empty otherwise."""
        left, _ = self.reckoned()
        if self._seen != ENOUGH or self._fits or left <= timedelta(days=1):
            return ""
        what = f"Over a day: about {left} left at the pace of {ENOUGH} steps, evaluations not counted"
        return f"{what}. `scrpo train --dry-run --measure` with its recipe says what would change that."

    def reckoned(self) -> tuple[timedelta, str]:
        """The time, and the limit that is reached then; no limit before the first step and after the last."""
        if not self._seen:
            return timedelta(), ""
        steps, limit = self._steps - self._done, "steps"
        if self._tokens and self._sampled:
            by_tokens = math.ceil((self._tokens - self._total) / (self._sampled / self._seen))
            steps, limit = min((steps, limit), (by_tokens, "tokens"))
        if self._limit:
            by_seconds = math.ceil((self._limit - self._seconds) * self._seen / self._seconds)
            steps, limit = min((steps, limit), (by_seconds, "seconds"))
        return (timedelta(seconds=round(steps * self._seconds / self._seen)), limit) if steps > 0 else (timedelta(), "")


def describe_step(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """One plain line: `step 3/60  reward 0.42  accuracy 42%  ...`, with what this step measured."""
    parts = list(filter(None, (_cell(field, metrics) for field in FIELDS)))
    return "  ".join([f"step {step}/{steps}", *parts, *describe_evals(step, metrics)])


def warnings_of(metrics: Mapping[str, float]) -> list[str]:
    """The monitors that fire. The line that says why comes once, as an event, when one begins to."""
    return [name.removeprefix("warn/") for name, value in metrics.items() if name.startswith("warn/") and value == 1]


def describe_evals(step: int, metrics: Mapping[str, float]) -> list[str]:
    """`eval at step 40: 55.1% [48.0, 62.2], repairs 41.0%` for each evaluation that the metrics hold."""
    return [describe_eval(step, metrics, kind) for kind in ("eval", "validation") if f"{kind}/accuracy" in metrics]


def describe_eval(step: int, metrics: Mapping[str, float], kind: str = "eval") -> str:
    low, high = (metrics.get(f"{kind}/accuracy_{end}") for end in ("lo", "hi"))
    ci95 = None if low is None or high is None else (low, high)
    text = f"{kind} at step {step}: {percent(metrics[f'{kind}/accuracy'], ci95)}"
    repairs = metrics.get(f"{kind}/repair_rate")
    text = text if repairs is None else f"{text}, repairs {percent(repairs)}"
    n, of = metrics.get(f"{kind}/left_out"), metrics.get(f"{kind}/left_out_of")
    return f"{text}, {n:.0f} of {of:.0f} answers left out" if n and of else text


def sparkline(values: deque[float]) -> str:
    """Shares between 0 and 1 as bars of eight heights."""
    return "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in values)


def _cell(field: tuple[str, str, str], metrics: Mapping[str, float]) -> str:
    label, name, form = field
    return f"{label} {form.format(metrics[name])}" if name in metrics else ""


def _tokens_per_second(metrics: Mapping[str, float]) -> dict[str, float]:
    seconds = sum(metrics.get(name, 0.0) for name in SECONDS)
    return {"tokens/s": metrics["rollout/tokens"] / seconds} if seconds and "rollout/tokens" in metrics else {}


def _progress(recipe: Recipe, start: int, console: Console) -> tuple[Progress, dict[str, Any]]:
    """Bars over the steps and, when the recipe has one, over the token budget."""
    progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console)
    bars = {"steps": progress.add_task(recipe.name, total=recipe.optim.steps, completed=start)}
    if recipe.optim.max_generated_tokens:
        bars["tokens"] = progress.add_task("tokens", total=recipe.optim.max_generated_tokens)
    return progress, bars
