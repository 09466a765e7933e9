"""Numbers as they are written in answers: 1,234  $18.90  \\frac{3}{4}  137 \\frac{1}{2}  4.5e33  15\\text{ cm}^2  52_8.

Units are dropped, never converted. Everything here is exact (fractions) and linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from scrpo_cli.tasks.grading.units import TEXT, without_unit

MAX_CHARACTERS = 1000  # of a plain number: a longer one is left to the killable pass
REMEMBERED = 32_768  # texts: a reference answer comes back with each answer to it
APPROXIMATE = Fraction(1, 10**6)  # relative: how close a decimal has to be to a value that has no finite decimal form

_SPACE = re.compile(r"(?<!\\)(?:\\(?:[,;:>]|!\s*)|\\(?:left|right|displaystyle|[bB]igg?[lrm]?)(?![a-zA-Z]))")
_WIDE_SPACE = re.compile(r"(?<!\\)(?:\\(?: |q?quad\b)|~)|\s+")
_DOLLAR = re.compile(r"(?<!\\)\$")
_EMPTY = re.compile(r"\\\{\s*\\\}")
_SWITCH = re.compile(r"color|\\math|\\(?:bf|em|tiny|small|normal|[lL]arge|LARGE|[hH]uge|textstyle)")
_ANSWER_IS = re.compile(
    r"^\\text\w*\s*\{\s*(?:the )?(?:final )?(?:answer|solution|result)s?(?: is| are)?\s*:?\s*\}\s*:?", re.I
)
_TEXT_COMMA = re.compile(r"\\text\w*\s*\{\s*,\s*\}")
_LABEL = re.compile(r"(\\text\w*\s*\{[^{}]*[A-Za-z])\s*(?:[:=]| is| are)\s*\}\s*(?=\S)")  # \text{Area: } 5
_APPROXIMATION = re.compile(r"(.+?)\\approx(?![a-z])(.*)", re.DOTALL)
_ONLY_NAME = re.compile(r"(?!\\pi)\\?[A-Za-z]\w*(?:_\{?\w+\}?)?")
_NO_VALUE = re.compile(r"^\\approx(?![a-z])\s*|\\phantom(?![a-z])(?:\{[^{}]*\})?")
_BOLD_DIGITS = re.compile(r"\\mathbf\s*\{\s*(-?[\d ]+?)[\s.]*\}")  # OlympiadBench sets them apart: \mathbf{3 4 3 2}
_LETTER = re.compile(r"\\math(?:rm|it|sf)\s*\{\s*([eid])\s*\}")  # the constants and dx, set upright
_STYLE = re.compile(  # colour, weight and size
    r"\\(?:bf|em|bfseries|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|textstyle)(?![a-zA-Z])\s*"
    r"|\\(?:text|f)?color(?:box)?\s*(?:\[\w+\])?\{[^{}]*\}"
)
_VULGAR = re.compile(r"[\u00bc-\u00be\u2150-\u215e]")  # ½
_RAISED = re.compile(r"[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")  # ²
_WRAPPER = re.compile(
    r"(?:\\(?:text(?:bf|it|rm|normal)?(?=\s*\{[^{}]*\\(?!text|mbox)[a-z])"
    r"|boxed|fbox|underline|boldsymbol|bm|ensuremath|displaystyle)\s*)?\{|\*\*|__|`"
)
_INFIX = re.compile(r"\\(?:choose|atop|brace|brack)(?![a-z])")  # their braces are part of them
_OPENING = frozenset("$\\{*_`")
_BRACE = re.compile(r"\\.|[{}]")
_ROW_GAP = re.compile(r"(?<=\\\\)\[-?[\d.]+ *(?:pt|em|ex|mm|cm|in)\]")  # \\[4pt]
_TEXT_NUMBER = re.compile(r"\\text(?:bf|it|rm|normal|sf)?\s*\{\s*(-?\d[\d.,]*)\s*\}(?=\s*\S)")  # \text{40}^\circ
_UNEQUAL = re.compile(r"(?<=[A-Za-z ])!=|\\not\s*=")
_BRACED_COLON = re.compile(r"(?<=\d)\{:\}")
_BRACED_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d{3})")
_SAME = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\nicefrac", "\\frac"),
    ("\\sfrac", "\\frac"),
    ("{,}", ","),
    ("\\langle", "("),
    ("\\rangle", ")"),
    ("\\varnothing", "\\emptyset"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\bigcup", "\\cup"),
    ("\\backslash", "\\setminus"),
    ("\\mathbb R", "\\mathbb{R}"),
)
_SYMBOLS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{FRACTION SLASH}": "/",
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
        "≈": "\\approx ",
    }
)
_ROOT = re.compile(r"√\s*(?:(\d+|[a-z])|(?=[({]))")
_CURRENCY = re.compile(r"^([+-]?)\s*(?:(?:USD|US)\s*)?(?:\\?\$|€|£|(?<=USD)|(?<=USD ))\s*(?=[\d.+-])")
_CURRENCY_AFTER = re.compile(r"(?<=\d)\s*(?:\\?\$|€|£)$")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,])")

_PLAIN = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_DECIMAL = re.compile(_PLAIN)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
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


@dataclass(frozen=True, slots=True)
class Rules:
    """What a problem allows beyond equality. `unordered`: a comma list whose order does not matter."""

    unordered: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rules()


@lru_cache(maxsize=REMEMBERED)
def normalize(answer: str) -> str:
    """An answer without the markup that never changes its value: dollars around it, spacing, `\\left`, `\\dfrac`."""
    answer = _unwrapped(answer.replace("{}", "") if "{}" in answer else answer)
    if "$" in answer and len(dollars := _DOLLAR.findall(answer)) > 1 and len(dollars) % 2 == 0:  # $17$ cm
        answer = _DOLLAR.sub("", answer)
    if not answer.isascii():
        answer = _RAISED.sub(_power, _VULGAR.sub(_vulgar, answer))
        answer = _ROOT.sub(lambda root: f"\\sqrt{{{root[1]}}}" if root[1] else "\\sqrt", answer).translate(_SYMBOLS)
    if "\\mathbf" in answer:
        answer = _BOLD_DIGITS.sub(lambda digits: digits[1].replace(" ", ""), answer)
    if "=" in answer:
        answer = _UNEQUAL.sub(r"\\ne ", answer)
    if "\\" in answer or "{" in answer:
        answer = _TEXT_NUMBER.sub(r"\1", _ROW_GAP.sub("", answer))
        answer = _LABEL.sub(r"\1}: ", _TEXT_COMMA.sub(", ", _ANSWER_IS.sub("", answer)))
        answer = _LETTER.sub(r"{\1}", _STYLE.sub("", answer)) if _SWITCH.search(answer) else answer
        answer = _unwrapped(_SPACE.sub("", _BRACED_COMMA.sub("", _BRACED_COLON.sub(":", _NO_VALUE.sub("", answer)))))
        for spelling, usual in _SAME:
            answer = answer.replace(spelling, usual)
        answer = _EMPTY.sub(r"\\emptyset", answer)
    if "\\approx" in answer and (estimate := _APPROXIMATION.fullmatch(answer)):
        exact, decimal = estimate[1].strip(), estimate[2].strip()
        answer = f"{exact} = {decimal}" if _ONLY_NAME.fullmatch(exact) else exact
    return _WIDE_SPACE.sub(" ", answer).strip()


def _unwrapped(answer: str) -> str:
    """Without what stands around all of it: dollars, brackets of displayed formulas, boxes, braces, bold."""
    answer = answer.strip()
    if not answer.endswith(".."):  # 5... says more than 5
        answer = answer.rstrip(".,;\\ ")
    if answer[:1] not in _OPENING:
        return answer
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = answer[len(left) : -len(right)]
        if answer.startswith(left) and answer.endswith(right) and inner and left not in inner:
            answer = inner.strip().rstrip(".").strip()
    if wrapper := _WRAPPER.match(answer):
        inner = answer[wrapper.end() : -len(wrapper[0]) if wrapper[0][-1] != "{" else -1]
        end = "}" if wrapper[0][-1] == "{" else wrapper[0]
        if (
            answer.endswith(end)
            and inner.strip()
            and _balanced(inner)
            and not _INFIX.search(inner)
            and end not in (inner if end != "}" else "")
        ):
            return _unwrapped(inner)
    return answer


def _balanced(text: str) -> bool:
    """Whether every brace in a text has its partner in it."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth < 0:
            return False
    return depth == 0


