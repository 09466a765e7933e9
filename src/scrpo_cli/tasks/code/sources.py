"""Where programming problems come from: humaneval, mbpp, humanevalfix, quixbugs, and files of one's own.

A JSONL row has `id`, `prompt`, `entry_point` and `tests` (a runnable string, or a list of asserts); `test_imports`,
`solution`, `buggy` (a program to mend) and `show_tests` may be there. A file with one bad line is refused whole.
What a problem asks (`text`) never holds a hidden test; docs/data.md says what each source shows.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.files import REFUSED, read_rows
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.code.inside.checker import open_names
from scrpo_cli.tasks.code.python import before, parse, top_level_names
from scrpo_cli.tasks.sources import find_file, hub_rows, selected, text_field
from scrpo_cli.types import Problem

CODE_SETS = ("humaneval", "mbpp", "humanevalfix", "quixbugs")
MBPP_FILE, MBPP_SPLITS = "sanitized", ("prompt", "train", "validation", "test")
"""MBPP is one file. Its authors split it by task id: prompt 1-10, test 11-510, validation 511-600, train 601-974."""
SHOWN_TESTS = ("mbpp", "mbpp-sanitized")
"""Sources whose tests are part of what is asked: MBPP's authors show all of a problem's asserts."""

FIELDS = {"id", "source", "split", "problem", "prompt", "entry_point", "tests", "tests_py", "test_kind", "test_imports"}
FIELDS |= {"solution", "answer", "buggy", "show_tests", "meta"}
"""Fields of a row that the problem is made of; others become meta."""
HUB_NAMES = {"task_id": "id", "text": "prompt", "test": "tests", "test_list": "tests", "code": "solution"}
"""Names of the hub's HumanEval, HumanEvalPack and MBPP for ours."""

COMPLETE = "Complete the following Python function.\n\n{program}"
DESCRIBED = "{prompt}\n\nThe function must be called `{name}`."
TESTED = "{prompt} Your code should pass these tests:\n\n{tests}"
MEND = (
    "The Python program below has a bug. Write the whole function `{name}` without the bug.\n\n"
    "What it should do:\n\n{prompt}\n\nThe program:\n\n{program}"
)
"""TESTED is MBPP's own phrase (arXiv 2108.07732) [S]; the others are ours [I]."""
PLAIN = '''\
def _plain(value):
    """Generators and tuples as lists, inside of lists too: what JSON can say."""
    if hasattr(value, "__next__") or isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


'''


def load_code(cfg: ProblemsConfig) -> list[Problem]:
    """The problems of a source and split, in file order, the first `cfg.limit` of them."""
    return selected(cfg, (code_problem(row, where, name) for row, where, name in _rows(cfg)))


