"""The user's own tasks and graders: how they are found, what is said when they cannot be, and what they may return."""

from __future__ import annotations

import importlib.metadata
import time
from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import ProblemsConfig, Recipe, TaskConfig
from scrpo_cli.tasks import TASKS, make_task
from scrpo_cli.types import Grade, Problem, Verdict

P = Problem("p", "s", "1+1=?", "2")
GRADER = "def grade(problem, response):\n    return response.endswith(problem.answer)\n"
IN_PROCESS = {"in_process": True}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def task_with(file: Path, function: str = "grade", **task: object):
    return make_task(TaskConfig.model_validate({"grader": f"{file}:{function}", "grading": IN_PROCESS, **task}))


@pytest.mark.parametrize("written", ["mine:grade", "mine.py:grade", "./mine.py:grade"])
def test_a_file_beside_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch, written) -> None:
    write(tmp_path, "mine.py", GRADER)
    recipe = write(tmp_path, "r.yaml", f"task: {{grader: '{written}'}}")
    monkeypatch.chdir("/")
    loaded = load_recipe(recipe)
    assert loaded.task.grader == f"{tmp_path / 'mine.py'}:grade"
    again = Recipe.model_validate_json(loaded.model_dump_json())  # as a resumed run reads it
    grades = make_task(again.task.model_copy(update={"grading": again.task.grading.model_copy(update=IN_PROCESS)}))
    assert [g.verdict for g in grades.grade([(P, "it is 2"), (P, "it is 3")])] == ["correct", "wrong"]


def test_a_file_in_the_working_directory_is_found_for_an_option(tmp_path, monkeypatch) -> None:
    write(tmp_path, "mine.py", GRADER)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("tiny", ["task.grader=mine:grade"]).task.grader == f"{tmp_path / 'mine.py'}:grade"


