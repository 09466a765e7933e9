"""Answers with parts: bare lists, tuples, sets, intervals and matrices, compared part by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from scrpo_cli.tasks.grading.numbers import Rules, normalize, number
from scrpo_cli.tasks.grading.units import TEXT

Same = Callable[[str, str, Rules], bool | None]  # None: it cannot tell

_NAME = r"\\?[A-Za-z]\w*(?:_\{\\?\w+\})?'*(?:\((?:\w|\\[a-z]+)+(?:, ?\w+)*\))?"
TURNED = re.compile(
    r"(?<![\\A-Za-z])(?i:not?|nor|never|neither|or|and|either|except\w*|exclud\w*|unless|if|but|least|most|than|more|"
    r"less|fewer|other|different|unlike|wrong|incorrect|false|untrue|invalid|impossible|extraneous|rejected|apart|instead|"
    r"lambda|for|half|third|quarter|twice|double|triple|times|minus|negative|square|squared|cube|cubed|root|reciprocal|"
    r"inverse|opposite|logarithm|power)\b|\\(?:iff|forall|exists|neg|Leftrightarrow|Rightarrow|implies|ne)(?![a-z])"
)
"""Words and signs with which a label says something else than the value of what it names."""
_NO_LABEL = rf"(?![A-J] ?:|\\(?:pi|infty)\s*=|.*(?:{TURNED.pattern}))"
_INDEXED = r"[A-Za-z](?:_\{?\w+\}?)?"
ASSIGNED = re.compile(
    rf"^{_NO_LABEL}({_NAME}(?: ?: ?{_NAME})*|\({_INDEXED}(?:, ?{_INDEXED})+\)|{TEXT.pattern}"
    r"|[A-Z]\^\{?(?:-1|T|\\top)\}?|\\(?:mathbf|vec|overline|bar|hat|tilde)\s*\{?[A-Za-z]+\}?"
    r"|(?:\\(?:angle|triangle|overline|vec|Delta)|\|)? ?\{?[A-Z]{1,4}\}?\|?|[A-Za-z]{2,}(?: [A-Za-z]+){0,6})"
    r"\s*(?:=|\\in(?![a-z])|:(?= )|is(?= ))\s*(?=[^=]+$)"
)
"""What an answer is the value of: `x =`, `f(2) =`, `S_1:S_2 =`, `\\text{Area} =`, `Perimeter:`; no choice (`C: 12`)."""

_BOUNDS = re.compile(r"[<>]|\\(?:[lg]eq?(?:slant)?|[lg]t|neq?)(?![a-z])")
_SIGNS = re.compile(r"\\pm\s*")
_SEPARATES = re.compile(r"=|:|\\in| is ")
_AND_OR = re.compile(
    r"\s*(?:\\text\s*\{[\s,]*(?:and|or)\s*\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])|\\(?:l?or|vee)(?![a-z]))\s*"
)
_OR = re.compile(r"\\(?:l?or|vee)(?![a-z])|(?<![\\A-Za-z])or(?![A-Za-z])|\\text\s*\{[\s,]*or\s*\}")
_THOUSAND = re.compile(r"(?<![\d.,])(\d{1,3}),(\d{3})(?![\d])")
_MATRIX = re.compile(
    r"[\[(]?\\begin\{(?:[pbB]?(?:small)?matrix|array)\}(?:\{[lcr|]+\})?(.*?)\\end\{(?:[pbB]?(?:small)?matrix|array)\}[\])]?"
)


def items(text: str) -> list[str]:
    """The items of a bare list, separated by commas, semicolons, `and` or `or` outside of brackets.

    A comma without a space between digits separates thousands where other commas have their space: `1,200, 1,300`.
    """
    text = _AND_OR.sub(", ", text.replace("\\$", "").replace("$", ""))
    if ", " in text:
        text = _THOUSAND.sub(r"\1\2", text)
    found, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in ",;" and depth <= 0:
            found.append(text[start:i])
            start = i + 1
    return [item.strip() for item in [*found, text[start:]] if item.strip()]


def is_list(answer: str) -> bool:
    """Whether an answer is a bare list (`1,-2`) and not a number such as `58,500`."""
    answer = normalize(answer)
    return number(answer) is None and len(items(answer)) > 1


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of an answer and what holds them: `()`, `[)`, `{}`, a matrix's shape, or nothing (a bare list)."""

    kind: str
    items: list[str]


