"""Files that are either whole or as they were before."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from scrpo_cli.errors import RunError, UserError


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; after an error nothing is left of it.

    The directory is made. OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """A text file of `lines`, compressed if its name ends in .gz; their number. Errors: UserError for a place that
    cannot be written, RunError when the disk is full.
    """
    try:
        with write_atomically(path) as new, open_text(new, "w", compressed=path.suffix == ".gz") as file:
            return sum(bool(file.write(f"{line}\n")) for line in lines)
    except OSError as error:
        kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(f"Cannot write the file: {error.strerror}", str(path), "Name another place with -o.") from None


def open_text(path: Path, mode: Literal["r", "w"] = "r", *, compressed: bool | None = None) -> IO[str]:
    """UTF-8 text; what ends in .gz (or is said to be `compressed`) goes through gzip."""
    if path.suffix == ".gz" if compressed is None else compressed:
        return gzip.open(path, "rt" if mode == "r" else "wt", encoding="utf-8")
    return path.open(mode, encoding="utf-8")