def _vulgar(match: re.Match[str]) -> str:
    """½ as a fraction of LaTeX."""
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("\N{FRACTION SLASH}")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _power(match: re.Match[str]) -> str:
    """Raised digits as a power of LaTeX."""
    return f"^{{{unicodedata.normalize('NFKC', match[0])}}}".replace("\N{MINUS SIGN}", "-")


class Form(StrEnum):
    """How a plain number is written."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    FRACTION = "fraction"
    POWER = "power of ten"
    TO_COMPUTE = "division"  # 84/2: a fraction that is an integer


@dataclass(frozen=True, slots=True)
class Number:
    """A plain number: its exact value, how it is written, and whether it is said as a percentage."""

    value: Fraction
    form: Form
    percent: bool = False


@lru_cache(maxsize=REMEMBERED)
def number(text: str, symbols: bool = False) -> Number | None:
    """The plain number in a normalised text, units and currency dropped; None for anything else. `symbols`: also bare
    letters that are units, see `without_unit`.
    """
    if text.isascii() and text.isdigit() and len(text) <= MAX_CHARACTERS:
        return Number(Fraction(int(text)), Form.INTEGER)
    if len(text) > MAX_CHARACTERS:
        return None
    bare = _PERCENT.sub("", text) if "%" in text or "cent" in text else text
    found = _bare_number(_DECIMAL_BASE.sub("", bare) if "_" in bare else bare, symbols)
    return replace(found, percent=True) if found and bare != text else found


def _bare_number(text: str, symbols: bool) -> Number | None:
    text = _CURRENCY_AFTER.sub("", without_unit(_CURRENCY.sub(r"\1", _inner(text)), symbols))
    if "," in text or " " in text:
        text = _THOUSANDS.sub(lambda thousands: thousands[0].replace(",", "").replace(" ", ""), text)
    text = text.replace("\\over ", "/").replace("\\div", "/") if "\\" in text else text
    if text.startswith(("-(", "- ")) and (positive := _bare_number(text[1:].strip(), symbols)) and positive.value > 0:
        return replace(positive, value=-positive.value)
    if fraction := _MIXED.fullmatch(text) or _FRAC.fullmatch(text) or _SLASHED.fullmatch(text.replace(" ", "")):
        return _fraction(fraction.groupdict())
    text = text.replace(" ", "") if "\\" in text or "*" in text else text
    if _DECIMAL.fullmatch(text):
        return Number(Fraction(text), Form.DECIMAL if "." in text else Form.INTEGER)
    if repeating := _REPEATING.fullmatch(text):
        return Number(_repeating(*repeating.groups()), Form.FRACTION)
    if power := _SCIENTIFIC.fullmatch(text) or _POWER.fullmatch(text):
        return Number(Fraction(power[1] or 1) * Fraction(10) ** int(power[2]), Form.POWER)
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


def _fraction(parts: dict[str, str | None]) -> Number | None:
    top, bottom = parts["top"] or parts.get("top1") or "", parts["bottom"] or parts.get("bottom1") or ""
    if not Fraction(bottom):
        return None
    value = Fraction(parts["whole"] or 0) + Fraction(top) / Fraction(bottom)
    whole = value.denominator == 1 and (abs(Fraction(bottom)) != 1 or bool(parts["whole"]))  # 84/2, 40\frac{0}{1}
    return Number(-value if parts["sign"] == "-" else value, Form.TO_COMPUTE if whole else Form.FRACTION)


def same_number(gold: str, pred: str, rules: Rules) -> bool | None:
    """Numbers by exact value; None unless both are numbers. A percent sign that one side lacks may mean 1 or 1/100.

    `84/2` is no answer where the reference is 42: it is still to be computed.
    """
    g = number(gold)
    p = number(pred, symbols=True) if g else None
    if g is None or p is None:
        return None
    if p.form is Form.TO_COMPUTE and g.form is not Form.TO_COMPUTE:
        return False
    readings = [p.value]
    if g.percent != p.percent:
        readings.append(p.value / 100 if p.percent else p.value * 100)
    return any(_close(g.value, reading, is_decimal(p), rules) for reading in readings)


def _close(gold: Fraction, pred: Fraction, decimal: bool, rules: Rules) -> bool:
    """Whether a number is within the rules' tolerance, or a decimal of an exact value that has no finite one."""
    if gold == pred:
        return True
    if rules == EXACT and not decimal:
        return False
    relative = max(Fraction(rules.rel_tol), APPROXIMATE if decimal and not _terminates(gold) else 0)
    return abs(gold - pred) <= max(Fraction(rules.abs_tol), relative * abs(gold))


def is_decimal(number: Number) -> bool:
    """Whether a number is written with decimals, as approximations are; 2857142 and 355/113 say something exact."""
    return number.form in (Form.DECIMAL, Form.POWER) and number.value.denominator != 1


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


def is_based(text: str) -> bool:
    """Whether a normalised answer is a number in another base than ten."""
    return _based(text) is not None


def _based(text: str) -> tuple[str, str] | None:
    """(digits, base) of a number in another base than ten."""
    match = _BASED.fullmatch(_DECIMAL_BASE.sub("", TEXT.sub(r"\1", text)))
    base = _BASE_WORDS.get(match[2], match[2]) if match else ""
    return (match[1].upper(), base) if match and base.isdigit() else None