def parts(text: str) -> Parts | None:
    """The parts of an answer that has at least two, else None."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix[1].split("\\\\") if row.strip()]
        entries = [entry.strip() for row in rows for entry in row]
        return Parts("matrix " + ",".join(str(len(row)) for row in rows), entries) if all(entries) else None
    brackets, inside = _bracketed(text)
    found = items(inside)
    return Parts(brackets, found) if len(found) > 1 else None


def _bracketed(text: str) -> tuple[str, str]:
    """The pair of brackets that holds all of a text, mixed for intervals (`[)`), and what is in it."""
    left = next((b for b in ("(", "[", "\\{") if text.startswith(b)), "")
    right = next((b for b in ("\\}", ")", "]") if text.endswith(b)), "")
    inside, depth = text[len(left) : len(text) - len(right)], 0
    for char in inside:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            break
    if not left or not right or depth or (left == "\\{") != (right == "\\}"):
        return "", text
    return (left + right).replace("\\", ""), inside


def right_sides(gold: str, pred: str) -> tuple[str, str]:
    """`x=5` against `5`: the right-hand sides, where one side alone names a variable or both name the same."""
    if not _SEPARATES.search(gold + pred):
        return gold, pred
    assigned = [ASSIGNED.match(gold), ASSIGNED.match(pred)]
    names = {match[1] for match in assigned if match}
    other_equation = any(match is None and "=" in text for match, text in zip(assigned, (gold, pred), strict=True))
    return (gold, pred) if len(names) != 1 or other_equation else (ASSIGNED.sub("", gold), ASSIGNED.sub("", pred))


def same_parts(gold: str, pred: str, rules: Rules, same: Same) -> bool | None:
    """Part by part; None where there are no parts or `same` cannot tell.

    Order counts, save in sets, among equations (`x=1, y=2`), points (`(1,2), (2,1)`) and alternatives (`1 or 2`), and
    where the rules say so. A list in answer to a single value is right when each of its items is: `x+11` or `11+x`.
    """
    theirs, ours = parts(gold), parts(_both_signs(pred))
    if "\\cup" in gold and _OR.search(pred):
        return None
    if ours is None or ((theirs is None or theirs.kind) and _BOUNDS.search(pred)):  # x >= -2 and x <= 7
        return None
    if "\\pm" in gold + pred and (theirs is None or len(theirs.items) != len(ours.items)):
        return None
    single = replace(rules, unordered=False)
    if theirs is None:
        return _all(same(gold, item, single) for item in ours.items) if ours.kind == "" else None
    if not _compatible(theirs.kind, ours.kind):
        return None if "matrix" in theirs.kind + ours.kind else False
    if theirs.kind == "{}":
        each = [_any(same(item, other, single) for other in ours.items) for item in theirs.items]
        return _all([*each, *(_any(same(item, other, single) for item in theirs.items) for other in ours.items)])
    if len(theirs.items) != len(ours.items):
        return False
    if theirs.kind == "" and (rules.unordered or _alternatives(theirs.items) or _OR.search(pred)):
        return _in_any_order(theirs.items, ours.items, single, same)
    return _all(same(item, other, single) for item, other in zip(theirs.items, ours.items, strict=True))


def _both_signs(text: str) -> str:
    """`(0, \\pm 2)` as `(0, +2), (0, -2)`."""
    if text.count("\\pm") != 1 or not _bracketed(text)[0]:
        return text
    return ", ".join(_SIGNS.sub(sign, text) for sign in "+-")


def _alternatives(listed: list[str]) -> bool:
    """Whether the items of a bare list have no order: equations, or points."""
    return all(ASSIGNED.match(item) for item in listed) or all(_bracketed(item)[0] == "()" for item in listed)


def _compatible(gold: str, pred: str) -> bool:
    """The same brackets; or none on one side, where the other has those of a tuple or a set."""
    return gold == pred or ("" in (gold, pred) and gold + pred in ("()", "{}"))


def _in_any_order(golds: list[str], preds: list[str], rules: Rules, same: Same) -> bool | None:
    """Whether each item has a partner of its own."""
    left, unknown = list(preds), False
    for item in golds:
        verdicts = [same(item, other, rules) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """False if one is, else None if one is unknown."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown |= verdict is None
    return None if unknown else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    opposite = _all(None if verdict is None else not verdict for verdict in verdicts)
    return None if opposite is None else not opposite
