"""Files that are written whole or stay as they were, and JSONL that is read to the letter; devices, pipes and the
standard streams are written to and read as what they are.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.streams import STANDARD, is_stdout, writing_to_stdout

DEFAULT_DATABASE = ".scrpo/scrpo.db"
DATABASE = b"SQLite format 3\0"
"""How a file begins that holds everything that was ever recorded."""
UNFINISHED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
"""The place was fine and the work failed."""
BAD_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Nothing of ours can be there."""
REFUSED = "mend the line; the whole file is refused"
NESTED_AT_MOST = 100
"""Objects and lists inside of each other: what is read is written again later, which takes more of the stack."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; after an error nothing is left of it.

    A link stays one: the file that it leads to is replaced. A file keeps its mode and owner. A device or a pipe is
    never replaced: it is written to as it is. The directory is made. OSError where it cannot be written.
    """
    if path.exists() and not path.is_file():  # a directory too, which refuses to be opened
        yield path
        return
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    temporary = path.with_name(f".scrpo-{secrets.token_hex(8)}.tmp")  # two writers of one file have one each
    try:
        yield temporary
        if path.exists():
            _copy_owner(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path` to fill, which takes its place at the end; after an error nothing is left of it.
    UserError where something is there already: what a person has put together is never mixed with ours.
    """
    path = Path(os.path.realpath(path))
    if path.exists():
        raise UserError("There is something at this place already.", str(path), "Name a new directory with -o.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".scrpo-{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_stem(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.=-]+", "_", name)


def _copy_owner(old: Path, new: Path) -> None:
    """Who may read and write a file, as far as we may say so."""
    if hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(new, old.stat().st_uid, old.stat().st_gid)
    shutil.copymode(old, new)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """A text file of `lines`, compressed if its name ends in .gz, or stdout (`is_stdout`); their number. Errors:
    UserError for a place that cannot be written, RunError when the disk is full or the reader has left.
    """
    try:
        if is_stdout(path):
            with writing_to_stdout():
                return sum(bool(sys.stdout.write(f"{line}\n")) for line in lines)
        _refuse_database(path)
        with write_atomically(path) as new, open_text(new, "w", compressed=path.suffix == ".gz") as file:
            return sum(bool(file.write(f"{line}\n")) for line in lines)
    except OSError as error:
        kind = RunError if error.errno in UNFINISHED else UserError
        raise kind(f"Cannot write the file: {error.strerror}", str(path), "Name another place with -o.") from None


def _refuse_database(path: Path) -> None:
    """A name that was meant for --db: no file of lines may take the place of a database."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(DATABASE)) == DATABASE:
                raise FileExistsError(errno.EEXIST, "it is a database", str(path))


def open_text(path: Path, mode: Literal["r", "w"] = "r", *, compressed: bool | None = None) -> IO[str]:
    """UTF-8 text; what ends in .gz (or is said to be `compressed`) goes through gzip. The mark that Windows programs
    write before UTF-8 is read over, and `-` reads stdin.
    """
    encoding = "utf-8-sig" if mode == "r" else "utf-8"
    if mode == "r" and str(path) == STANDARD:
        return io.TextIOWrapper(sys.stdin.buffer, encoding=encoding)
    if path.suffix == ".gz" if compressed is None else compressed:
        return gzip.open(path, "rt" if mode == "r" else "wt", encoding=encoding)
    return path.open(mode, encoding=encoding)


def name_of(path: Path) -> str:
    """A file that is read, for a message."""
    return "stdin" if str(path) == STANDARD else str(path)


def read_rows(path: Path, refused: str = REFUSED) -> Iterator[tuple[dict[str, Any], str]]:
    """(row, `file:line`) of a JSONL file, gzipped or not, or of stdin; blank lines are skipped. UserError with the
    place of the first line that is no JSON object to the letter of the standard; `refused` says what to do then.
    """
    number, name = 0, name_of(path)
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    if not isinstance(row := _value(line), dict):
                        raise UserError("the line is not a JSON object", f"{name}:{number}", refused)
                    yield row, f"{name}:{number}"
    except UnicodeDecodeError:
        raise UserError("the text is not UTF-8", f"{name}, after line {number}", refused) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"the line is not JSON: {error}", f"{name}:{number}", refused) from None
    except FileNotFoundError:
        raise UserError("the file does not exist", name, "check the path") from None
    except (OSError, EOFError, zlib.error) as error:  # a directory, no permission, a broken gzip
        raise UserError(f"the file cannot be read: {error}", name, "check the file") from None


def _value(line: str) -> Any:
    """A line of JSON; ValueError or RecursionError where it is none."""
    value = _DECODER.decode(line)
    if line.count("[") + line.count("{") > NESTED_AT_MOST < _depth(value):
        raise ValueError(f"it is nested more than {NESTED_AT_MOST} deep")
    if "\\ud" in line or "\\uD" in line:  # half a surrogate pair, which no database or terminal takes
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def _depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that stands twice in an object, Python would keep the last value in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _no_number(word: str) -> Any:
    """NaN and the infinities, which Python writes and JSON does not have."""
    raise ValueError(f"{word} is no JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
