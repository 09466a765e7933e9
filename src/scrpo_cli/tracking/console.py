"""The run on the screen: a live display on a terminal, one plain line a step elsewhere, nothing under --quiet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from scrpo_cli.numbers import percent
from scrpo_cli.recipe.models import Recipe

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


class ConsoleSink:
    """Shows steps on a Rich console. `start`: steps already done before this process."""

    def __init__(self, console: Console, recipe: Recipe, start: int = 0) -> None:
        self._console, self._steps = console, recipe.optim.steps
        self._latest: dict[str, float] = {}
        self._accuracy: deque[float] = deque(maxlen=SPARK_STEPS)
        self._evals: list[str] = []
        self._progress, self._bars = _progress(recipe, start, console)
        self._live: Live | None = None
        if console.is_terminal and not console.quiet:
            self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4)
            self._live.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = {**metrics, **_tokens_per_second(metrics)}
        self._latest.update(shown)
        if math.isfinite(metrics.get("first/accuracy", math.nan)):
            self._accuracy.append(metrics["first/accuracy"])
        self._evals += describe_evals(step, metrics)
        self._progress.update(self._bars["steps"], completed=step)
        if "tokens" in self._bars and "tokens/total" in metrics:
            self._progress.update(self._bars["tokens"], completed=metrics["tokens/total"])
        if self._live is None:
            self._say(describe_step(step, self._steps, shown))

    def event(self, text: str) -> None:
        self._say(text)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        if self._live is not None:
            self._live.stop()

    def render(self) -> RenderableType:
        """The live display: bars, the latest numbers, the course of first-answer accuracy, warnings, evaluations."""
        numbers = Table.grid(padding=(0, 2))
        for start in range(0, len(FIELDS), 6):
            cells = [_cell(field, self._latest) for field in FIELDS[start : start + 6]]
            numbers.add_row(*(cell for cell in cells if cell))
        parts: list[RenderableType] = [self._progress, numbers]
        if self._accuracy:
            parts.append(Text(f"first-answer accuracy {sparkline(self._accuracy)} {self._accuracy[-1]:.0%}"))
        if warned := warnings_of(self._latest):
            parts.append(Text(f"warnings {', '.join(warned)}", style="yellow"))
        parts += [Text(line) for line in [*self._evals[:1], *self._evals[1:][-3:]]]
        return Group(*parts)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console)
    bars = {"steps": progress.add_task(recipe.name, total=recipe.optim.steps, completed=start)}
    if recipe.optim.max_generated_tokens:
        bars["tokens"] = progress.add_task("tokens", total=recipe.optim.max_generated_tokens)
    return progress, bars
