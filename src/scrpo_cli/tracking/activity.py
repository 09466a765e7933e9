"""What the program is doing right now, said on stderr: a live line on a terminal, plain lines elsewhere.

There is one screen, so there is one activity, which whoever works describes without being handed it, as one logs:

    now().stage("loading the model tiny")                        # something long begins: a line at once
    with now().doing("evaluating"), now().doing("repairs"):      # a line only where none has come for a while
        now().progress(32, 100)                                  # "evaluating, repairs: 32/100"
    now().whole(64, 1000)                                        # so much of everything: "..., about 0:04:10 left"

The time left is told from the pace so far: of everything, where that is known, else of what is being counted. What goes
on without a word (an import, one long batch) is said again after a while, with how long it has taken.

Nothing is shown under --quiet, and in scripts and tests that have no command line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from scrpo_cli.signals import shielded

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Item = TypeVar("Item")
LIBRARIES = "loading torch, transformers and peft"
EVERY_S = 5.0
"""Seconds after which another plain line is due."""
SILENCE_S = 10.0
"""Seconds after which what is still the same is said with its duration, in plain lines for the first time and then ever
more rarely, lest somebody think that nothing moves.
"""


SOON_S = 5.0
"""What takes less than this is not worth an estimate, nor is one made from less than so many seconds' work."""


class Countdown:
    """The time that is left of a count, from its pace since it began."""

    def __init__(self, done: float, total: float, at: float) -> None:
        self._start, self._began_at = done, at
        self.total = total
        self.move(done, at)

    def move(self, done: float, at: float) -> None:
        self.done, self._at = done, at

    def left(self, at: float) -> float:
        """Seconds, at the time `at`; 0 as long as nothing can be said."""
        worked, seconds = self.done - self._start, self._at - self._began_at
        if worked <= 0 or seconds < SOON_S:
            return 0.0
        return max(0.0, (self.total - self.done) * seconds / worked - (at - self._at))


class Activity:
    """Where activities are shown; without a console, nowhere. `panel`, where it is set, stands above the live line."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = None if console is None or console.quiet else console
        self.panel: Callable[[], RenderableType] | None = None
        self._clock, self._spoke_at = clock, clock()
        self._changed_at = self._spoke_at
        self._over: threading.Event | None = None
        self._names: list[str] = []  # the parts after the whole
        self._count: Countdown | None = None
        self._whole: Countdown | None = None
        self._live: Live | None = None

    @property
    def text(self) -> str:
        count = f": {self._count.done:,}/{self._count.total:,}" if self._count else ""
        return ", ".join(self._names) + count + self._left()

    def _left(self) -> str:
        countdown = self._whole or self._count
        seconds = countdown.left(self._clock()) if countdown else 0.0
        return f", about {timedelta(seconds=round(seconds))} left" if seconds >= SOON_S else ""

    @property
    def lasting(self) -> str:
        """The text, with how long nothing has changed if that is long."""
        seconds = self._clock() - self._changed_at
        return self.text if seconds < SILENCE_S else f"{self.text} (for {timedelta(seconds=int(seconds))})"

    def stage(self, text: str, at_once: bool = True) -> None:
        """Something else begins. Not `at_once`: it may be over in a moment, so its plain line comes when one is due."""
        self._names, self._count = [text], None
        self._show(at_once)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """A part of it, for as long as the context lasts."""
        before = self._names, self._count
        self._names, self._count = [*self._names, text], None
        self._show()
        try:
            yield
        finally:
            self._names, self._count = before

    def progress(self, done: int, total: int) -> None:
        """So much of what is being done is done."""
        self._count = self._moved(self._count, done, total)
        self._show()

    def whole(self, done: float, total: float) -> None:
        """So much of everything is done that is worth an estimate: the problems of a benchmark, the runs of a sweep."""
        self._whole = self._moved(self._whole, done, total)

    def _moved(self, countdown: Countdown | None, done: float, total: float) -> Countdown:
        """The same countdown, or another one where this is another count."""
        if countdown is None or countdown.total != total or done < countdown.done:
            return Countdown(done, total, self._clock())
        countdown.move(done, self._clock())
        return countdown

    def each(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with how many are done."""
        for done, item in enumerate(items):
            self.progress(done, len(items))
            yield item

    def spoke(self) -> None:
        """Somebody has said a line, so the next one is due later."""
        self._spoke_at = self._clock()

    def clear(self) -> None:
        """Take the live line off the terminal, or say no more, until something else is done."""
        if self._over is not None:
            self._over.set()
            self._over = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, at_once: bool = False) -> None:
        if self.console is None:
            return
        self._changed_at = self._clock()
        if self.console.is_interactive:
            self._live = self._live or self._start_live(self.console)
            return
        self._over = self._over or self._start_beat()
        if at_once or self._changed_at >= self._spoke_at + EVERY_S:
            self._say(self.text)

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, markup=False, soft_wrap=True)
            self.spoke()

    def beat(self) -> None:
        """Say again what is being done if nothing has been said for SILENCE_S, or a tenth of its time by now."""
        time = self._clock()
        if time >= self._spoke_at + max(SILENCE_S, (time - self._changed_at) / 10):
            if self.panel is not None:
                self.panel()  # not for these lines, but it may know how much of everything is done by now
            self._say(self.lasting)

    def _start_beat(self) -> threading.Event:
        """`beat` now and then, until the event is set."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(1.0):
                self.beat()

        with shielded():  # signals are for the main thread
            threading.Thread(target=run, daemon=True).start()
        return over

    def _start_live(self, console: Console) -> Live:
        from rich.console import Group
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        spinner = Spinner("dots", style="cyan")

        def render() -> RenderableType:
            spinner.text = Text(self.lasting)
            return spinner if self.panel is None else Group(self.panel(), spinner)

        live = Live(console=console, get_renderable=render, refresh_per_second=4, transient=True, redirect_stdout=False)
        live.start(refresh=True)  # stdout is left alone: it may be a file while stderr is the terminal
        return live


_now = Activity()
_mine: ContextVar[Activity | None] = ContextVar("activity", default=None)


def now() -> Activity:
    return _mine.get() or _now


def show_on(console: Console | None) -> None:
    """From now on activities are shown there; those of a thread that has its own, in this thread."""
    global _now
    now().clear()
    if _mine.get() is not None:
        _mine.set(Activity(console))
    else:
        _now = Activity(console)


def have_own() -> None:
    """From now on this thread has an activity of its own, shown nowhere until it says where."""
    _mine.set(Activity())
