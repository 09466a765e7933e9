"""From a response to its final answer. A pure function of the text: nothing here knows the reference answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

How = Literal["boxed", "####", "A:", "phrase", "thinking", "nothing"]

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is no brace
_UNBRACED = re.compile(r"[^\s${}]+")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_A_LINE = re.compile(r"^[ \t]*A:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_HEADING = re.compile(r"(?:\d+[.):]\s+)?(?!(?:yes|no|true|false)\b)[A-Za-z]{2}", re.IGNORECASE)  # #### Step 2
_JOINT = re.compile(  # what stands between two boxes that are one answer: "or", "$ and $x = "
    r"(?:[\s,;$*()}]|\\[()\[\],;: ]|\\q?quad\b|\\text\s*\{|\b(?:and|or|either|maybe|perhaps|possibly|also)\b)*"
    r"(?:\\?[A-Za-z]\w{0,9}(?:\(\w\))?\s*=[\s$]*)?"
)
_JOINT_LENGTH = 60
_OR = re.compile(r"\b(?:or|either|maybe|perhaps|possibly)\b")
_PHRASE = re.compile(
    r"(?:(?<![A-Za-z\d])(?:answer|(?:correct|right) (?:option|choice))"
    r"(?:\s+(?:is|equals|must be|should be|would be)\b|[*_]*\s*[:=])|^[#* \t]*(?:final[ \t]+)?answer[* \t]*$)"
    r"(?:\s*:)?[\s*]*(?:__\s*)?(?:(?:therefore|thus|hence|then|simply|just|equal to)\b,?[\s*]*)?",
    re.IGNORECASE | re.MULTILINE,
)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_MONEY = re.compile(r"\d(?s:.*)(?:[\s.,]$|(?<![A-Za-z\\])[A-Za-z]{2})")  # "$5 and $3", "$18. She paid $2"
_GOES_ON = re.compile(r"[ \t*_]*(?:[;,/|:-]?[ \t]*)(?:\n?[ \t]*\b(?:or|and)\b|[^\s.,*_])")
_ASIDE = re.compile(
    r"\s*,\s*(?!(?:or|and|but|not|nor|maybe|perhaps|possibly|alternatively|unless|if|plus|minus|times)\b)[a-z]+\b"
)
_SENTENCE = re.compile(r"[^\n]*?(?=\.(?:\s|$)|\n|$|,?\s(?:because|since|which)\b)")
_FINAL = re.compile(r"\bfinal\s+answer\b", re.IGNORECASE)
_SAYS_A_VALUE = re.compile(r"[-+]?[\d$\\(\[.]|[A-J]$")
_STATED = re.compile(
    r"[^\d=]*?[^\d=\s]\s+(?:is|are|equals|must be|will be|would be)\s+(?:simply |exactly |equal to )?"
    r"(?=[-+$\\(*]*\d|\$|\\)"
)
_IS = re.compile(r"\b(?:is|are|equals)\b")
_NOT_STATED = re.compile(r"\b(?:not|or|either|neither|nor|than|least|most|between|that|if|unless)\b", re.IGNORECASE)
_OPENED = re.compile(r"(?<!\w )(?<![`'\"\u201c(])<think>")  # no mere mention of the tag
_CLOSED = re.compile(r"(?<![`'\"\u201c])</think>")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The final answer, or None, and the rule that found it. `thinking`: the response never left `<think>`."""

    answer: str | None
    how: How


def extract(response: str) -> Extracted:
    """The final answer of a response, by the most trusted rule that finds one; the last match of a rule counts.

    A "final answer" that is stated after the last box takes its place: the box held an intermediate result.
    """
    text = after_thinking(response)
    if text is None:
        return Extracted(None, "thinking")
    boxes, end = _last_boxes(text)
    if boxes and _FINAL.search(text, end) and (later := _last_phrase(text[end:])) and _SAYS_A_VALUE.match(later):
        return Extracted(later, "phrase")
    if boxes:
        return Extracted(boxes, "boxed")
    if hashes := [line for line in _HASHES.findall(text) if not _HEADING.match(line)]:
        return Extracted(_tidy(hashes[-1]), "####")
    if a_lines := _A_LINE.findall(text):
        return Extracted(_tidy(a_lines[-1]), "A:")
    if phrase := _last_phrase(text):
        return Extracted(phrase, "phrase")
    return Extracted(None, "nothing")


