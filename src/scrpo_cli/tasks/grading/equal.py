"""Whether two final answers are the same: an exact pass that costs microseconds, then math-verify.

`cheap` decides what it can with certainty (equal strings, numbers, words, lists of those) and says None for the
rest; `symbolic` may take forever, so it belongs into a process that can be killed. `equal` is both in a row. None of
them is symmetric: the reference answer comes first.
"""

from __future__ import annotations

import re
from fractions import Fraction

from scrpo_cli.tasks.grading.lists import right_sides, same_parts
from scrpo_cli.tasks.grading.numbers import MAX_CHARACTERS, TEXT, normalize, number, other_dimension
from scrpo_cli.tasks.grading.rules import EXACT, GoldError, Rules
from scrpo_cli.tasks.grading.words import is_prose, same_time, same_words

APPROXIMATE = Fraction(1, 10**6)  # relative: a decimal counts for an exact value that has no finite decimal form

PERCENT = re.compile(r"\s*(?:\\?%|\\?\s?\bper ?cent|\\text\s*\{\s*per ?cent\s*\})$")
_BASE_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASED = re.compile(r"\(?([+-]?[0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\)?_\{?(\d{1,2}|[a-z]+)\}?")
_DECIMAL_BASE = re.compile(r"_(?:10|\{10\}|\{?ten\}?)$")
_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_SPACED = re.compile(r"[+-]?\d[\d.]*(?: \d[\d.]*)+")


def equal(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """Whether `pred` answers as `gold` does; GoldError where `gold` cannot be read. May run long."""
    from scrpo_cli.tasks.grading.symbolic import symbolic

    decided = cheap(gold, pred, rules)
    return symbolic(gold, pred, rules) if decided is None else decided


def cheap(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """The verdict where strings and exact numbers settle it, else None. Linear in the length of its input."""
    gold, pred = normalize(gold), normalize(pred)
    if not gold:
        raise GoldError("the reference answer is empty")
    if gold == pred or squeeze(gold) == squeeze(pred):
        return True
    if max(len(gold), len(pred)) > MAX_CHARACTERS:
        return None
    gold, pred = right_sides(gold, pred)
    if other_dimension(gold, pred):
        return False
    if (verdict := _same_number(gold, pred, rules)) is not None:
        return verdict
    if (verdict := same_time(gold, pred)) is not None:
        return verdict
    if not pred or _SPACED.fullmatch(pred) or is_prose(pred):
        return same_words(gold, pred) or False
    for verdict in (_same_based(gold, pred), same_words(gold, pred)):
        if verdict is not None:
            return verdict
    return same_parts(gold, pred, rules, cheap)


def squeeze(text: str) -> str:
    """For comparing as strings: no `\\text`, no dollars, no spaces (save between digits), `x_{1}` as `x_1`."""
    text = text.replace("\\$", "").replace("$", "") if "$" in text else text
    return _SCRIPT.sub(r"\1\2", _SPACES.sub("", TEXT.sub(r"\1", text) if "\\" in text else text))


def _same_based(gold: str, pred: str) -> bool | None:
    """`52_8` is `52_{8}`, and also `52`, as the problem names the base; `52_{8}` is not the decimal 52."""
    if "_" not in gold + pred:
        return None
    theirs, ours = _based(gold), _based(pred)
    if theirs and ours:
        return theirs == ours
    gold, pred = _DECIMAL_BASE.sub("", gold), _DECIMAL_BASE.sub("", pred)
    if theirs and number(pred) is not None:
        return theirs[0] == pred.upper()
    if ours and number(gold) is not None:
        return False
    return None


def _based(text: str) -> tuple[str, str] | None:
    """(digits, base) of a number in another base than ten."""
    match = _BASED.fullmatch(_DECIMAL_BASE.sub("", TEXT.sub(r"\1", text)))
    base = _BASE_WORDS.get(match[2], match[2]) if match else ""
    return (match[1].upper(), base) if match and base.isdigit() else None


def _same_number(gold: str, pred: str, rules: Rules) -> bool | None:
    """Numbers by exact value; None unless both are numbers. A percent sign that one side lacks may mean 1 or 1/100."""
    g, gold_percent = plain_number(gold)
    if g is None:
        return None
    p, pred_percent = plain_number(pred)
    if p is None:
        return None
    readings = {p}
    if gold_percent != pred_percent:
        readings.add(p / 100 if pred_percent else p * 100)
    return any(_close(g, reading, rules) for reading in readings)


def plain_number(text: str) -> tuple[Fraction | None, bool]:
    """A plain decimal number, and whether it is said as a percentage."""
    if text.isascii() and text.isdigit():
        return Fraction(int(text)), False
    bare = PERCENT.sub("", text)
    return number(_DECIMAL_BASE.sub("", bare)), bare != text


def _close(gold: Fraction, pred: Fraction, rules: Rules) -> bool:
    if gold == pred:
        return True
    approximate = APPROXIMATE if _terminates(pred) and not _terminates(gold) else 0
    relative = max(Fraction(rules.rel_tol), approximate)
    return abs(gold - pred) <= max(Fraction(rules.abs_tol), relative * abs(gold))


def _terminates(value: Fraction) -> bool:
    """Whether the value has a finite decimal form: its denominator divides a power of ten."""
    return 10 ** value.denominator.bit_length() % value.denominator == 0
