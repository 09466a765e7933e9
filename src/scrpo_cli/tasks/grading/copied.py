"""Whether an answer is a formula of its own problem: to copy `(x+1)^2` is not to expand it, though both are equal.

Grading is a reward, and copying the problem's formulas would earn it: the last formula of a problem equals the
reference answer in 8 of 100 problems of MATH-500. A formula of the problem counts only where the reference is written
like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from scrpo_cli.tasks.grading.cheap import squeeze
from scrpo_cli.tasks.grading.lists import items, parts, right_sides
from scrpo_cli.tasks.grading.numbers import Form, normalize, number
from scrpo_cli.tasks.grading.units import without_unit

_FORMULA = re.compile(
    r"\\\((.+?)\\\)|\\\[(.+?)\\\]|`([^`]+)`|<math>(.+?)</math>"
    r"|\\begin\{((?:align|equation|gather|eqnarray|multline|displaymath)\*?)\}(.+?)\\end\{\5\}",
    re.DOTALL,
)
_DOLLAR = re.compile(r"(?<!\\)\$+")
# A run of symbols and single letters in plain text: (x+1)^2
_TYPED = re.compile(r"(?:[-+*/^_=<>()\[\]{}|!\d.]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[ ](?=\S))+")
_ROW = re.compile(
    r"\\q?quad|\\ |\\text\w*\s*\{[^{}]*\}|: |\\\\(?:\[[^\]]*\])?"
    r"|\\(?:begin|end)\{(?:aligned|align|split|cases|gathered|array)\*?\}(?:\{[lcr|]+\})?"
)
_RELATION = re.compile(r"[=<>]|\\(?:leq?|geq?|lt|gt|ne|neq|equiv|approx|in|le|ge|leqslant|geqslant)(?![a-z])")
_FRACTION = re.compile(r"\\frac\{?(-?\d+?)\}?\{?(\d+)\}?")
_BRACES = re.compile(r"(?<!\\)[{}]")
_NAME = re.compile(r"(?:[A-Za-z]\w*|\\[A-Za-z]+)(?:_\{?\w+\}?)?(?:\(\w+\))?")
_STRUCTURE = re.compile(r"[-+*/^_=<>,()\[\]!|]|\\(?!text|math|bf|it|rm)[a-zA-Z]|\d[A-Za-z]|\d\.\d|[A-Za-z]\d|%")
_HELD = (("(", ")"), ("[", "]"), ("\\{", "\\}"), ("+", ""))
MAX_TEXT = 20_000  # characters of a problem that are looked at


def copied(answer: str, problem: str, gold: str) -> bool:
    """Whether an answer, or what it says behind a label or an equals sign, stands in the problem as a formula, a side
    of one or an item of one, and the reference is written differently.
    """
    theirs, ours = right_sides(normalize(gold), normalize(answer))
    if _key(ours) == _key(theirs):
        return False
    if _is_formula(answer, theirs) and _key(normalize(answer)) in _keys(problem):
        return True
    return any(_is_formula(text, theirs) and _key(text) in _keys(problem) for text in said(answer, gold))


def said(answer: str, gold: str) -> set[str]:
    """What an answer says: all of it, what stands behind a label or the last equals sign, and the items of a list where
    the reference is none. Nothing where one of these is written like the reference: `1 - \\frac12 = \\frac12`.
    """
    theirs, ours = right_sides(normalize(gold), normalize(answer))
    found = {normalize(answer), ours, ours.rpartition("=")[2].strip()}
    if parts(theirs) is None:
        lists = [parts(text) for text in found]
        found |= {item for listed in lists if listed for item in listed.items}
    found |= {
        text[len(left) : len(text) - len(right)] for text in found for left, right in _HELD if _holds(text, left, right)
    }
    return set() if _key(theirs) in map(_key, found) else found


def _holds(text: str, left: str, right: str) -> bool:
    return text.startswith(left) and text.endswith(right) and len(text) > len(left + right)


def _is_formula(answer: str, gold: str) -> bool:
    """Numbers, names (`X_d`, `g(x)`) and words are none; a number in another form than the reference is (`0.5` for
    `1/2`).
    """
    if not _STRUCTURE.search(_key(answer)) or _NAME.fullmatch(answer.strip()):
        return False
    ours, theirs = number(answer), number(gold)
    if ours is None or theirs is None:
        return True
    if ours.form is Form.INTEGER and not ours.percent:
        return False
    return ours.form is Form.FRACTION or (ours.form, ours.percent) != (theirs.form, theirs.percent)


@lru_cache(maxsize=256)
def formulas(problem: str) -> tuple[str, ...]:
    """The formulas in a problem's text without what sets them, their rows, sides and items."""
    text = problem[:MAX_TEXT]
    whole = [part for m in _FORMULA.finditer(text) for part in (m[1], m[2], m[3], m[4], m[6]) if part]
    whole += _DOLLAR.split(text)[1:-1]  # what stands between two dollars, whichever are money
    whole += [typed for typed in _TYPED.findall(text) if _STRUCTURE.search(typed) and not number(normalize(typed))]
    return tuple(dict.fromkeys(part.strip() for formula in whole for part in _parts(formula)))


@lru_cache(maxsize=256)
def _keys(problem: str) -> frozenset[str]:
    """What an answer is held against: the same for all answers to a problem."""
    return frozenset(map(_key, formulas(problem)))


def _parts(formula: str) -> Iterator[str]:
    """A formula, its rows, the sides of its relations and the items of its lists."""
    for row in (formula, *_ROW.split(formula)):
        yield row
        for item in (row, *items(row)):
            yield item
            yield from _RELATION.split(item)


def _key(text: str) -> str:
    """What is left of a formula without spacing, units, spellings of fractions, and braces."""
    bare = without_unit(normalize(text.replace("&", ""))).rstrip(".,;:?! ")
    return _BRACES.sub("", _FRACTION.sub(r"\1/\2", squeeze(bare).replace(" ", "")))
