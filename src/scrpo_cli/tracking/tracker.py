"""The one object that a run logs through. It hands every step to the sinks: file first, then screen, then W&B.

Metric names are `group/name` and are listed in docs/quickstart.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.jsonl import JsonlSink
from scrpo_cli.tracking.published import Published
from scrpo_cli.tracking.wandb_sink import Place, WandbSink, resolve_mode

if TYPE_CHECKING:
    from rich.console import Console


class Sink(Protocol):
    """Somewhere that steps are written to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def event(self, text: str) -> None: ...

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None: ...


class HasConsole(Protocol):
    """What `cli.common.Output` offers: a Rich console on stderr, silent under --quiet."""

    @property
    def console(self) -> Console: ...


class Tracker:
    """Use it as a context manager: an exception finishes the sinks too, and marks the run as failed."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)
        self._finished = False
        self.file: JsonlSink | None = None
        """metrics.jsonl, when `open` made it."""
        self.wandb: WandbSink | None = None

    @classmethod
    def open(
        cls,
        run_dir: Path,
        run_id: str,
        recipe: Recipe,
        *,
        resume_step: int | None = None,
        console: HasConsole | None = None,
        place: Place = Place(),
    ) -> Tracker:
        """`resume_step`: the last step that the resumed checkpoint holds; later lines of metrics.jsonl are dropped (-1:
        all of them, None: none).
        """
        file = JsonlSink(run_dir, resume_step)
        tracker = cls([file])
        tracker.file = file
        if console is not None:
            from scrpo_cli.tracking.console import ConsoleSink

            tracker._sinks.append(ConsoleSink(console.console, recipe, start=max(resume_step or 0, 0)))
        mode = resolve_mode(recipe.tracking.wandb.mode)
        if mode != "off":
            tracker.wandb = WandbSink(run_dir, run_id, recipe, mode, tracker.event, place)
            tracker._sinks.append(tracker.wandb)
        return tracker

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record what was measured at `step` (numbers, 0-d arrays or tensors): the step itself, or an evaluation."""
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.log(step, numbers)

    def event(self, text: str) -> None:
        """A line for the reader: resumed, saved, evaluated, warned."""
        for sink in self._sinks:
            sink.event(text)

    def publish(self, make: Callable[[], Published]) -> None:
        """To W&B, where the run goes there: only then it is made."""
        if self.wandb is not None:
            self.wandb.publish(make())

    def finish(self, summary: Mapping[str, Any], failed: bool = False) -> None:
        """Close every sink, W&B first, so that what it has to say still reaches the screen. Safe to call twice."""
        if self._finished:
            return
        self._finished = True
        for sink in reversed(self._sinks):
            sink.finish(summary, failed)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish({}, failed=kind is not None)
