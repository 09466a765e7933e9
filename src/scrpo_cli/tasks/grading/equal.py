"""Whether two final answers are the same: an exact pass that costs microseconds, then math-verify.

`cheap` decides what it can with certainty (equal strings, numbers, words, lists of those) and says None for the
rest; `symbolic` is math-verify and may take forever, so it belongs into a process that can be killed. `equal` is
both in a row. None of them is symmetric: the reference answer comes first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from scrpo_cli.tasks.grading.numbers import MAX_CHARACTERS, TEXT, normalize, number, without_unit


class GoldError(ValueError):
    """The reference answer cannot be read: an error of the data, never a wrong answer of the model."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a problem allows beyond equality. `unordered`: a comma list whose order does not matter."""

    unordered: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rules()
APPROXIMATE = Fraction(1, 10**6)  # relative: a decimal counts for an exact value that has no finite decimal form

_PERCENT = re.compile(r"\s*\\?%$")
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_DECIMAL_BASE = re.compile(r"_(?:10|\{10\})$")
_ASSIGNED = re.compile(r"^([A-Za-z]\w*)\s*=\s*(?=[^=]+$)")
_CLOCK = re.compile(r"\b\d{1,2}:\d\d\b")
_CHOICE = re.compile(r"\(?([A-J])\)?")
_WORDS = re.compile(r"(?=.*[A-Za-z]{4}|yes|no)[A-Za-z][A-Za-z ,'-]*", re.IGNORECASE)
_NO_PROSE = "and|or|pi|ln|log|exp|sqrt|sin|cos|tan|cot|sec|csc"
_PROSE = re.compile(rf"(?:^|\s)(?!(?:{_NO_PROSE})\b)[A-Za-z]{{2,}}(?=[\s,.;!?]|$)")
_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_AND_OR = re.compile(r"\s*(?:\\text\s*\{[\s,]*(?:and|or)\s*\}|\b(?:and|or)\b)\s*")
_E_NOTATION = re.compile(r"(?<![A-Za-z\\])(\d+\.?\d*)[eE]([+-]?\d+)\b")


