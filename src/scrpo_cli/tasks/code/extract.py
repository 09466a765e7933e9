"""From a response to the program in it. A pure function of the text: nothing is executed, nothing here knows a test.

docs/data.md has the rules as a table. What parses is found by the parser; the work is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import Literal

from scrpo_cli.tasks.code.fences import blocks, dedented, untranscribed
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

How = Literal["block", "text", "completion", "thinking", "nothing"]
STARTS = 8
"""How many lines that look like the beginning of a program are tried in a text without fences."""

_START = re.compile(r"(?:async )?def |class |import \w|from \S+ import |@\w|[A-Za-z_]\w* *(?::[^=\n]*)?=(?!=)")
_INDENTED = re.compile(r"\n*[ \t]+\S")
_SOME_DEFINITION = re.compile(r"^(?:async )?(?:def|class) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Extracted:
    """The program, or None, and the rule that found it. `thinking`: the response never left `<think>`."""

    program: str | None
    how: How


def extract_program(response: str, entry_point: str, prompt: str = "") -> Extracted:
    """The program of a response that is to define `entry_point`. `prompt` is the beginning of a program that the
    response may continue; its imports and helpers are put before a program that lacks them.
    """
    text = _after_thinking(response.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff"))
    if text is None:
        return Extracted(None, "thinking")
    found = [block.code for block in blocks(text) if block.python]
    for how, program in _candidates(text, found, entry_point, prompt):
        if program is not None:
            return Extracted(_completed(program, entry_point, prompt), how)
    return Extracted(None, "nothing")


def _after_thinking(response: str) -> str | None:
    """What follows `</think>`; all of it where nothing was thought aloud; None inside an unfinished `<think>`."""
    tail = response.rpartition("</think>")[2]
    return None if "<think>" in tail else tail


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
