"""Whether two final answers are the same: an exact pass that costs microseconds, then math-verify.

`cheap` decides what it can with certainty (equal strings, numbers, words, lists of those) and says None for the
rest; `symbolic` is math-verify and may take forever, so it belongs into a process that can be killed. `equal` is
both in a row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction


class GoldError(ValueError):
    """The reference answer cannot be read: an error of the data, never a wrong answer of the model."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a problem allows beyond equality. `unordered`: a comma list whose order does not matter."""

    unordered: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rules()

_SPACING = re.compile(
    r"\\[,!;:> ]|\\q?quad\b|~|\{\s*,\s*\}|\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![a-zA-Z])"
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°|\\?\bdegrees?\b)")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_TEXT_UNIT = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?$")
_WORD_UNIT = re.compile(r"(?<=\d)\s+(?!(?:pi|ln|log|sqrt|and|or|to|over|times|plus|minus|million|billion|thousand|dozen)\b)"
                        r"(?:[A-Za-z]{3,}|cm|mm|km|kg|ml|ft|in|hr|mi|lb|oz)(?:[\s/^.-]*(?:[A-Za-z]+|\^?[23²³]))*\.?$")  # fmt: skip
_CURRENCY = re.compile(r"^([+-]?)\s*(?:\\?\$|€|£|USD)\s*(?=[\d.+-])")
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:,\s?\d{3})+)(?![\d])")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_SCIENTIFIC = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,3})")
_POWER = re.compile(r"(?:([+-]?(?:\d+\.?\d*|\.\d+))(?:\\times|\\cdot|×|\*|x))?10\^\{?([+-]?\d{1,3})\}?")
_FRACTION = re.compile(
    r"([+-]?)(\d*)\\[dt]?frac(?:\{([+-]?\d+)\}|(\d))(?:\{([+-]?\d+)\}|(\d))|([+-]?)()([+-]?\d+\.?\d*)()/([+-]?\d+)()"
)
_MIXED = re.compile(r"([+-]?)(\d+) (\d+)/(\d+)")
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_WORDS = re.compile(r"\(?[A-Za-z][A-Za-z ,.'-]*\)?")
_ASSIGNED = re.compile(r"^([A-Za-z]\w*)\s*=\s*(?=[^=]+$)")
_RATIO = re.compile(r"\d\s*:\s*\d")
_PROSE = re.compile(r"(?:^|\s)(?!(?:and|or|pi|if|ln|log|exp|sqrt|sin|cos|tan|cot|sec|csc)\b)[A-Za-z]{2,}(?=[\s,.;]|$)")
_MAX_DIGITS = 1000  # of a plain number: more is left to the killable pass


