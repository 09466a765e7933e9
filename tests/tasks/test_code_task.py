"""Programs as a task: verdicts of the real sandbox, order, workers, cache, worked examples."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.code import execute
from scrpo_cli.tasks.code import task as code_task
from scrpo_cli.tasks.code.task import CodeTask, limits_of
from scrpo_cli.types import Problem, Verdict

PROBLEM = Problem("p", "mine", "Add one.", "", {"entry_point": "f", "tests": "assert f(1) == 2\nassert f(-1) == 0\n"})
RIGHT = "```python\ndef f(x):\n    return x + 1\n```"
ANSWERS = {
    RIGHT: "correct",
    "```python\ndef f(x):\n    return 2\n```": "wrong",
    "```python\ndef f(x):\n    raise ValueError(x)\n```": "wrong",
    "```python\ndef f(x):\n    return\n  x\n```": "wrong",
    "```python\ndef g(x):\n    return x + 1\n```": "wrong",
    "```python\nimport nothing_like_it\ndef f(x):\n    return x + 1\n```": "wrong",
    "```python\nraise SystemExit(0)\ndef f(x):\n    return x + 1\n```": "wrong",
    "```python\ndef f(x):\n    return x + 1 # \ud800\n```": "wrong",
    "```python\ndef f(x):\n    while True: pass\n```": "timeout",
    "```python\nimport time\ndef f(x):\n    time.sleep(60)\n```": "timeout",
    "```python\ndef f(x):\n    return x + 1\n\nif __name__ == '__main__':\n    print(f(int(input())))\n```": "correct",
    "x plus one": "unparsable",
    "<think>\n" + RIGHT: "unparsable",
}


def make(**options: Any) -> CodeTask:
    grading = {"deadline": options.pop("deadline", 0.7), "processes": options.pop("processes", 2)}
    return CodeTask(TaskConfig(name="code", grading=grading, **options))


def test_every_kind_of_answer_has_its_verdict_in_order_with_one_worker_and_with_three() -> None:
    pairs = [(PROBLEM, answer) for answer in ANSWERS]
    one, three = make(processes=1).grade(pairs), make(processes=3).grade(pairs)
    assert [str(g.verdict) for g in one] == list(ANSWERS.values())
    assert [(g.verdict, g.extracted) for g in one] == [(g.verdict, g.extracted) for g in three]
    assert one[0].extracted == "def f(x):\n    return x + 1\n"
    assert [(g.reason or "").partition(" more ")[0] for g in one[8:10]] == [
        "the program used",
        "the program took longer than 2.8 s",
    ]
    assert [g.reason for g in one[-2:]] == ["no program found", "the response never leaves <think>"]
    assert "ValueError: 1" in (one[2].reason or "")
    assert {g.grader for g in one} == {make().grader}


def test_the_grader_names_its_version_the_python_and_the_walls() -> None:
    assert make().grader.startswith("code/2 python=3.")
    assert make().grader.endswith(("sandbox=namespaces", "sandbox=process"))


def test_a_problem_without_tests_is_an_error_and_no_wrong_answer() -> None:
    grade = make().grade([(Problem("p", "mine", "Add one.", ""), RIGHT)])[0]
    assert grade.verdict is Verdict.GRADER_ERROR
    assert "no tests" in (grade.reason or "")


def test_the_same_program_is_run_once_and_errors_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, execute.Tests]] = []

    def check(program: str, tests: execute.Tests, *_: object) -> execute.Judgement:
        ran.append((program, tests))
        return execute.Judgement(Verdict.GRADER_ERROR if "error" in program else Verdict.CORRECT)

    task = make()
    monkeypatch.setattr(code_task, "check", check)
    broken = "```python\ndef f(x):\n    return error\n```"
    other = Problem("q", "mine", "", "", {**PROBLEM.meta, "modules": {"node": "class Node: pass"}})
    pairs = [(PROBLEM, RIGHT), (PROBLEM, broken), (PROBLEM, "Well:\n" + RIGHT), (other, RIGHT)]
    for _ in range(2):
        assert [g.verdict.value for g in task.grade(pairs)] == ["correct", "grader_error", "correct", "correct"]
    runs = Counter(("error" in program, bool(tests.modules)) for program, tests in ran)
    assert runs == {(False, False): 1, (False, True): 1, (True, False): 2}  # in any order: programs run side by side


def test_an_interruption_starts_no_further_program(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def check(program: str, *_: object) -> execute.Judgement:
        ran.append(program)
        raise KeyboardInterrupt

    task = make(processes=1)
    monkeypatch.setattr(code_task, "check", check)
    with pytest.raises(KeyboardInterrupt):
        task.grade([(PROBLEM, f"```python\ndef f(x): return {i}\n```") for i in range(200)])
    assert len(ran) < 200


def test_the_recipe_bounds_what_a_program_may_use() -> None:
    sandbox = {"memory_mib": 300, "processes": 5, "file_mib": 2, "disk_mib": 3}
    limits = limits_of(TaskConfig(name="code", grading={"deadline": 1.5}, sandbox=sandbox))
    assert (limits.wall_s, limits.cpu_s, limits.memory_mib) == (6, 1.5, 300)
    assert (limits.processes, limits.file_mib, limits.disk_mib) == (5, 2, 3)


def test_memory_beyond_the_recipes_is_wrong() -> None:
    hungry = "```python\nx = bytearray(400 << 20)\ndef f(x):\n    return x + 1\n```"
    assert make(deadline=5, sandbox={"memory_mib": 200}).grade([(PROBLEM, hungry)])[0].verdict is Verdict.WRONG
    assert make(deadline=5, sandbox={"memory_mib": 2000}).grade([(PROBLEM, hungry)])[0].verdict is Verdict.CORRECT


def test_walls_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(level: str) -> None:
        raise UserError(f"no {level} here", "sandbox", "Use Linux.")

    monkeypatch.setattr(code_task, "find_isolation", refuse)
    with pytest.raises(UserError, match="no namespaces here"):
        make_task(TaskConfig(name="code", sandbox={"level": "namespaces"}))


def test_programs_without_tests_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="cannot compare"):
        make().compare([("def f(): pass", "def f(): pass")])


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    rows = [
        {"id": str(i), "prompt": f"Add {i}.", "entry_point": "f", "tests": ["assert f"], "solution": f"f = {i}"}
        for i in range(3)
    ]
    path = tmp_path / "shots.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_worked_examples_come_before_problems_of_their_source_and_before_no_others(solved: Path) -> None:
    shots = {"source": str(solved), "limit": 2}
    task = make(shots=shots, system="You write Python.", prompt="Task: {problem}")
    asked = Problem("p", "shots", "Add nine.", "", {})
    assert [(m["role"], m["content"].split("\n")[0]) for m in task.messages(asked)] == [
        ("system", "You write Python."),
        ("user", "Task: Add 0."),
        ("assistant", "```python"),
        ("user", "Task: Add 1."),
        ("assistant", "```python"),
        ("user", "Task: Add nine."),
    ]
    assert task.messages(asked)[2]["content"] == "```python\nf = 0\n```"
    assert [m["role"] for m in task.messages(Problem("p", "humaneval", "Add nine.", ""))] == ["system", "user"]


def test_worked_examples_need_solutions_and_the_task_code(tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "entry_point": "f", "tests": ["assert f()"]}) + "\n")
    with pytest.raises(UserError, match="the worked example a has no solution"):
        make(shots={"source": str(path)}).messages(PROBLEM)
    with pytest.raises(ValidationError, match=r"task\.shots needs task\.name: code"):
        TaskConfig(name="math", shots=ProblemsConfig(source="gsm8k"))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal: a shell that starts a job in the background has it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(600)"])
def test_ctrl_c_does_not_wait_for_the_programs_and_leaves_none(program: str) -> None:
    task = make(deadline=60.0)
    answers = [f"```python\ndef f(x):\n    {program} # {i}\n```" for i in range(4)]
    before = set(psutil.Process().children(recursive=True))
    beginning = time.monotonic()
    threading.Timer(1.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        task.grade([(PROBLEM, answer) for answer in answers])
    assert time.monotonic() - beginning < 20
    assert not set(psutil.Process().children(recursive=True)) - before
