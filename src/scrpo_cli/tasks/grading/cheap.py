"""The first pass: verdicts that strings, exact numbers, words and lists of those settle in microseconds."""

from __future__ import annotations

import re
from fractions import Fraction

from scrpo_cli.tasks.grading.lists import ASSIGNED, TURNED, parts, right_sides, same_parts
from scrpo_cli.tasks.grading.numbers import (
    EXACT,
    MAX_CHARACTERS,
    Form,
    Rules,
    is_based,
    normalize,
    number,
    same_based,
    same_number,
)
from scrpo_cli.tasks.grading.units import TEXT, other_dimension, without_unit

_SCRIPT = re.compile(r"([_^])\{(\w)\}")
_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_SPACED = re.compile(r"[+-]?\d[\d.]*(?: \d[\d.]*)+")
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOSEN = re.compile(r"(?:(?:option|choice)\s+)?(?:[(\[]([A-Ja-j])[)\]]|([A-Ja-j])(?:[).:]|$))", re.IGNORECASE)
_ANOTHER = re.compile(
    r"\s*(?:[,/;&|-]|or\b|and\b|to\b|through\b|.*(?<![A-Za-z\\])[A-J](?![A-Za-z])(?! [a-z])"
    r"|.*\b(?:any|all|every|each|both|either|neither|none|not|others?)\b)",
    re.DOTALL,
)
_WORDS = re.compile(r"(?=.*[A-Za-z]{4}|yes|no)[A-Za-z][A-Za-z ,'-]*", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the) ")
_NO_PROSE = "and|or|pi|ln|log|exp|sqrt|sin|cos|tan|cot|sec|csc"
_PROSE = re.compile(rf"(?:^|\s)(?!(?:{_NO_PROSE})\b)[A-Za-z]{{2,}}(?=[\s,.;!?]|$)")
_NUMBERS = re.compile(r"\d+")
_TIME = re.compile(r"(\d{1,2}) *: *(\d\d)(?: *([ap])\.? ?m\.?)?", re.IGNORECASE)
_LISTED = re.compile(r",|\b(?:and|or)\b")
_LOGIC = re.compile(r"\\(?:iff|forall|exists|neg|Leftrightarrow|Rightarrow|implies|rightarrow|to)(?![a-z])")
_SET = re.compile(r"\\\{|\\in(?![a-z])")
_COLON = re.compile(r":| to |\\text *\{ *(?:to|:) *\}")
_TERM = re.compile(r"\d+(?:\.\d+)?")
_NAMED = re.compile(
    r"\\?[A-Za-z]\w*(?:_\{\\?\w+\})?(?:\(\w+\))?|\\(?:bar|hat|vec|overline|tilde|mathbf) ?\{?[A-Za-z]\}?"
)
_CONSTANT = re.compile(r"\\(?:pi|infty)")
_LETTER = re.compile(r"[A-Za-z]")
_OPERATOR = re.compile(r"\\(?:lim|max|min|sup|inf|deg|dim|det|sum|prod|int|gcd|lcm|arg|operatorname)(?![a-z])")
_KNOWN = re.compile(r"[A-Za-z]\(-?\d+\)")
_SUM = re.compile(r"[^\s(={^_*/][\s]*[-+]")
_CALLED = re.compile(r"([A-Za-z])\(\w+\)|e(?=\^)")
_COMMANDS = re.compile(r"\\[A-Za-z]+|_\{?\w+\}?")
_LETTERS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|text|angle|vec|overline)")
_CLOCK = re.compile(r"(?<![\d:])\d{1,2} *: *\d\d(?![\d:])")


