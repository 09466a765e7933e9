"""The code blocks of a chat text: fences, `[BEGIN]`-like tags, transcripts of the interactive interpreter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

_FENCE = re.compile(r"^([^`~]*)(`{3,}|~{3,})([^`]*)$")
_LANGUAGE = re.compile(r"\{?\.?([A-Za-z0-9_+#-]*)")
_TAG = re.compile(r"\[(/?PYTHON|BEGIN|DONE)\]")
_OPENING = ("PYTHON", "BEGIN")
_PROMPT = re.compile(r"^(?:>>>|\.\.\.)(?: |$)")


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code and the language that its fence names, in lower case."""

    language: str
    code: str

    @property
    def python(self) -> bool:
        """Named as Python, or not named at all."""
        return not self.language or self.language.startswith("py")


def blocks(text: str) -> list[Block]:
    """All blocks in order: of the fences, or of the tags where a text has no fences."""
    found = list(_fenced(text))
    return [Block(block.language, untranscribed(block.code)) for block in (found or list(_tagged(text)))]


def _fenced(text: str) -> Iterator[Block]:
    """A fence may follow words on its line. It ends with one of its own character that is at least as long, which may
    follow code on its line, or with the text.
    """
    opened: tuple[str, str] | None = None  # marks, language
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, lines = (fence[2], language_of(fence[3])), []
        elif fence and not fence[3].strip() and fence[2].startswith(opened[0]):
            yield Block(opened[1], dedented("\n".join([*lines, fence[1]])))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        yield Block(opened[1], dedented("\n".join(lines)))


def dedented(code: str) -> str:
    """Without the indent that all lines share; blank lines, which may be inside a string, stay where there is none."""
    return code if re.search(r"^\S", code, re.MULTILINE) else dedent(code)


def language_of(info: str) -> str:
    """The language that the text after a fence names: `python`, `{.python}`, `py title="x"`."""
    match = _LANGUAGE.match(info.strip())
    return match[1].lower() if match else ""


def _tagged(text: str) -> Iterator[Block]:
    """`[BEGIN] ... [DONE]`, `[PYTHON] ... [/PYTHON]`. Before the first closing tag an opening one may be missing: the
    prompt has written it. After the last opening one the closing one may be missing: the answer was cut.
    """
    start: int | None = 0
    tags = list(_TAG.finditer(text))
    for tag in tags:
        opens = tag[1] in _OPENING
        if not opens and start is not None:
            yield Block("", text[start : tag.start()].strip("\n"))
        start = tag.end() if opens else None
    if tags and start is not None:
        yield Block("", text[start:].strip("\n"))


def untranscribed(code: str) -> str:
    """The input lines of an interactive session, where the code is one; else the code itself."""
    if not code.lstrip().startswith(">>>"):
        return code
    lines = (line.lstrip() for line in code.split("\n"))
    return "\n".join(line[4:] for line in lines if _PROMPT.match(line))
