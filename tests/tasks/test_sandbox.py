"""Honest programs pass, wrong ones fail, and a check that cannot be made says so: at every level of this machine."""

from __future__ import annotations

import ast
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandbox_walls import WALLS, walls_by

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.code import execute
from scrpo_cli.tasks.code import isolation as isolation_module
from scrpo_cli.tasks.code.execute import Isolation, Judgement, Limits, Tests, check, find_isolation
from scrpo_cli.tasks.code.inside import kernel
from scrpo_cli.tasks.code.inside.checker import open_names
from scrpo_cli.types import Verdict

INSIDE = Path(kernel.__file__).parent
NODE = """
class Node:
    def __init__(self, value=None, successor=None, successors=[]):
        self.value, self.successor, self.successors = value, successor, successors
"""


@pytest.fixture(params=WALLS)
def walls(request: pytest.FixtureRequest) -> Isolation:
    return walls_by(request.param)


@pytest.fixture
def strongest() -> Isolation:
    try:
        return find_isolation("auto")
    except UserError as error:
        pytest.skip(f"{error.what}: {error.where}")


def run(
    program: str, tests: str, walls: Isolation, modules: dict[str, str] | None = None, **limits: float
) -> Judgement:
    return check(program, Tests(tests, "f", tuple((modules or {}).items())), Limits(**limits), walls)  # type: ignore[arg-type]


HONEST = {
    "plain": ("def f(x): return x + 1", "assert f(1) == 2"),
    "humaneval": ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"),
    "keywords": ("def f(*a, k=0, **m): return [a, k, m]", "assert f(1, 2, k=3, z=4) == [(1, 2), 3, {'z': 4}]"),
    "imports": (
        "import math, heapq, re, itertools, bisect, random\ndef f(x): return math.gcd(x, 6)",
        "assert f(4) == 2",
    ),
    "expected exception": (
        "def f(x): raise KeyError(x)",
        "try:\n    f(1)\nexcept LookupError:\n    pass\nelse:\n    assert False",
    ),
    "exception of its own": (
        "class Mine(ValueError): pass\ndef f(x): raise Mine('no')",
        "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n    assert 'no' in str(error)",
    ),
    "in place": ("def f(x): x.sort()", "numbers = [2, 1]\nassert f(numbers) is None\nassert numbers == [1, 2]"),
    "dictionary in place": ("def f(d): d['b'] = d.pop('a')", "d = {'a': [1]}\nf(d)\nassert d == {'b': [1]}"),
    "generator": ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
    "state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "assert [f(), f(), f()] == [1, 2, 3]"),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x).x",
        "assert f(3) == 3",
    ),
    "large": ("def f(x): return x[::-1]", "assert f(list(range(50_000)))[0] == 49_999"),
    "large number": ("def f(n): return 10 ** n", "assert f(20_000) == 10 ** 20_000"),
    "not a number": ("def f(): return float('nan'), float('inf')", "a, b = f()\nassert a != a and b == float('inf')"),
    "temporary file": (
        "import tempfile\ndef f(x):\n    with tempfile.TemporaryFile('w+') as t:\n"
        "        t.write(x); t.seek(0); return t.read()",
        "assert f('hm') == 'hm'",
    ),
    "file of its own": (
        "def f(x):\n    with open('a.txt', 'w') as file: file.write(x)\n    return open('a.txt').read()",
        "assert f('hm') == 'hm'",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def f(x):\n    with ThreadPoolExecutor(4) as pool: return sum(pool.map(abs, x))",
        "assert f([-1, 2]) == 3",
    ),
    "asyncio": ("import asyncio\nasync def g(x): return x\ndef f(x): return asyncio.run(g(x))", "assert f(1) == 1"),
    "prints": ("def f(x):\n    print('x' * 100_000)\n    return x", "assert f(1) == 1"),
    "script": ("def f(x): return x\nif __name__ == '__main__':\n    raise SystemExit(f(input()))", "assert f(1) == 1"),
    "match object": ("import re\ndef f(x): return re.match('a', x)", "assert f('ab')\nassert not f('b')"),
    "recursion": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(900) == 900"),
    "random tests": (
        "def f(x): return x[::-1]",
        "import random\nfor _ in range(20):\n    s = str(random.random())\n    assert f(s) == ''.join(reversed(s))",
    ),
    "class": ("class f:\n    def __new__(cls, x): return x * 2", "assert f(2) == 4"),
    "unicode": ("def f(s): return s.upper()", "assert f('ü\\ud800') == 'Ü\\ud800'"),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str, walls: Isolation) -> None:
    program, tests = HONEST[name]
    assert run(program, tests, walls) == Judgement(Verdict.CORRECT)


