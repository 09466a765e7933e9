"""Numbers as they are written in answers: 1,234  $18.90  \\frac{3}{4}  137 \\frac{1}{2}  4.5e33  15\\text{ cm}^2  52_8.

Units are dropped, never converted. Everything here is exact (fractions) and linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 1000  # of a plain number: a longer one is left to the killable pass
APPROXIMATE = Fraction(1, 10**6)  # relative: a decimal counts for an exact value that has no finite decimal form
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")

_SPACE = re.compile(r"(?<!\\)(?:\\(?:[,;:>]|!\s*)|\\(?:left|right|displaystyle|[bB]igg?)(?![a-zA-Z]))")
_WIDE_SPACE = re.compile(r"(?<!\\)(?:\\(?: |q?quad\b)|~)|\s+")
_NO_VALUE = re.compile(r"^\\approx(?![a-z])\s*|\\phantom(?![a-z])(?:\{[^{}]*\})?")
_BOLD_DIGITS = re.compile(r"\\mathbf\s*\{\s*(-?[\d ]+?)[\s.]*\}")  # OlympiadBench sets them apart: \mathbf{3 4 3 2}
_BRACED_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d{3})")
_SAME = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("{,}", ","),
    ("\\langle", "("),
    ("\\rangle", ")"),
    ("\\varnothing", "\\emptyset"),
    ("\\{\\}", "\\emptyset"),
)
_SYMBOLS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{DIVISION SIGN}": "/",
        "π": "\\pi ",
        "∞": "\\infty ",
        "±": "\\pm ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "\N{UNION}": "\\cup ",
        "∈": "\\in ",
        "∅": "\\emptyset ",
        "·": "\\cdot ",
    }
)
_ROOT = re.compile(r"√\s*(?:(\d+|[a-z])|(?=[({]))")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°)")
_NO_UNIT = (
    "and|or|not|to|over|times|plus|minus|mod|pi|ln|log|sqrt|sin|cos|tan|dozen|hundred|thousand|million|billion|trillion"
)
_NOT_IN_UNIT = rf"(?![^{{}}]*(?:(?<![A-Za-z^])\d|(?<![A-Za-z])(?:{_NO_UNIT})(?![A-Za-z])))"  # 42 \text{ or 43}
_TEXT_UNIT = rf"\\(?:text|mbox|mathrm)\s*\{{{_NOT_IN_UNIT}[^{{}}]*\}}(?:\s*\^\s*\{{?\d\}}?)?"
_TEXT_UNITS = re.compile(rf"\s*(?:{_TEXT_UNIT}|\\frac\{{{_TEXT_UNIT}\}}\{{{_TEXT_UNIT}\}})$")
_WORD_UNIT = re.compile(
    rf"(?<=[\d}}])\s+(?!(?:{_NO_UNIT})\b)(?:[A-Za-z]{{3,}}|cm|mm|km|kg|ml|ft|in|hr|mi|lb|oz|L|m/s)"
    rf"(?:(?:\s+|[/.-])(?!(?:{_NO_UNIT})\b)[A-Za-z]+|\^\{{?[23]\}}?)*\.?$"
)
_UNIT_POWER = re.compile(r"\^\s*\{?([1-9])|\b(square|sq)\b|\bcubic\b")
_CURRENCY = re.compile(r"^([+-]?)\s*(?:(?:USD|US)\s*)?(?:\\?\$|€|£|(?<=USD)|(?<=USD ))\s*(?=[\d.+-])")
_CURRENCY_AFTER = re.compile(r"(?<=\d)\s*(?:\\?\$|€|£)$")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,])")

_PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_DECIMAL = re.compile(_PLAIN)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d+)\}")
_SCIENTIFIC = re.compile(rf"({_PLAIN})[eE]([+-]?\d{{1,3}})")
_POWER = re.compile(rf"(?:({_PLAIN})(?:\\times|\\cdot|\*|x))?10\^\{{?([+-]?\d{{1,3}})\}}?")
_SLASHED = re.compile(rf"(?P<sign>)(?P<whole>)(?P<top>{_PLAIN})/(?P<bottom>[+-]?\d+)")
_MIXED = re.compile(r"(?P<sign>[+-]?)(?P<whole>\d+) (?P<top>\d+)/(?P<bottom>\d+)")
_FRAC = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d*)\s*\\frac\s*"
    rf"(?:\{{\s*(?P<top>{_PLAIN})\s*\}}|(?P<top1>\d))\s*(?:\{{\s*(?P<bottom>{_PLAIN})\s*\}}|(?P<bottom1>\d))"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\\?\s?\bper ?cent|\\text\s*\{\s*per ?cent\s*\})$")
_BASE_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASED = re.compile(r"\(?([+-]?[0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\)?_\{?(\d{1,2}|[a-z]+)\}?")
_DECIMAL_BASE = re.compile(r"_(?:10|\{10\}|\{?ten\}?)$")


class GoldError(ValueError):
    """The reference answer cannot be read: an error of the data, never a wrong answer of the model."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a problem allows beyond equality. `unordered`: a comma list whose order does not matter."""

    unordered: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rules()


