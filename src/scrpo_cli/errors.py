"""Every exception that `scrpo` raises on purpose. Rule for a new one: subclass `UserError` when the user can mend
it (exit code 2), `RunError` when the work itself failed (exit code 1); say what, where and how to fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ScrpoError(Exception):
    """Base: three short lines (what, where, how to fix) and an exit code."""

    exit_code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __reduce__(self):  # picklable across worker processes
        return type(self), (self.what, self.where, self.fix)

    def lines(self) -> list[str]:
        return [line for line in (self.what, self.where, self.fix) if line]


class UserError(ScrpoError):
    """The user's input is wrong: recipe, option, file, database."""

    exit_code = 2


class RunError(ScrpoError):
    """The input was fine and the work failed: disk full, out of memory, a stale adapter."""

    exit_code = 1


class Interrupted(ScrpoError):
    """Ctrl-C, SIGTERM or a lost terminal; what was earned is saved and `fix` holds the command that resumes."""

    exit_code = 130


def shown(value: object, most: int = 60) -> str:
    """A value as an error message quotes it: cut, and `nothing` for null."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(word: str, known: Iterable[str], prefix: str = "", most: int = 1, cutoff: float = 0.6) -> str:
    """`Did you mean 'x'?` for a word that is like some of the known ones, whatever the case, with what stands before
    them, else nothing.
    """
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), spelled, most, cutoff)
    listed = " or ".join(f"'{prefix}{spelled[name]}'" for name in near)
    return f"Did you mean {listed}?" if near else ""


@contextmanager
def blaming(what: str, where: str, fix: str) -> Iterator[None]:
    """Inside, whatever foreign code raises is the fault of the user's file at `where`: a broken one makes the loaders
    of models, tokenizers and templates raise nearly anything.
    """
    try:
        yield
    except ScrpoError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {first_line(error)}", where, fix) from error


def first_line(error: BaseException) -> str:
    """What an exception says in its first line, with the second where that is only a heading; else its kind."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