def _rows(cfg: ProblemsConfig) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(row, where, name of the source)."""
    if cfg.source.startswith("hub:"):
        yield from ((from_hub(row), where, cfg.source) for row, where in hub_rows(cfg))
        return
    mbpp = cfg.source == "mbpp"
    if mbpp and cfg.split not in (MBPP_FILE, *MBPP_SPLITS):
        fix = f"use one of {', '.join(MBPP_SPLITS)}, or {MBPP_FILE} for all of them"
        raise UserError(f"mbpp has no split {cfg.split!r}", "task split", fix)
    path = find_file(cfg.source, MBPP_FILE if mbpp else cfg.split, CODE_SETS)
    name = cfg.source if cfg.source in CODE_SETS else path.name.split(".")[0]
    for row, where in read_rows(path):
        if not mbpp or cfg.split in (MBPP_FILE, row.get("split")):
            yield row, where, name


def code_problem(row: Mapping[str, Any], where: str, source: str) -> Problem:
    """A row as a problem; UserError with `where` for the first thing that is wrong with it.

    `answer` is the reference solution ("" where there is none). meta: `entry_point`, `tests` (runnable), `modules` that
    the tests import, `buggy`, and `prompt` where that is the beginning of a program.
    """
    key, prompt, name = (text_field(row, field, where) for field in ("id", "prompt", "entry_point"))
    if not name.isidentifier():
        raise UserError(f"the field 'entry_point' is no name of a function: {name!r}", where, REFUSED)
    source = str(row.get("source") or source)
    begun = re.search(rf"^(?:async +)?def +{re.escape(name)}\b", prompt, re.MULTILINE) is not None
    tests, modules = _tests(row, where, before(prompt, name) if begun else "")
    optional = {"modules": modules, "prompt": prompt if begun else "", "buggy": _optional(row, "buggy", where)}
    rest = {field: value for field, value in row.items() if field not in FIELDS and value is not None}
    meta = {**rest, "entry_point": name, "tests": tests, **{field: value for field, value in optional.items() if value}}
    return Problem(key, source, _asked(row, source, begun), _optional(row, "solution", where), meta)


def _tests(row: Mapping[str, Any], where: str, preamble: str) -> tuple[str, dict[str, str]]:
    """The runnable tests and their modules. They may ask the program for the entry point alone: helpers of the prompt
    and modules of the standard library that they use are put before them, and any other open name is an error.
    """
    try:
        if "test_kind" in row:
            tests, modules = quixbugs_tests(row)
        else:
            tests, modules = _runnable(row, where), {}
        tree = ast.parse(tests)
        helpers = parse(preamble)
        if helpers is not None and open_names(tests) & top_level_names(helpers):
            tests = f"{preamble}\n\n{tests}"
        forgotten = sorted((open_names(tests) & sys.stdlib_module_names) - {row["entry_point"]})  # mbpp/596: sys
        tests = "".join(f"import {name}\n" for name in forgotten) + tests
        unknown = open_names(tests) - {row["entry_point"]}
    except (SyntaxError, ValueError, RecursionError, MemoryError, KeyError, TypeError) as error:
        what = f"the field 'tests' cannot be read as Python tests: {type(error).__name__}: {error}"
        raise UserError(what, where, REFUSED) from None
    if unknown:
        raise UserError(f"the tests use names that they do not define: {', '.join(sorted(unknown))}", where, REFUSED)
    if "check" in top_level_names(tree) and not _calls(tree, "check"):
        tests = f"{tests.rstrip()}\n\ncheck({row['entry_point']})\n"
    return tests, modules


def _runnable(row: Mapping[str, Any], where: str) -> str:
    """`tests` as one string: as it is, or the lines of imports and asserts."""
    tests = row.get("tests")
    if not isinstance(tests, list):
        return text_field(row, "tests", where)
    lines = [*(row.get("test_imports") or []), *tests]
    if not tests or not all(isinstance(line, str) for line in lines):
        raise UserError("the field 'tests' is an empty list or holds what is no text", where, REFUSED)
    return "\n".join(lines) + "\n"


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


def _calls(tree: ast.Module, name: str) -> bool:
    """Whether a top-level statement calls the function."""
    calls = (node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def _asked(row: Mapping[str, Any], source: str, begun: bool) -> str:
    """What a model is asked: the row's own words (`problem`), else ours. Of the tests nothing, unless the source shows
    them by convention or the row says so.
    """
    if isinstance(row.get("problem"), str):
        return row["problem"]
    prompt, name, buggy = row["prompt"].strip("\n"), row["entry_point"], row.get("buggy")
    if buggy:
        asked = fenced(prompt) if begun else prompt
        return MEND.format(name=name, prompt=asked, program=fenced(buggy))
    if begun:
        return COMPLETE.format(program=fenced(prompt))
    if row.get("show_tests", source in SHOWN_TESTS) and isinstance(row["tests"], list):
        return TESTED.format(prompt=prompt, tests="\n".join(map(str, row["tests"])))
    return DESCRIBED.format(prompt=prompt, name=name)


def fenced(program: str) -> str:
    """A program as a code block."""
    return "```python\n" + program.strip("\n") + "\n```"


def _optional(row: Mapping[str, Any], field: str, where: str) -> str:
    return text_field(row, field, where) if row.get(field) is not None else ""


def from_hub(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the hub under our names. The function's name is the one that the first assert calls, where the row has
    none (MBPP).
    """
    row = {field: value for field, value in row.items() if field not in ("problem", "answer")}
    row |= {ours: row.pop(theirs) for theirs, ours in HUB_NAMES.items() if theirs in row}
    if "canonical_solution" in row and isinstance(row.get("prompt"), str):
        row["solution"] = row["prompt"] + row.pop("canonical_solution")
    if "buggy_solution" in row:
        row["buggy"] = f"{row.get('declaration', '')}{row.pop('buggy_solution')}"
    if row.get("test_setup_code"):
        row["test_imports"] = [row["test_setup_code"]]
    if isinstance(row.get("id"), int):
        row["id"] = f"mbpp/{row['id']}"
    if "entry_point" not in row and (name := _called(row.get("tests"), row.get("solution"))):
        row |= {"entry_point": name, "show_tests": True}
    return row


def _called(tests: object, solution: object) -> str | None:
    """The function of the solution that the first test calls."""
    program = parse(solution) if isinstance(solution, str) else None
    test = parse(str(tests[0])) if isinstance(tests, Sequence) and tests else None
    if program is None or test is None:
        return None
    own = top_level_names(program)
    return next((node.id for node in ast.walk(test) if isinstance(node, ast.Name) and node.id in own), None)