def normalize(answer: str) -> str:
    """An answer without the markup that never changes its value: dollars around it, spacing, `\\left`, `\\dfrac`."""
    answer = _unwrapped(answer)
    if not answer.isascii():
        answer = _ROOT.sub(lambda root: f"\\sqrt{{{root[1]}}}" if root[1] else "\\sqrt", answer).translate(_SYMBOLS)
    if "\\mathbf" in answer:
        answer = _BOLD_DIGITS.sub(lambda digits: digits[1].replace(" ", ""), answer)
    if "\\" in answer or "{," in answer:
        answer = _SPACE.sub("", _BRACED_COMMA.sub("", _NO_VALUE.sub("", answer)))
        for spelling, usual in _SAME:
            answer = answer.replace(spelling, usual)
    return _WIDE_SPACE.sub(" ", answer).strip()


def _unwrapped(answer: str) -> str:
    answer = answer.strip().rstrip(".,;\\ ")
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("\\boxed{", "}")):
        inner = answer[len(left) : -len(right)]
        if answer.startswith(left) and answer.endswith(right) and inner and left not in inner:
            answer = inner.strip().rstrip(".").strip()
    return answer


def without_unit(text: str) -> str:
    """A normalised answer without degrees and a unit after it: `\\text{...}`, or a word after a digit or brace."""
    bare = _WORD_UNIT.sub("", _TEXT_UNITS.sub("", _DEGREES.sub("", text))).strip()
    return bare or text


def other_dimension(gold: str, pred: str) -> bool:
    """Whether the units of two answers are different powers: `cm^2` and `cm^3`."""
    powers = {_dimension(gold), _dimension(pred)} - {None}
    return len(powers) > 1


def _dimension(text: str) -> int | None:
    """The power of the unit after an answer, None where none is named; quotients (`N/m^2`, `J/m^3`) have none."""
    if not _UNIT_POWER.search(text):
        return None
    unit = text[len(without_unit(text)) :]
    if "/" in unit or "frac" in unit or not (power := _UNIT_POWER.search(unit)):
        return None
    return int(power[1]) if power[1] else 2 if power[2] else 3


def number(text: str) -> Fraction | None:
    """The exact value of a normalised plain number, units and currency dropped; None for anything else.

    Percent signs are the caller's.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = _CURRENCY_AFTER.sub("", _CURRENCY.sub(r"\1", without_unit(_inner(text))))
    text = _THOUSANDS.sub(lambda thousands: thousands[0].replace(",", "").replace(" ", ""), text)
    if fraction := _MIXED.fullmatch(text) or _FRAC.fullmatch(text) or _SLASHED.fullmatch(text.replace(" ", "")):
        return _fraction(fraction.groupdict())
    text = text.replace(" ", "") if "\\" in text or "*" in text else text
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if repeating := _REPEATING.fullmatch(text):
        return _repeating(*repeating.groups())
    if power := _SCIENTIFIC.fullmatch(text) or _POWER.fullmatch(text):
        return Fraction(power[1] or 1) * Fraction(10) ** int(power[2])
    return None


def _inner(text: str) -> str:
    """What `\\text{...}` or a pair of parentheses holds, where that is all there is; `(1,234)` stays a tuple."""
    if whole := TEXT.fullmatch(text):
        text = whole[1].strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") and "," not in text else text


def _repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
    """The value of `1.2\\overline{34}`: 1.2 + 0.034 / (1 - 1/100)."""
    value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return -value if sign == "-" else value


def _fraction(parts: dict[str, str | None]) -> Fraction | None:
    top, bottom = parts["top"] or parts.get("top1") or "", parts["bottom"] or parts.get("bottom1") or ""
    if not Fraction(bottom):
        return None
    value = Fraction(parts["whole"] or 0) + Fraction(top) / Fraction(bottom)
    return -value if parts["sign"] == "-" else value


def same_number(gold: str, pred: str, rules: Rules) -> bool | None:
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
    bare = _PERCENT.sub("", text)
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


def same_based(gold: str, pred: str) -> bool | None:
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
