"""metrics.jsonl, the truth about a run's steps: one JSON object a line, {"step": 3, "time": ..., "first/reward": ...}.
An evaluation is a line of its own, with the step that it came after.

A line is flushed when it is written. A process that is killed leaves at most a half-written last line, which readers
skip and a resumed run removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from scrpo_cli.errors import RunError
from scrpo_cli.files import write_atomically

FILE_NAME = "metrics.jsonl"
TOKENS = "tokens/total"
"""What every step measures, and no evaluation: the tokens generated so far."""


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

    def is_in_place(self) -> bool:
        """False when the file was deleted or replaced since it was opened: what is written then reaches nobody."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False

    def reopen(self) -> None:
        self._file.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")

    def event(self, text: str) -> None:
        """Lines for the reader are not metrics."""

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        with contextlib.suppress(OSError):  # every line was flushed; a line that could not be is reported by log()
            self._file.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All complete lines of a run, in file order; none when it has no file yet."""
    return [row for _, row in _rows(run_dir / FILE_NAME)]


def restore(run_dir: Path, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Put (step, metrics) that the file has lost back into their places. They have no time."""
    lost = [{"step": step, **metrics} for step, metrics in rows]
    lines = [*_rows(run_dir / FILE_NAME), *((to_json(row, inf_nan_mode="null") + b"\n", row) for row in lost)]
    lines.sort(key=lambda each: (each[1]["step"], TOKENS not in each[1]))  # an evaluation comes after its step
    with write_atomically(run_dir / FILE_NAME) as new:
        new.write_bytes(b"".join(line for line, _ in lines))


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:  # half-written when the process was killed
            continue
        if line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("step"), int):
            yield line, row


def _drop_after(path: Path, step: int | None) -> None:
    """Rewrite the file without half-written lines and without steps beyond `step` (None: all steps stay)."""
    if not path.exists():
        return
    kept = [line for line, row in _rows(path) if step is None or row["step"] <= step]
    with write_atomically(path) as new:
        new.write_bytes(b"".join(kept))