def equal(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """Whether `pred` answers as `gold` does; GoldError where `gold` cannot be read. May run long."""
    decided = cheap(gold, pred, rules)
    return symbolic(gold, pred, rules) if decided is None else decided


def cheap(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """The verdict where strings and exact numbers settle it, else None. Linear in the length of its input."""
    gold, pred = normalize(gold), normalize(pred)
    if not gold:
        raise GoldError("the reference answer is empty")
    if _squeeze(gold) == _squeeze(pred):
        return True
    if max(len(gold), len(pred)) > MAX_CHARACTERS:
        return None
    if not pred or _is_prose(pred):
        return _same_words(gold, pred) or False
    if rules.unordered and len(items(gold)) > 1:
        return _same_items(gold, pred, rules, cheap)
    for same in (_same_based, _same_number, _same_words, _same_time):
        if (verdict := same(gold, pred, rules)) is not None:
            return verdict
    return _same_items(gold, pred, rules, cheap)


def _squeeze(text: str) -> str:
    """For comparing as strings: no spaces, no `\\text`, `x_{1}` as `x_1`."""
    return _SCRIPT.sub(r"\1\2", re.sub(r"\s+", "", TEXT.sub(r"\1", text)))


def _is_prose(pred: str) -> bool:
    """Words among several numbers ("41, no wait 42"): no answer, although math-verify would take the first number."""
    return len(re.findall(r"\d+", pred)) > 1 and bool(_PROSE.search(TEXT.sub("", without_unit(pred))))


def _same_based(gold: str, pred: str, _: Rules) -> bool | None:
    """`52_8` is `52_{8}`, and also `52`, as the problem names the base; `52_{8}` is not the decimal 52."""
    pred = _DECIMAL_BASE.sub("", pred)
    theirs, ours = _BASED.fullmatch(_DECIMAL_BASE.sub("", gold)), _BASED.fullmatch(pred)
    if theirs and ours:
        return theirs.groups() == ours.groups()
    if theirs and number(pred) is not None:
        return theirs[1] == pred
    if ours and number(gold) is not None:
        return _DECIMAL_BASE.sub("", gold) == pred
    return None


def _same_number(gold: str, pred: str, rules: Rules) -> bool | None:
    """Numbers by exact value; None unless both are numbers. A percent sign that one side lacks may mean 1 or 1/100."""
    gold, pred = _right_sides(gold, _DECIMAL_BASE.sub("", pred))
    g, p = number(_PERCENT.sub("", gold)), number(_PERCENT.sub("", pred))
    if g is None or p is None:
        return None
    gold_percent, pred_percent = bool(_PERCENT.search(gold)), bool(_PERCENT.search(pred))
    readings = {p}
    if gold_percent != pred_percent:
        readings.add(p / 100 if pred_percent else p * 100)
    return any(_close(g, reading, rules) for reading in readings)


def _right_sides(gold: str, pred: str) -> tuple[str, str]:
    """`x=5` against `5`: the right-hand sides, where one side alone names a variable or both name the same."""
    names = {m[1] for m in (_ASSIGNED.match(gold), _ASSIGNED.match(pred)) if m}
    return (gold, pred) if len(names) != 1 else (_ASSIGNED.sub("", gold), _ASSIGNED.sub("", pred))


def _close(gold: Fraction, pred: Fraction, rules: Rules) -> bool:
    approximate = APPROXIMATE if _terminates(pred) and not _terminates(gold) else 0
    relative = max(Fraction(rules.rel_tol), approximate)
    return abs(gold - pred) <= max(Fraction(rules.abs_tol), relative * abs(gold))


def _terminates(value: Fraction) -> bool:
    """Whether the value has a finite decimal form: its denominator divides a power of ten."""
    return 10 ** value.denominator.bit_length() % value.denominator == 0


def _same_words(gold: str, pred: str, _: Rules = EXACT) -> bool | None:
    """Words and choices letter by letter, whatever the case: `\\text{(C)}` is `C`, `\\text{east}` is `East`."""
    word, said = TEXT.sub(r"\1", gold).strip(" ."), TEXT.sub(r"\1", pred).strip(" .")
    if TEXT.fullmatch(gold) and (choice := _CHOICE.fullmatch(word)):
        return bool(
            (theirs := _CHOICE.match(said)) and theirs[1] == choice[1] and not said[theirs.end() :][:1].isalnum()
        )
    if TEXT.fullmatch(gold) or _WORDS.fullmatch(word):
        return word.lower() == said.lower()
    return None


def _same_time(gold: str, pred: str, _: Rules) -> bool | None:
    """Times of day are equal as strings or not at all: math-verify divides them."""
    return False if _CLOCK.search(gold) or _CLOCK.search(pred) else None


def _same_items(gold: str, pred: str, rules: Rules, same: Callable[[str, str, Rules], bool | None]) -> bool | None:
    """Comma lists item by item (in any order where the rules say so); None where `same` cannot tell."""
    golds, preds = items(gold), items(pred)
    if len(golds) < 2 or len(golds) != len(preds):
        return None if len(golds) < 2 or "\\pm" in gold + pred or len(preds) < 2 else False
    single = replace(rules, unordered=False)
    if not rules.unordered:
        verdicts = [same(g, p, single) for g, p in zip(golds, preds, strict=True)]
        return False if False in verdicts else None if None in verdicts else True
    unknown = False
    for item in golds:
        verdicts = [same(item, other, single) for other in preds]
        if True in verdicts:
            preds.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def items(text: str) -> list[str]:
    """The comma-separated items of a bare list, commas inside brackets kept; `and` and `or` separate too."""
    text = _AND_OR.sub(",", text.replace("\\$", "").replace("$", ""))
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth <= 0:
            found.append(text[start:i])
            start = i + 1
    return [item.strip() for item in [*found, text[start:]] if item.strip()]


def is_list(answer: str) -> bool:
    """Whether an answer is a bare list (`1,-2`) and not a number such as `58,500`."""
    answer = normalize(answer)
    return number(answer) is None and len(items(answer)) > 1


def symbolic(gold: str, pred: str, rules: Rules = EXACT) -> bool:
    """math-verify's verdict. Its own timeouts are off (SIGALRM works in main threads only): kill from outside."""
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, pred = normalize(gold), normalize(pred)
    if (lists := _same_items(gold, pred, rules, equal)) is not None:
        return lists
    golds, preds = _parse(gold), _parse(pred)
    if not golds:
        raise GoldError(f"math-verify cannot read the reference answer {gold[:80]!r}")
    if not preds:
        return False
    constants = _same_constant(golds[0], preds[0], rules)
    return verify(golds, preds, timeout_seconds=None) if constants is None else constants


def _parse(answer: str) -> list[Any]:
    """The expressions in an answer, [] where math-verify reads none. Plain numbers stay exact."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse
    from sympy import Rational

    if (value := number(_PERCENT.sub("", answer))) is not None:
        return [Rational(value.numerator, value.denominator)]
    ours = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=ours)
    answer = without_unit(answer).replace("\\$", "").replace("$", "").replace("np.", "\\")
    answer = _E_NOTATION.sub(r"\1 \\cdot 10^{\2}", answer)  # 1e3 would be read as 1
    return list(parse(f"\\boxed{{{answer}}}", [config], "no_fallback", parsing_timeout=None))


def _same_constant(gold: Any, pred: Any, rules: Rules) -> bool | None:
    """Two real constants by value, None for anything else.

    math-verify rounds to 6 decimals, where all small numbers are equal; here the difference is relative.
    """
    from sympy import Float

    if not all(getattr(x, "is_number", False) and x.is_real and x.is_finite for x in (gold, pred)):
        return None
    exact = not (rules.rel_tol or rules.abs_tol)
    if gold.is_rational and pred.is_rational and exact:
        return bool(gold.doit() == pred.doit())
    approximate = pred.has(Float) or pred.is_Rational
    relative = max(rules.rel_tol, float(APPROXIMATE) if approximate else 1e-15)
    scale = abs(gold.evalf(30)) or 1
    return bool(abs((gold - pred).evalf(30)) <= max(rules.abs_tol, relative * scale))