def cheap(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """The verdict where strings and exact numbers settle it, else None. Linear in the length of its input."""
    gold, pred = normalize(gold), normalize(pred)
    if gold == pred:
        return True
    if max(len(gold), len(pred)) > MAX_CHARACTERS:
        return True if squeeze(gold) == squeeze(pred) else None
    gold, pred = right_sides(gold, pred)
    if other_dimension(gold, pred):
        return False
    for same in (same_number, same_time, same_ratio):
        if (verdict := same(gold, pred, rules)) is not None:
            return verdict
    if squeeze(gold) == squeeze(pred):
        return True
    if not pred or _SPACED.fullmatch(pred) or is_prose(pred):
        return same_words(gold, pred) or False
    for verdict in (same_based(gold, pred), same_words(gold, pred), same_parts(gold, pred, rules, cheap)):
        if verdict is not None:
            return verdict
    return same_value(gold, pred, rules)


def plain(gold: str) -> bool:
    """Whether a normalised reference answer is a number, a word, a choice, a time, or has such parts alone."""
    if number(gold) or same_words(gold, "") is not None or is_based(gold) or _TIME.fullmatch(TEXT.sub(r"\1", gold)):
        return True
    listed = parts(gold)
    return listed is not None and all(plain(item) for item in listed.items)


def same_value(gold: str, pred: str, rules: Rules) -> bool | None:
    """What is no plain number is none that is still to be computed: `12+35-7` for 40, `2^5` for 32, `5!` for 120.

    Its value may be said behind equals signs (`12+35-7=40`), where all numbers have to agree. None unless the reference
    is a plain number and the answer needs no more than this.
    """
    if (value := number(gold)) is None or value.form is Form.TO_COMPUTE:
        return None
    if listed := parts(pred):
        return None if listed.kind in ("", "{}") else False
    if _SET.search(pred):
        return None
    if "=" in pred:
        return same_sides(gold, pred, rules)
    if (quotient := _ratio(pred)) and len(quotient) == 2:
        return same_number(gold, "/".join(quotient), rules)
    return None if rules.rel_tol or rules.abs_tol else False


def same_ratio(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """`3:2` against `6:4`, `3:2:1` or a fraction; None unless that is what the two answers are."""
    theirs, ours = _ratio(gold), _ratio(pred)
    if not theirs or (ours is None and (len(theirs) > 2 or not number(pred))):
        return None
    if ours is None:
        return same_number("/".join(theirs), pred, rules)
    return len(ours) == len(theirs) and len({Fraction(a) / Fraction(b) for a, b in zip(ours, theirs, strict=True)}) == 1


def _ratio(text: str) -> list[str] | None:
    """The terms of `3:2` or of `3 to 2`, none of them 0."""
    terms = [term.strip() for term in _COLON.split(text)]
    return terms if len(terms) > 1 and all(_TERM.fullmatch(term) and Fraction(term) for term in terms) else None


def same_sides(gold: str, pred: str, rules: Rules) -> bool | None:
    """A chain of equalities against a number: its last side; None where a side still has to be computed."""
    if _LOGIC.search(pred):
        return False
    sides = [side.strip() for side in pred.split("=")]
    if number(sides[0]) and len(sides) == 2 and number(sides[1]) is None:  # 5 = x
        sides.reverse()
    *names, last = sides
    if len(names) == 1 and not says_value_of(names[0]):
        return False
    values = [number(side) for side in sides]
    if any(value is None and not _LETTERS.search(side) for side, value in zip(sides, values, strict=True)):
        return None
    said = {value.value for value in values if value}
    if len(said) != 1 or values[-1] is None:
        return False if len(said) > 1 else None
    if said == {0} and len(names) == 1 and _SUM.search(_CALLED.sub("", names[0])):  # x-2y=0
        return False
    return same_number(gold, last, rules)


def says_value_of(side: str) -> bool:
    """Whether an equation with this side is an answer: a name, a computation, or a formula in several letters
    (`m+n = 33`). In one letter that does not stand alone it has yet to be solved (`x^3 = -1`, `\\sqrt{x} = 5`).
    """
    if TURNED.search(side) or _CONSTANT.fullmatch(side):
        return False
    if _NAMED.fullmatch(side) or _OPERATOR.match(side) or ASSIGNED.match(f"{side} = 0"):
        return True
    letters = set(_LETTER.findall(_CALLED.sub(r"\1", _KNOWN.sub("1", _COMMANDS.sub(" ", side)))))
    return not letters or len(letters) > 1


def squeeze(text: str) -> str:
    """For comparing as strings: no `\\text`, no dollars, no spaces (save between digits), `x_{1}` as `x_1`."""
    text = text.replace("\\$", "").replace("$", "") if "$" in text else text
    text = _SPACES.sub("", TEXT.sub(r"\1", text) if "\\" in text else text)
    return _SCRIPT.sub(r"\1\2", text) if "{" in text else text


def is_prose(pred: str) -> bool:
    """Words among several numbers ("41, no wait 42"), or three words and more: no answer.

    math-verify would take the first number, or multiply the letters.
    """
    words = len(_PROSE.findall(TEXT.sub("", without_unit(pred))))
    return words > 2 or (words > 0 and len(_NUMBERS.findall(pred)) > 1)


def same_words(gold: str, pred: str) -> bool | None:
    """Words letter by letter, whatever the case: `\\text{east}` is `East`; None where the reference is no word."""
    word, said = TEXT.sub(r"\1", gold).strip(" ."), TEXT.sub(r"\1", pred).strip(" .")
    if choice := _CHOICE.fullmatch(word):
        chosen = _same_choice(choice[1], said)
        return chosen or (False if TEXT.fullmatch(gold) else None)  # a bare C may be a variable
    if TEXT.fullmatch(gold) or _WORDS.fullmatch(word):
        return _bare(word) == _bare(said)
    return None


def _same_choice(letter: str, said: str) -> bool:
    """`C`, `(C)`, `C.`, `Option C`, `(C) 12`; never where another choice follows, as in `(C) or (D)`."""
    chosen = _CHOSEN.match(said)
    if not chosen or (chosen[1] or chosen[2]).upper() != letter:
        return False
    return not _ANOTHER.match(said, chosen.end())


def _bare(word: str) -> str:
    return _ARTICLE.sub("", word.lower().strip(" .\"'`"))


def same_time(gold: str, pred: str, rules: Rules = EXACT) -> bool | None:
    """Times of day: `7:30 p.m.` is `19:30`, and `7:30` where the reference says no more; None where there is none.

    math-verify would divide them.
    """
    if not (_CLOCK.search(gold) or _CLOCK.search(pred)) or _LISTED.search(pred):
        return None
    theirs, ours = (_TIME.fullmatch(TEXT.sub(r"\1", text)) for text in (gold, pred))
    if not theirs or not ours:
        return False
    literal = int(ours[1]) * 60 + int(ours[2])
    return _minutes(theirs) in (_minutes(ours), _minutes(ours) if theirs[3] else literal)


def _minutes(time: re.Match[str]) -> int:
    """Minutes since midnight."""
    hour, period = int(time[1]), (time[3] or "").lower()
    if period:
        hour = hour % 12 + (12 if period == "p" else 0)
    return hour * 60 + int(time[2])
