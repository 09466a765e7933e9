"""Python as text: what of it parses, which names it binds and which it needs. Nothing here is executed."""

from __future__ import annotations

import ast
import builtins
import re
import warnings

MAX_PROGRAM = 100_000
"""Characters; what is longer is not parsed."""
CUTS = 8
"""How often a text is cut at a syntax error before it is given up: bounds the work on pathological text."""

_TOP_LEVEL = re.compile(r"[^\s)\]}#]")
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n?", re.MULTILINE)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def parse(code: str) -> ast.Module | None:
    """The syntax tree; None where the text is no Python, too long or nested too deeply."""
    return _parse(code)[0]


def _parse(code: str) -> tuple[ast.Module | None, int]:
    """The tree, or None and the line of the error (from 1; 0 where it has none)."""
    if len(code) > MAX_PROGRAM:
        return None, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code), 0
    except SyntaxError as error:
        return None, error.lineno or 0
    except (ValueError, MemoryError, RecursionError):  # a null byte; nesting
        return None, 0


def leading_statements(text: str, keep: int = 0) -> str | None:
    """The longest beginning of a text that consists of whole top-level statements, or None where that would end
    before line `keep`. The text is cut at the statement of each syntax error, so prose after a program falls away.
    """
    lines = text.split("\n")
    for _ in range(CUTS):
        tree, line = _parse("\n".join(lines))
        if tree is not None:
            return "\n".join(lines[: _end(tree, len(lines))])
        cut = min(line, len(lines)) - 1
        while cut > keep and not _TOP_LEVEL.match(lines[cut]):
            cut -= 1
        if cut <= keep:
            return None
        lines = lines[:cut]
    return None


def _end(tree: ast.Module, lines: int) -> int:
    """Where the program ends when trailing expressions that do nothing are left out: prose may parse (`x is fine`)."""
    body = list(tree.body)
    while body and isinstance(body[-1], ast.Expr) and not isinstance(body[-1].value, ast.Call):
        body.pop()
    if len(body) == len(tree.body):
        return lines
    return (body[-1].end_lineno or 0) if body else 0


def top_level_names(tree: ast.Module) -> set[str]:
    """Names that the module binds, by definition, assignment or import, also inside a top-level `if` or `try`."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def method_owner(tree: ast.Module, name: str) -> str | None:
    """The last top-level class with a method of this name (`class Solution: def name(self, ...)`)."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    owners = [c.name for c in classes if any(isinstance(m, _FUNCTIONS) and m.name == name for m in c.body)]
    return owners[-1] if owners else None


def free_names(tree: ast.Module) -> set[str]:
    """Names that are read and bound nowhere in the module, scopes aside: what it expects from elsewhere."""
    read: set[str] = set()
    bound = top_level_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return read - bound - set(dir(builtins))


def before(prompt: str, name: str) -> str:
    """What a prompt writes before the definition of a function: its imports and helpers."""
    lines = prompt.split("\n")
    tree = parse(prompt)
    for node in tree.body if tree else []:
        if isinstance(node, _FUNCTIONS) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            return "\n".join(lines[: first - 1]).strip()
    return ""


def missing_statements(preamble: str, tree: ast.Module) -> str:
    """The statements of a preamble that bind a name which the program does not bind itself."""
    own = top_level_names(tree)
    source = parse(preamble)
    kept = [
        ast.get_source_segment(preamble, node) or ""
        for node in (source.body if source else [])
        if top_level_names(ast.Module([node], [])) - own
    ]
    return "\n\n".join(kept)


def joined(parts: list[str]) -> str:
    """Programs one after the other, `from __future__` lines first, where Python wants them."""
    code = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    if len(parts) < 2:
        return code
    futures = "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(code))
    return futures + _FUTURE.sub("", code)


def returns(tree: ast.Module, name: str) -> bool:
    """Whether the last top-level function of this name has a statement that gives something back."""
    functions = [node for node in tree.body if isinstance(node, _FUNCTIONS) and node.name == name]
    inside = ast.walk(functions[-1]) if functions else ()
    return any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom | ast.Raise) for node in inside)