def test_a_wrong_answer_is_wrong_with_the_line(walls: Isolation) -> None:
    judgement = run("def f(x): return x", "assert f(1) == 1\nassert f(1) == 2", walls)
    assert judgement == Judgement(Verdict.WRONG, "AssertionError (line 2 of the tests)")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(x): return [1][x]", "IndexError: IndexError: list index out of range (line 1 of the tests)"),
        ("def f(x) return 1", "the program stops with SyntaxError"),
        ("f = 3", "the program defines no function f"),
        ("import numpy_of_another_planet", "the program stops with ModuleNotFoundError"),
        ("def f(x): return None", "TypeError"),
    ],
)
def test_what_the_program_causes_is_wrong(program: str, reason: str, strongest: Isolation) -> None:
    judgement = run(program, "assert f(1) + 1 == 2", strongest)
    assert judgement.verdict is Verdict.WRONG
    assert reason in (judgement.reason or "")


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("assert f(1 == 2", "the tests cannot be read: SyntaxError"),
        ("assert f(1) == poly(1)", "names that they do not define: poly"),
        ("import not_there\nassert f(1) == 1", "fail before they call the program: ModuleNotFoundError"),
        ("def test():\n    assert f(1) == 1", "never call the program"),
        ("assert f(lambda: 1) == 1", "pass what cannot be sent"),
        ("import os\nos._exit(0)", "ended before it called the program"),
    ],
)
def test_what_the_tests_cause_is_an_error(tests: str, reason: str, strongest: Isolation) -> None:
    """An error is left out of averages; no program can choose one."""
    judgement = run("def f(x): return 1", tests, strongest)
    assert judgement.verdict is Verdict.GRADER_ERROR
    assert reason in (judgement.reason or "")


def test_a_program_cannot_make_an_error_of_its_wrong_answer(strongest: Isolation) -> None:
    """Its answers crash the tests' process or cannot be sent back: still wrong."""
    crash = run("def f(x): return x", "import os\nif f(1) == 1: os._exit(1)", strongest)
    assert crash.verdict is Verdict.WRONG
    opaque = run("def f(x): return object()", "assert f(f(1)) == 1", strongest)
    assert opaque.verdict is Verdict.WRONG


def test_timeout_is_its_own_verdict(walls: Isolation) -> None:
    start = time.monotonic()
    judgement = run("def f():\n    while True: pass", "f()", walls, wall_s=0.5)
    assert judgement == Judgement(Verdict.TIMEOUT, "the program took longer than 0.5 s")
    assert time.monotonic() - start < 10


def test_cpu_limit(strongest: Isolation) -> None:
    judgement = run("def f():\n    while True: pass", "f()", strongest, cpu_s=0.5, wall_s=60)
    assert judgement == Judgement(Verdict.TIMEOUT, "the program used more than 0.5 s of CPU time")