def test_an_inherited_reference_is_relative_to_the_file_that_wrote_it(tmp_path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", "mine.py", GRADER)
    write(tmp_path / "base", "b.yaml", "task: {grader: 'mine.py:grade'}")
    child = write(tmp_path, "c.yaml", "extends: base/b.yaml\nseed: 3")
    assert load_recipe(child).task.grader == f"{tmp_path / 'base/mine.py'}:grade"


def test_dotted_modules_are_imported_as_python_would(tmp_path, monkeypatch) -> None:
    (tmp_path / "mypack").mkdir()
    write(tmp_path / "mypack", "__init__.py", "")
    write(tmp_path / "mypack", "rules.py", "from mypack import helper\n" + GRADER)
    write(tmp_path / "mypack", "helper.py", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    task = make_task(load_recipe("tiny", ["task.grader=mypack.rules:grade", "task.grading.in_process=true"]).task)
    assert task.grader.startswith("mypack.rules:grade sha256=")
    assert task.grade([(P, "2")])[0].verdict == "correct"


@pytest.mark.parametrize(
    ("reference", "what", "fix"),
    [
        ("mien.py:grade", "does not exist", "mine.py"),
        ("mine.py:gade", "no 'gade'", "'grade'"),
        ("nosuchmodule:grade", "no module 'nosuchmodule'", "Install"),
        ("mine.py:NUMBER", "no function", "problem, response"),
        ("mine.py:one", "two or three", "problem, response"),
        ("broken.py:grade", "ZeroDivisionError", ""),
        ("needs.py:grade", "No module named 'not_there'", ""),
        ("syntax.py:grade", "SyntaxError", ""),
        ("leaves.py:grade", "SystemExit", ""),
        ("mine.py:", "no reference", "module:name"),
        ("word", "no 'word'", "entry point"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, monkeypatch, reference, what, fix) -> None:
    write(tmp_path, "mine.py", GRADER + "NUMBER = 3\ndef one(response): ...\n")
    write(tmp_path, "broken.py", "x = 1\ny = x / 0\n")
    write(tmp_path, "needs.py", "import not_there\n")
    write(tmp_path, "syntax.py", "def grade(:\n")
    write(tmp_path, "leaves.py", "import sys\nsys.exit('bye')\n")
    recipe = write(tmp_path, "r.yaml", f"task:\n  grader: '{reference}'\n")
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(UserError) as error:
        make_task(load_recipe(recipe).task)
    assert what in error.value.what
    assert fix in error.value.fix
    if reference == "broken.py:grade":
        assert "broken.py:2" in error.value.where
    if reference in ("mien.py:grade", "mine.py:", "word"):  # known without running anything
        assert "r.yaml:2" in error.value.where


def test_an_unknown_task_is_found_by_line_before_anything_runs(tmp_path) -> None:
    recipe = write(tmp_path, "r.yaml", "seed: 1\ntask:\n  name: mth\n")
    with pytest.raises(UserError, match="no 'mth'") as error:
        load_recipe(recipe)
    assert (error.value.where, "'math'" in error.value.fix) == (f"{recipe}:3", True)


def test_a_stored_recipe_can_be_read_without_its_plugin() -> None:
    assert Recipe.model_validate({"task": {"name": "gone", "grader": "/gone/g.py:grade"}}).task.name == "gone"


def fake_entry_points(monkeypatch, **values: str) -> None:
    points = [
        importlib.metadata.EntryPoint(name, value, group)
        for (name, value), group in zip(values.items(), ["scrpo.tasks", "scrpo.graders"])
    ]

    def found(**by: str):
        chosen = [p for p in points if all(getattr(p, k) == v for k, v in by.items())]
        return importlib.metadata.EntryPoints(chosen)

    monkeypatch.setattr(importlib.metadata, "entry_points", found)
    monkeypatch.setattr("scrpo_cli.plugins.entry_points", found)


def test_entry_points_are_found_by_name(tmp_path, monkeypatch) -> None:
    write(tmp_path, "installed_pack.py", GRADER + TASK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("scrpo_cli.plugins.packages_distributions", lambda: {"installed_pack": ["dist"]})
    monkeypatch.setattr("scrpo_cli.plugins.version", lambda name: "1.2")
    fake_entry_points(monkeypatch, sums="installed_pack:Sums", ends="installed_pack:grade")
    sets = ["task.name=sums", "task.grader=ends", "task.grading.in_process=true", "task.options.top=3"]
    task = make_task(load_recipe("tiny", sets).task)
    assert task.grader.startswith("ends dist=1.2 sha256=")
    assert len(task.problems(ProblemsConfig(source="any"))) == 3
    with pytest.raises(UserError, match="no 'sum'") as error:
        load_recipe("tiny", ["task.name=sum"])
    assert "'sums'" in error.value.fix


def test_two_packages_with_one_name_are_refused(monkeypatch) -> None:
    points = [importlib.metadata.EntryPoint("g", f"{p}:g", "scrpo.graders") for p in ("a", "b")]
    monkeypatch.setattr("scrpo_cli.plugins.entry_points", lambda **_: points)
    with pytest.raises(UserError, match="several packages") as error:
        make_task(TaskConfig(grader="g"))
    assert "a:g" in error.value.fix


TASK = """
from scrpo_cli.tasks.base import BaseTask
from scrpo_cli.types import Grade, Problem, Verdict

class Sums(BaseTask):
    name, grader = "sums", "sums/1"

    def problems(self, cfg):
        return [Problem(str(i), "sums", f"{i}+{i}=?", str(2 * i)) for i in range(self.cfg.options["top"])]

    def grade(self, pairs):
        return [Grade(Verdict.CORRECT if r == p.answer else Verdict.WRONG, r) for p, r in pairs]

    def compare(self, pairs):
        return [Grade(Verdict.CORRECT if a == b else Verdict.WRONG, b) for a, b in pairs]

def not_a_task(cfg):
    return object()
"""


def test_a_task_of_ones_own(tmp_path) -> None:
    file = write(tmp_path, "mytask.py", TASK)
    task = make_task(TaskConfig(name=f"{file}:Sums", options={"top": 4}, prompt="Add: {problem}"))
    problems = task.problems(ProblemsConfig(source="any"))
    assert task.messages(problems[3]) == [{"role": "user", "content": "Add: 3+3=?"}]
    (grade,) = task.grade([(problems[3], "6")])
    assert (grade.verdict, grade.extracted) == (Verdict.CORRECT, "6")
    assert grade.grader == task.grader
    assert task.grader.startswith("sums/1 mytask.py:Sums sha256=")
    task.close()


def test_a_changed_grader_shows_in_its_name(tmp_path) -> None:
    first = task_with(write(tmp_path, "mine.py", GRADER)).grader
    assert task_with(write(tmp_path, "mine.py", GRADER + "# changed\n")).grader != first
    assert task_with(write(tmp_path, "mine.py", GRADER)).grader == first


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ({"name": "{}:Sums"}, "KeyError"),  # problems() misses its option
        ({"name": "{}:not_a_task"}, "has no name"),
        ({"name": "{}:Problem"}, "cannot be made"),
    ],
)
def test_a_task_that_does_not_work_is_said(tmp_path, task, what) -> None:
    file = write(tmp_path, "mytask.py", TASK)
    cfg = TaskConfig(name=task["name"].format(file))
    with pytest.raises(UserError, match=what):
        make_task(cfg).problems(ProblemsConfig(source="any"))


def test_options_reach_a_grader_that_takes_them(tmp_path) -> None:
    text = "def grade(problem, response, options):\n    return response in options['good']\n"
    task = task_with(write(tmp_path, "mine.py", text), options={"good": ["x"]})
    assert [g.verdict for g in task.grade([(P, "x"), (P, "y")])] == ["correct", "wrong"]


def test_options_that_nobody_takes_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="the grader takes none"):
        task_with(write(tmp_path, "mine.py", GRADER), options={"good": 1})
    with pytest.raises(UserError, match=r"task\.options"):
        load_recipe("tiny", ["task.options.good=1"])


RETURNS = """
import numpy as np
from scrpo_cli.types import Grade, Verdict
VALUES = {
    "true": True, "numpy": np.bool_(False), "grade": Grade(Verdict.UNPARSABLE, "7", "why"),
    "word": Grade("correct"), "nan": float("nan"), "none": None, "one": 1, "half": 0.5, "text": "correct",
    "verdict": Grade("right"), "extracted": Grade(Verdict.CORRECT, 7), "ungraded": Grade(Verdict.UNGRADED),
}
def grade(problem, response):
    return VALUES[response]
"""


@pytest.mark.parametrize(
    ("response", "verdict", "reason"),
    [
        ("true", "correct", None),
        ("numpy", "wrong", None),
        ("grade", "unparsable", "why"),
        ("word", "correct", None),
        ("nan", "grader_error", "returned nan: return a bool"),
        ("none", "grader_error", "returned None"),
        ("one", "grader_error", "returned 1:"),
        ("half", "grader_error", "returned 0.5:"),
        ("text", "grader_error", "returned 'correct'"),
        ("verdict", "grader_error", "verdict 'right'"),
        ("extracted", "grader_error", "extracted is 7"),
        ("ungraded", "grader_error", "verdict"),
        ("missing", "grader_error", "KeyError: 'missing'"),
    ],
)
def test_what_a_grader_may_return(tmp_path, response, verdict, reason) -> None:
    task = task_with(write(tmp_path, "mine.py", RETURNS))
    (grade,) = task.grade([(P, response)])
    assert isinstance(grade, Grade)
    assert grade.verdict is Verdict(verdict)
    assert (reason or "") in (grade.reason or "")
    assert grade.grader == task.grader


HOSTILE = """
import os, sys, threading, time
def grade(problem, response):
    if response == "fine": print("a grader that prints")
    if response == "hangs": time.sleep(600)
    if response == "kills": os.kill(os.getpid(), 9)
    if response == "leaves": os._exit(3)
    if response == "dies later": threading.Timer(0.3, os._exit, [3]).start()
    if response == "exits": sys.exit(0)
    if response == "deep": grade(problem, response)
    return True
"""


def test_in_processes_each_answer_pays_for_itself(tmp_path) -> None:
    file = write(tmp_path, "hostile.py", HOSTILE)
    task = make_task(TaskConfig.model_validate({"grader": f"{file}:grade", "grading": {"deadline": 2}}), workers=2)
    responses = ["fine", "hangs", "kills", "fine", "leaves", "exits", "deep", "fine"]
    grades = task.grade([(P, r) for r in responses])
    verdicts = [str(g.verdict) for g in grades]
    assert verdicts == [
        "correct",
        "timeout",
        "grader_error",
        "correct",
        "grader_error",
        "grader_error",
        "grader_error",
        "correct",
    ]
    assert "longer than 2 s" in str(grades[1].reason)
    assert "died" in str(grades[2].reason)
    assert task.too_many_failures() is None  # 8 answers say nothing
    task.close()
    assert task.grade([(P, "fine")])[0].verdict == "correct"  # closed and used again
    task.close()


def test_a_process_that_dies_between_two_batches_is_replaced(tmp_path) -> None:
    file = write(tmp_path, "hostile.py", HOSTILE)
    task = make_task(TaskConfig.model_validate({"grader": f"{file}:grade"}), workers=1)
    assert task.grade([(P, "dies later")])[0].verdict == "correct"
    time.sleep(1)
    assert [g.verdict for g in task.grade([(P, "fine")] * 3)] == ["correct"] * 3
    task.close()


def test_what_a_grader_prints_stays_off_stdout(tmp_path, capfd) -> None:
    file = write(tmp_path, "hostile.py", HOSTILE)
    for grading in (IN_PROCESS, {"processes": 1}):
        task = make_task(TaskConfig.model_validate({"grader": f"{file}:grade", "grading": grading}))
        task.grade([(P, "fine")])
        task.close()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("a grader that prints") == 2


def test_the_prompts_and_problems_of_the_task_stay(tmp_path) -> None:
    ours, plain = task_with(write(tmp_path, "mine.py", GRADER)), make_task(TaskConfig())
    assert ours.problems(TaskConfig().train)[5] == plain.problems(TaskConfig().train)[5]
    assert ours.messages(P) == plain.messages(P)
    assert (ours.name, ours.injection, ours.error_kinds) == (plain.name, plain.injection, plain.error_kinds)
    assert ours.compare([("2", "2")])[0].verdict == "correct"  # equivalence is the task's


def test_built_in_names_are_known_to_recipes() -> None:
    from scrpo_cli.recipe.references import BUILT_IN

    assert {*TASKS} == {*BUILT_IN["task.name"]}
