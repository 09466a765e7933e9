"""metrics.jsonl, the truth about a run's steps: one JSON object a line, {"step": 3, "time": ..., "first/reward": ...}.
An evaluation is a line of its own, with the step that it came after.

A line is flushed when it is written. A process that is killed leaves at most a half-written last line, which readers
skip and a resumed run removes.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from scrpo_cli.errors import RunError
from scrpo_cli.files import write_atomically

FILE_NAME = "metrics.jsonl"


class JsonlSink:
    """Appends steps; opening with `resume_step` first drops the lines of later steps. RunError on a full disk."""

    def __init__(self, run_dir: Path, resume_step: int | None) -> None:
        self._path = run_dir / FILE_NAME
        run_dir.mkdir(parents=True, exist_ok=True)
        _drop_after(self._path, resume_step)
        self._file = self._path.open("ab")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Infinities and NaN, which JSON lacks, become null."""
        row = {"step": step, "time": round(time.time(), 3), **metrics}
        try:
            self._file.write(to_json(row, inf_nan_mode="null") + b"\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"Could not write metrics: {error.strerror}", str(self._path), "Free some disk space, then --resume."
            ) from error

    def event(self, text: str) -> None:
        """Lines for the reader are not metrics."""

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        with contextlib.suppress(OSError):  # every line was flushed; a line that could not be is reported by log()
            self._file.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All complete lines of a run, in file order; none when it has no file yet."""
    return [row for _, row in _rows(run_dir / FILE_NAME)]


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:  # half-written when the process was killed
            continue
        if line.endswith(b"\n"):
            yield line, row


def _drop_after(path: Path, step: int | None) -> None:
    """Rewrite the file without half-written lines and without steps beyond `step` (None: all steps stay)."""
    if not path.exists():
        return
    kept = [line for line, row in _rows(path) if step is None or row["step"] <= step]
    with write_atomically(path) as new:
        new.write_bytes(b"".join(kept))