def equal(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """Whether `pred` answers as `gold` does; GoldError where `gold` cannot be read. May run long."""
    decided = cheap(gold, pred, rules)
    return symbolic(gold, pred, rules) if decided is None else decided


def cheap(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """The verdict where strings and exact numbers settle it, else None. Linear in the length of its input."""
    gold, pred = normalize(gold), normalize(pred)
    if not gold:
        raise GoldError("the reference answer is empty")
    if gold == pred:
        return True
    if not pred:
        return False
    if rules.unordered and (lists := _same_items(gold, pred, rules)) is not None:
        return lists
    if (numbers := _same_number(gold, pred, rules)) is not None:
        return numbers
    if _RATIO.search(gold) or _RATIO.search(pred):
        return _squeeze(gold) == _squeeze(pred)  # 6:4, 7:30: math-verify reads the first number alone
    if _WORDS.fullmatch(_plain(gold)) and len(_plain(gold).strip("()")) != 1 or _TEXT.fullmatch(gold):
        return _plain(gold).strip("(). ").lower() == _plain(pred).strip("(). ").lower()
    if _is_prose(pred):
        return False
    return True if _squeeze(gold) == _squeeze(pred) else None


def normalize(answer: str) -> str:
    """An answer without the markup that never changes its value: dollars around it, spacing, `\\left`, `\\dfrac`."""
    answer = answer.strip().rstrip(".").strip()
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if answer.startswith(left) and answer.endswith(right) and len(answer) > len(left) + len(right):
            answer = answer[len(left) : -len(right)].strip().rstrip(".").strip()
    answer = _SPACING.sub(
        lambda m: "," if m[0].startswith("{") else " " if "quad" in m[0] or m[0] == "\\ " else "", answer
    )
    answer = answer.replace("−", "-").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return re.sub(r"\s+", " ", answer).strip()


def number(text: str) -> Fraction | None:
    """The exact value of a normalised plain number (integer, decimal, fraction, mixed, 4.5e33), units and currency
    dropped, or None. Percent signs are left to the caller.
    """
    text = _bare(text)
    if len(text) > _MAX_DIGITS:
        return None
    if mixed := _MIXED.fullmatch(text):
        sign, whole, top, bottom = mixed.groups()
        return _signed(sign, Fraction(int(whole)) + _ratio(top, bottom)) if int(bottom) else None
    text = text.replace(" ", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if power := _SCIENTIFIC.fullmatch(text) or _POWER.fullmatch(text):
        return Fraction(power[1] or 1) * Fraction(10) ** int(power[2])
    if fraction := _FRACTION.fullmatch(text):
        sign, whole, *parts = (group for group in fraction.groups() if group is not None)
        top, bottom = (part for part in parts if part)
        if not Fraction(bottom):
            return None
        return _signed(sign, Fraction(whole or 0) + _ratio(top, bottom))
    return None


def _ratio(top: str, bottom: str) -> Fraction:
    return Fraction(top) / Fraction(bottom)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _bare(text: str) -> str:
    """A number's text without degrees, currency, thousands separators and a unit after it."""
    text = _CURRENCY.sub(r"\1", _DEGREES.sub("", text).strip())
    text = _WORD_UNIT.sub("", _TEXT_UNIT.sub("", text).strip()).strip()
    return _THOUSANDS.sub(lambda m: m[1] + re.sub(r"[,\s]", "", m[2]), text)


def _same_number(gold: str, pred: str, rules: Rules) -> bool | None:
    """Numbers by exact value; None unless both are numbers. `52_8` equals `52_{8}` and the digits `52` alone."""
    based_gold, based_pred = _BASED.fullmatch(gold.replace(" ", "")), _BASED.fullmatch(pred.replace(" ", ""))
    if based_gold and (based_pred or number(pred) is not None):
        return based_gold.groups() == based_pred.groups() if based_pred else based_gold[1] == pred.strip()
    pred = re.sub(r"_\{?10\}?$", "", pred)
    gold, pred = _same_side(gold, pred)
    gold_percent, pred_percent = (bool(re.search(r"\\?%$", x)) for x in (gold, pred))
    g, p = (number(re.sub(r"\s*\\?%$", "", x)) for x in (gold, pred))
    if g is None or p is None:
        return None
    readings = {p} if gold_percent == pred_percent else {p, p / 100} if pred_percent else {p, p * 100}
    return any(_close(g, reading, rules) for reading in readings)


def _close(gold: Fraction, pred: Fraction, rules: Rules) -> bool:
    return abs(gold - pred) <= max(Fraction(rules.abs_tol), Fraction(rules.rel_tol) * abs(gold))


def _same_side(gold: str, pred: str) -> tuple[str, str]:
    """`x=5` against `5`: the right-hand side, where one side alone names a variable or both name the same."""
    names = {m[1] for m in (_ASSIGNED.match(gold), _ASSIGNED.match(pred)) if m}
    return (gold, pred) if len(names) != 1 else (_ASSIGNED.sub("", gold), _ASSIGNED.sub("", pred))


def _same_items(gold: str, pred: str, rules: Rules) -> bool | None:
    """Comma lists as multisets; None where some pair of items is beyond the cheap pass."""
    return match_items(gold, pred, lambda g, p: cheap(g, p, Rules(False, rules.rel_tol, rules.abs_tol)))


def match_items(gold: str, pred: str, same: Callable[[str, str], bool | None]) -> bool | None:
    """Pairs every item of `gold` with one of `pred` by `same`; None where `same` could not tell and it matters."""
    golds, preds = items(gold), items(pred)
    if len(golds) < 2:
        return None
    if len(golds) != len(preds):
        return False if len(preds) > 1 else None
    unknown = False
    for item in golds:
        verdicts = [same(item, other) for other in preds]
        if True in verdicts:
            preds.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def items(text: str) -> list[str]:
    """The comma-separated items of a list, commas inside brackets kept; one outer `\\{...\\}` is dropped."""
    text = text.replace("$", "").strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    text = re.sub(r"\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|\band\b|\bor\b)\s*", ",", text)
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth <= 0:
            found.append(text[start:i])
            start = i + 1
    return [item.strip() for item in [*found, text[start:]] if item.strip()]


def _plain(text: str) -> str:
    return _TEXT.sub(r"\1", text).strip()


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", _plain(text))


def _is_prose(text: str) -> bool:
    """Words between several numbers ("41, no wait 42"): not an answer, although math-verify would take the first."""
    return bool(_PROSE.search(_TEXT.sub("", text))) and len(re.findall(r"\d+", text)) > 1


def symbolic(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """math-verify's verdict. Its own timeouts are off (SIGALRM works in main threads only): kill from outside."""
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, pred = normalize(gold), normalize(pred)
    if rules.unordered:
        exact = Rules(False, rules.rel_tol, rules.abs_tol)
        lists = match_items(gold, pred, lambda g, p: equal(g, p, exact))
        if lists is not None:
            return lists
    golds = _parse(gold)
    if not golds:
        raise GoldError(f"math-verify cannot read the reference answer {gold[:80]!r}")
    preds = _parse(pred)
    if _close_values(golds, preds, rules):
        return True
    return bool(preds) and verify(golds, preds, timeout_seconds=None)


def _parse(answer: str) -> list:
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed = parse(f"\\boxed{{{_mathematics(answer)}}}", config, "no_fallback", parsing_timeout=None)
    return list(parsed)


def _mathematics(answer: str) -> str:
    """What helps math-verify: no stray dollars, e-notation as powers of ten, `np.` prefixes dropped."""
    answer = answer.replace("\\$", "").replace("$", "").replace("np.", "\\")
    return re.sub(r"(?<![A-Za-z\\])(\d+\.?\d*)[eE]([+-]?\d+)\b", r"\1 \\cdot 10^{\2}", answer)


def _close_values(golds: Sequence, preds: Sequence, rules: Rules) -> bool:
    """Whether a tolerance is allowed and two constant expressions lie within it."""
    if not (rules.rel_tol or rules.abs_tol):
        return False
    numeric = [[x for x in side if getattr(x, "is_number", False) and x.is_real] for side in (golds, preds)]
    return any(
        abs(float(g) - float(p)) <= max(rules.abs_tol, rules.rel_tol * abs(float(g)))
        for g in numeric[0]
        for p in numeric[1]
    )
