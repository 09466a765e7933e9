"""From a response to the program in it. A pure function of the text: nothing is executed, nothing here knows a test.

docs/data.md has the rules as a table. What parses is found by the parser; the work is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Literal

from scrpo_cli.tasks.code.python import (
    before,
    free_names,
    joined,
    leading_statements,
    method_owner,
    missing_statements,
    parse,
    returns,
    top_level_names,
)
from scrpo_cli.tasks.grading.extract import after_thinking

How = Literal["block", "text", "completion", "thinking", "nothing"]
STARTS = 8
"""How many lines that look like the beginning of a program are tried in a text without fences."""

_FENCE = re.compile(r"^([^`~]*)(`{3,}|~{3,})([^`]*)$")
_LANGUAGE = re.compile(r"\{?\.?([A-Za-z0-9_+#-]*)")
_TAG = re.compile(r"\[(/?PYTHON|BEGIN|DONE)\]")
_OPENING = ("PYTHON", "BEGIN")
_PROMPT = re.compile(r"^(?:>>>|\.\.\.)(?: |$)")
_START = re.compile(r"(?:async )?def |class |import \w|from \S+ import |@\w|[A-Za-z_]\w* *(?::[^=\n]*)?=(?!=)")
_INDENTED = re.compile(r"\n*[ \t]+\S")
_SOME_DEFINITION = re.compile(r"^(?:async )?(?:def|class) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ExtractedProgram:
    """The program, or None, and the rule that found it. `thinking`: the response never left `<think>`."""

    program: str | None
    how: How


def extract_program(response: str, entry_point: str, prompt: str = "") -> ExtractedProgram:
    """The program of a response that is to define `entry_point`. `prompt` is the beginning of a program that the
    response may continue; its imports and helpers are put before a program that lacks them.
    """
    text = after_thinking(response.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff"))
    if text is None:
        return ExtractedProgram(None, "thinking")
    found = [block.code for block in blocks(text) if block.python]
    for how, program in _candidates(text, found, entry_point, prompt):
        if program is not None:
            return ExtractedProgram(_completed(program, entry_point, prompt), how)
    return ExtractedProgram(None, "nothing")


def _candidates(text: str, found: Sequence[str], name: str, prompt: str) -> Iterator[tuple[How, str | None]]:
    """Programs by falling trust, each worked out when the ones before it are none."""
    if _INDENTED.match(text):
        yield "completion", _continued(prompt, text, name, [text])
    yield "block", _last_defining(found, name)
    yield "text", _bare(text, name)
    for body in [*reversed(found), text] if "\ndef " in "\n" + prompt else []:
        yield "completion", _continued(prompt, body, name, _bodies(body))
    yield "block", next((code for code in reversed(found) if _SOME_DEFINITION.search(code)), None)
    yield "text", _broken(text, name)


def _last_defining(found: Sequence[str], name: str) -> str | None:
    """The last block that defines the function, after the blocks that define what it needs."""
    defining = [defines(code, name) for code in found]
    if True not in defining:
        return None
    last = len(defining) - 1 - defining[::-1].index(True)
    tree = parse(found[last])
    if tree is None:  # cut short, or with prose in it
        return _bare(found[last], name) or found[last]
    needed = free_names(tree)
    helpers: list[str] = []
    for code, main in reversed(list(zip(found, defining, strict=True))):
        helper = None if main else parse(code)
        if helper is not None and needed & top_level_names(helper):
            needed |= free_names(helper)
            helpers.insert(0, code)
    return joined([*helpers, found[last]])


def defines(code: str, name: str) -> bool:
    """Whether the code binds the name at top level or as a method; by the look of its lines where it does not parse."""
    tree = parse(code)
    if tree is None:
        return re.search(rf"^[ \t]*(?:async +)?def +{re.escape(name)}\b", code, re.MULTILINE) is not None
    return name in top_level_names(tree) or method_owner(tree, name) is not None


def _bare(text: str, name: str) -> str | None:
    """A program without fences that defines the function, with prose around it or not."""
    text = untranscribed(text)
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if _START.match(line)][:STARTS]
    definition = re.compile(rf"([ \t]*)(?:async +)?def +{re.escape(name)}\b")
    indented = [(i, found[1]) for i, line in enumerate(lines) if (found := definition.match(line))]
    for i in [*starts, *(i for i, _ in indented[-1:])]:
        prefix = next((white for at, white in indented if at == i), "")
        rest = [line.removeprefix(prefix) for line in lines[i:]]
        program = leading_statements("\n".join(rest))
        if program is not None and defines(program, name):
            return program
    return None


def _bodies(text: str) -> list[str]:
    """A function's body as models write it: as it stands, without the indent of its first line, without any."""
    text = text.strip("\n")
    return [text, "    " + text.lstrip(), indent(dedented(text), "    ")]


def _continued(prompt: str, text: str, name: str, bodies: Sequence[str]) -> str | None:
    """The prompt with the body that makes its function give something back, cut where the program ends."""
    keep = prompt.rstrip("\n").count("\n") + 1
    for body in bodies if prompt and text.strip() else []:
        program = leading_statements(prompt.rstrip("\n") + "\n" + body.lstrip("\n"), keep)
        tree = parse(program) if program else None
        if program and tree and returns(tree, name):
            return program.strip("\n")
    return None


def _broken(text: str, name: str) -> str | None:
    """From the line that starts the function on, though it does not parse: it is an answer, and a wrong one."""
    found = re.search(rf"^(?:async +)?def +{re.escape(name)}\b", text, re.MULTILINE)
    return text[found.start() :] if found else None


def _completed(program: str, name: str, prompt: str) -> str:
    """With what the prompt writes before the function, where the program lacks it, and a method under its own name."""
    tree = parse(program)
    if tree is None:
        return program.strip("\n") + "\n"
    parts = [missing_statements(before(prompt, name), tree), program]
    if name not in top_level_names(tree) and (owner := method_owner(tree, name)):
        parts.append(f"{name} = {owner}().{name}")
    return joined(parts).strip("\n") + "\n"


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
