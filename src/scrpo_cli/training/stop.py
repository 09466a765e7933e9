"""How a training run hears that it has to stop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from scrpo_cli.signals import NOTICES, Stopped, handled


@dataclass
class Stop:
    """Set by a signal: the update in hand is finished and its step saved. A second Ctrl-C or SIGTERM ends at once; a
    second notice says nothing new.
    """

    asked: bool = False
    _waits: bool = True

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        def handler(signum: int, frame: FrameType | None) -> None:
            again, self.asked = self.asked, True
            if signum not in NOTICES if again else not self._waits:
                raise Stopped

        with handled(handler):
            yield self

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that is not waited for: what it has finished is kept. KeyboardInterrupt when asked."""
        self._waits = False
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._waits = True