LISTS = {
    "reversed in place": (
        "def f(node):\n    previous = None\n    while node:\n"
        "        node.successor, previous, node = previous, node, node.successor\n"
        "    return previous",
        "from node import Node\na = Node(1)\nb = Node(2, a)\nassert f(b) is a\n"
        "assert a.successor is b\nassert b.successor is None",
    ),
    "identity": (
        "def f(start, goal):\n    return start is goal or any(f(n, goal) for n in start.successors)",
        "from node import Node\na = Node(1)\nb = Node(2, None, [a])\nassert f(b, a)\nassert not f(b, Node(1))",
    ),
    "cycle": (
        "def f(n):\n    return n.successor.successor is n",
        "from node import Node\na = Node()\na.successor = Node(0, a)\nassert f(a)",
    ),
    "new nodes": (
        "from node import Node\ndef f(x): return Node(x)",
        "from node import Node\nassert isinstance(f(3), Node)\nassert f(4).value == 4",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_objects_of_trusted_modules_keep_their_identity(name: str, walls: Isolation) -> None:
    assert run(*LISTS[name], walls, modules={"node": NODE}) == Judgement(Verdict.CORRECT)


def test_sets_come_in_the_same_order_each_time(strongest: Isolation) -> None:
    """A verdict must not depend on the seed of Python's hash."""
    program = "def f(): return list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})"
    order = ["a", "b", "c", "d", "e", "f", "g", "h"]
    verdicts = {run(program, f"assert f() == {order}", strongest).verdict for _ in range(3)}
    assert len(verdicts) == 1


def test_many_threads_at_once(strongest: Isolation) -> None:
    """Each gets its own answer, and nothing of one reaches another."""

    def one(n: int) -> Verdict:
        tests = Tests(f"assert f(1) == {n // 2 * 2}", "f")
        return check(f"def f(x): return {n}", tests, Limits(wall_s=30), strongest).verdict

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(one, range(24)))
    assert verdicts == [Verdict.CORRECT, Verdict.WRONG] * 12
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("level", ["auto", "namespaces", "process"])
def test_a_level_that_cannot_be_had_is_refused(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [Isolation("namespaces", "unshare", "/no/python"), Isolation("process", "landlock", "/no/python")]
    monkeypatch.setattr(execute, "candidates", lambda: broken)
    with pytest.raises(UserError) as caught:
        find_isolation(level)
    assert level in caught.value.what
    assert "did not start" in caught.value.where
    assert "docs/data.md" in caught.value.fix


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UserError, match="no isolation level"):
        find_isolation("strong")


def test_auto_takes_the_strongest(strongest: Isolation) -> None:
    try:
        namespaces = find_isolation("namespaces")
    except UserError:
        assert strongest.level == "process"
    else:
        assert strongest == namespaces


def test_nothing_starts_half_confined(strongest: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that cannot be installed is a sandbox that did not start, not a weaker one."""
    monkeypatch.setattr(isolation_module, "script", broken_script)
    judgement = run("def f(): return 1", "assert f() == 1", strongest)
    assert judgement.verdict is Verdict.GRADER_ERROR
    assert "the sandbox did not start" in (judgement.reason or "")


def broken_script(main: str) -> str:
    compiled = isolation_module._compiled

    def without_machines(name: str):
        if name != "kernel":
            return compiled(name)
        source = (
            (INSIDE / "kernel.py")
            .read_text()
            .replace('"x86_64": (0,', '"x": (0,')
            .replace('"aarch64": (1,', '"a": (1,')
        )
        return compile(source, "<kernel>", "exec", dont_inherit=True)

    isolation_module._compiled = without_machines
    try:
        return ORIGINAL_SCRIPT.__wrapped__(main)
    finally:
        isolation_module._compiled = compiled


ORIGINAL_SCRIPT = isolation_module.script


def test_open_names() -> None:
    assert open_names("from os import path\nassert f(path, helper, len(x for x in [1]))") == {"f", "helper"}
    assert open_names("def g(a):\n    global h\n    h = a\n    return b\nclass C(g): pass\nprint(h, C, c)") == {
        "b",
        "c",
    }
    assert open_names("import a.b as c, d.e\nc, d, a\n[y for y in z]") == {"a", "z"}
    assert open_names("from os import *\nanything()") == set()


def test_what_runs_inside_imports_the_standard_library_only() -> None:
    """It is started without the package and without site-packages."""
    for path in INSIDE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scrpo_cli"):
                assert node.module in (
                    isolation_module.INSIDE,
                    *(f"{isolation_module.INSIDE}.{m}" for m in ("wire", "kernel")),
                )
