"""Real benchmarks through the whole path (response, extraction, sandbox): every reference solution passes its tests and
every buggy program fails them. The fast tests take a sample of each set; docs/validation/sandbox.md has
the table of the whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.code.sources import fenced
from scrpo_cli.tasks.code.task import CodeTask, program_of
from scrpo_cli.types import Problem

SETS = {"humaneval": "test", "mbpp": "sanitized", "humanevalfix": "test", "quixbugs": "test"}
EVERY = {"humaneval": 24, "mbpp": 60, "humanevalfix": 24, "quixbugs": 6}
"""Of the fast tests: each so-manieth problem."""
SHAPES = {
    "block": "Here it is:\n\n{}\n\nIt passes the tests.",
    "thought": "<think>\n```python\npass\n```\n</think>\n\n{}",
}


@pytest.fixture(scope="module")
def task() -> CodeTask:
    return CodeTask(TaskConfig(name="code", grading={"processes": 2}))


def problems(task: CodeTask, source: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(data_dir))
    return list(task.problems(ProblemsConfig(source=source, split=SETS[source])))


def verdicts(task: CodeTask, answers: list[tuple[Problem, str]]) -> dict[str, str]:
    """Those that are not right, by problem, with the reason."""
    grades = task.grade(answers)
    return {p.id: f"{g.verdict}: {g.reason}" for (p, _), g in zip(answers, grades) if g.verdict != "correct"}


@pytest.mark.parametrize("source", SETS)
def test_every_program_is_found_as_it_stands(
    task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """All of them, but not run: nothing is lost, added or changed on the way out of a chat text."""
    for p in problems(task, source, data_dir, monkeypatch):
        for program in filter(None, (p.answer, p.meta.get("buggy"))):
            for shape in SHAPES.values():
                found = program_of(p, shape.format(fenced(program)))
                assert (found.how, found.program.strip()) == ("block", program.strip().replace("\r\n", "\n")), p.id


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("source", SETS)
def test_reference_solutions_pass(
    task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str, shape: str
) -> None:
    some = problems(task, source, data_dir, monkeypatch)[:: EVERY[source]]
    assert len(some) >= 7
    assert verdicts(task, [(p, SHAPES[shape].format(fenced(p.answer))) for p in some]) == {}


@pytest.mark.parametrize("source", ["humanevalfix", "quixbugs"])
def test_buggy_programs_fail(task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    some = problems(task, source, data_dir, monkeypatch)[:: EVERY[source]]
    assert set(verdicts(task, [(p, p.meta["buggy"]) for p in some])) == {p.id for p in some}


@pytest.mark.slow
@pytest.mark.parametrize("source", SETS)
def test_all_reference_solutions_pass(
    task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    every = problems(task, source, data_dir, monkeypatch)
    assert verdicts(task, [(p, SHAPES["block"].format(fenced(p.answer))) for p in every]) == {}


@pytest.mark.slow
def test_all_humaneval_bodies_pass_as_completions(
    task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = problems(task, "humaneval", data_dir, monkeypatch)
    bodies = [(p, p.answer.removeprefix(p.meta["prompt"]) + "\n\nprint(1)\n\nThat is all.") for p in every]
    assert verdicts(task, bodies) == {}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["humanevalfix", "quixbugs"])
def test_all_buggy_programs_fail(task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    every = problems(task, source, data_dir, monkeypatch)
    found = verdicts(task, [(p, p.meta["buggy"]) for p in every])
    assert set(found) == {p.id for p in every}
    assert not [reason for reason in found.values() if reason.startswith(("grader_error", "unparsable"))]


@pytest.mark.slow
@pytest.mark.parametrize("source", SETS)
def test_a_program_that_does_nothing_fails(
    task: CodeTask, data_dir: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Tests that any program passes would measure nothing."""
    every = problems(task, source, data_dir, monkeypatch)
    empty = [(p, fenced(f"def {p.meta['entry_point']}(*args, **kwargs):\n    return None")) for p in every]
    assert set(verdicts(task, empty)) == {p.id for p in every}
