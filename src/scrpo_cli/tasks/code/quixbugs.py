"""The tests of QuixBugs as test code: rows of arguments and results, or the upstream pytest file of a graph program."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import Any

PLAIN = '''\
def _plain(value):
    """Generators and tuples as lists, inside of lists too: what JSON can say."""
    if hasattr(value, "__next__") or isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


'''


def quixbugs_tests(row: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The runnable test code of a row and the modules that it imports; KeyError, TypeError, SyntaxError or ValueError
    where the row is not of the form of QuixBugs.
    """
    meta = row.get("meta") or {}
    if row["test_kind"] == "json":
        return json_tests(row["entry_point"], row["tests"], meta.get("slow_tests") or ()), {}
    modules = {"node": meta["node_py"]} if meta.get("needs_node_py") else {}
    return pytest_tests(row["tests_py"]), modules


def json_tests(name: str, cases: Sequence[Any], slow: Collection[int]) -> str:
    """One assertion for each [arguments, result], without the slow ones. `sqrt` is right within its last argument."""
    lines = []
    for arguments, result in (case for i, case in enumerate(cases) if i not in slow):
        listed = arguments if isinstance(arguments, list) else [arguments]
        call = f"{name}({', '.join(map(repr, listed))})"
        if name == "sqrt":
            lines.append(f"assert abs({call} - {result!r}) <= {listed[-1]!r}")
        else:
            lines.append(f"assert _plain({call}) == {result!r}")
    return PLAIN + "\n".join(lines) + "\n"


def pytest_tests(source: str) -> str:
    """The test file without pytest and without its choice between two versions, then a call of each test."""
    tree = ast.parse(source)
    dropped: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.If) or (isinstance(node, ast.Import) and node.names[0].name == "pytest"):
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = [line for number, line in enumerate(source.split("\n"), 1) if number not in dropped]
    calls = [f"{n.name}()" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    return "\n".join([*kept, *calls]).strip("\n") + "\n"
