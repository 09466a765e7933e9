"""From a response to its final answer. A pure function of the text: nothing here knows the reference answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

How = Literal["boxed", "####", "A:", "phrase", "thinking", "nothing"]

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is no brace
_UNBRACED = re.compile(r"[^\s${}]+")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_A_LINE = re.compile(r"^[ \t]*A:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_PHRASE = re.compile(r"\b(?:final\s+)?answer(?:\s+is|\s*:)(?:\s*:)?[\s*]*", re.IGNORECASE)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE = re.compile(r"[^\n]*?(?=\.(?:\s|$)|\n|$)")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The final answer, or None, and the rule that found it. `thinking`: the response never left `<think>`."""

    answer: str | None
    how: How


def extract(response: str) -> Extracted:
    """The final answer of a response, by the most trusted rule that finds one; the last match of a rule counts."""
    text = _after_thinking(response)
    if text is None:
        return Extracted(None, "thinking")
    if (boxed := _last_box(text)) is not None:
        return Extracted(boxed, "boxed")
    if hashes := _HASHES.findall(text):
        return Extracted(_tidy(hashes[-1]), "####")
    if a_lines := _A_LINE.findall(text):
        return Extracted(_tidy(a_lines[-1]), "A:")
    if phrase := _last_phrase(text):
        return Extracted(phrase, "phrase")
    return Extracted(None, "nothing")


def last_box(response: str) -> str | None:
    """The last filled box of the final part of a response, or None: the strictest rule alone."""
    text = _after_thinking(response)
    return None if text is None else _last_box(text)


def _after_thinking(response: str) -> str | None:
    """What follows `</think>`; all of it where nothing was thought aloud; None inside an unfinished `<think>`."""
    tail = response.rpartition("</think>")[2]
    return None if "<think>" in tail else tail


def _last_box(text: str) -> str | None:
    """Content of the last balanced, non-empty `\\boxed{}` or `\\fbox{}`, or the token after a bare `\\boxed`."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    closing = _closing_braces(text)
    for box in reversed(boxes):
        start = box.end()
        if text.startswith("{", start):
            content = text[start + 1 : closing.get(start, start)].strip()
        else:
            token = _UNBRACED.match(text, start)
            content = token[0].rstrip(".,;") if token else ""
        if content:
            return content
    return None


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
    if formula := _DOLLARS.match(text, start):
        answer = next(part for part in formula.groups() if part is not None).strip()
    else:
        answer = _tidy(_SENTENCE.match(text, start)[0])  # type: ignore[index]  # it matches everywhere
    return answer if answer and not _BOX.match(answer) else None  # the box was empty, or it had been found


def _tidy(answer: str) -> str:
    """Without the markup and the full stop around it."""
    return answer.strip().strip("*`").strip().rstrip(".").strip()