def last_box(response: str) -> str | None:
    """The last filled box of the final part of a response, or None: the strictest rule alone."""
    return next((content for _, _, content in _boxes_backwards(after_thinking(response) or "")), None)


def after_thinking(response: str) -> str | None:
    """What follows `</think>`; all of it where nothing was thought aloud; None inside an unfinished `<think>`."""
    closed = 0
    for closing in _CLOSED.finditer(response):
        closed = closing.end()
    return None if _OPENED.search(response, closed) else response[closed:]


def _last_boxes(text: str) -> tuple[str, int]:
    """The last filled box, together with those before it that belong to the same statement: `3 or 4` of
    "\\boxed{3} or \\boxed{4}", so that a hedge is right for neither; and where it ends. Empty where there is none.
    """
    parts: list[str] = []  # from the last to the first, with what joins them
    last, later_start, last_end = "", 0, 0
    for start, end, content in _boxes_backwards(text):
        gap = text[end:later_start]
        if not parts:
            parts, last_end = [content], end
        elif end > later_start or len(gap) > _JOINT_LENGTH or not _JOINT.fullmatch(gap):
            break
        elif content != last:
            parts += [" or " if _OR.search(gap) else ", ", content]
        last, later_start = content, start
    return "".join(reversed(parts)), last_end


def _boxes_backwards(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of balanced, non-empty `\\boxed{}` and `\\fbox{}`, or of the token after a bare `\\boxed`.

    The last one first.
    """
    boxes = list(_BOX.finditer(text))
    closing = _closing_braces(text) if boxes else {}
    for box in reversed(boxes):
        start = box.end()
        if text.startswith("{", start):
            end = closing.get(start, start) + 1
            content = text[start + 1 : end - 1].strip()
        else:
            token = _UNBRACED.match(text, start)
            end = token.end() if token else start
            content = token[0].rstrip(".,;") if token else ""
        if content:
            yield box.start(), end, content


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for every opening one that has it; one pass, so that a megabyte is no problem."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _last_phrase(text: str) -> str | None:
    """What the last "the answer is ..." or "answer: ..." says: its formula, or the words up to the sentence's end."""
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    start = phrases[-1].end()
    formula = _DOLLARS.match(text, start)
    if formula and formula[2] and _MONEY.match(formula[2]):
        formula = None
    if formula and (_ASIDE.match(text, formula.end()) or not _GOES_ON.match(text, formula.end())):
        answer = next(part for part in formula.groups() if part is not None).strip()
    elif formula:  # $40$ million, $40$ or $41$
        answer = _tidy(text[start : formula.end()] + _SENTENCE.match(text, formula.end())[0])  # type: ignore[index]
    else:
        answer = _stated(_tidy(_SENTENCE.match(text, start)[0]))  # type: ignore[index]  # it matches everywhere
    return answer if answer and not _BOX.match(answer) else None  # the box was empty, or it had been found


def _stated(sentence: str) -> str:
    """`34` of "The largest $n$ is 34"; the whole sentence where it says more than one thing."""
    stated = _STATED.match(sentence)
    if not stated or _NOT_STATED.search(stated[0]):
        return sentence
    value = sentence[stated.end() :].strip().strip("*")
    if _IS.search(value):
        return sentence
    formula = _DOLLARS.fullmatch(value)
    return next(part for part in formula.groups() if part is not None).strip() if formula else value


def _tidy(answer: str) -> str:
    """Without the markup and the full stop around it."""
    return answer.strip().strip("*`").strip().rstrip(".").strip()
