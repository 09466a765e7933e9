"""Grading against real labels and reference solutions. Skipped where the data sets are not at hand."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.responses import ResponseRow, read_responses
from scrpo_cli.tasks.sources import DATA_SETS, read_rows

DATA = Path(os.environ.get("SCRPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SCRPO_DATA_DIR")


@pytest.fixture(autouse=True)
def data_dir(monkeypatch):
    monkeypatch.setenv("SCRPO_DATA_DIR", str(DATA))


@pytest.fixture(scope="module")
def task():
    math = make_task(TaskConfig(name="math"), workers=1)
    yield math
    math.close()


def test_the_5276_model_solutions_of_gsm8k(task):
    path = DATA / "gsm8k" / "model_solutions.jsonl.gz"
    labels = [row["is_correct"] for row, _ in read_rows(path)]
    rows = [r for r in read_responses(path, {"response": "model_solution"}) if isinstance(r, ResponseRow)]
    grades = task.grade([(row.as_problem(), row.response) for row in rows])
    agreed = sum((g.verdict == "correct") == label for g, label in zip(grades, labels, strict=True))
    assert (agreed, len(rows)) == (5276, 5276)
    assert Counter(str(g.verdict) for g in grades) == {"wrong": 3264, "correct": 2001, "unparsable": 11}


@pytest.mark.parametrize(
    ("source", "split", "problems"),
    [
        ("gsm8k", "train", 7473),
        ("gsm8k", "test", 1319),
        ("math", "test_minus_500", 4500),
        ("math500", "test", 500),
        ("minerva_math", "test", 272),
    ],
)
def test_reference_solutions_are_correct(task, source, split, problems):
    """Through extraction and comparison: all of them, without exception."""
    loaded = task.problems(ProblemsConfig(source=source, split=split))
    grades = task.grade([(p, p.meta["solution"]) for p in loaded])
    assert len(loaded) == problems
    assert [(p.id, g) for p, g in zip(loaded, grades, strict=True) if g.verdict != "correct"] == []


def test_reference_solutions_of_math_train(task):
    """Two boxes are empty in the source (see the data set's own notes): those have no answer to be found."""
    loaded = task.problems(ProblemsConfig(source="math", split="train"))
    grades = task.grade([(p, p.meta["solution"]) for p in loaded])
    failed = {p.id: str(g.verdict) for p, g in zip(loaded, grades, strict=True) if g.verdict != "correct"}
    assert failed == {"math-train-5341": "unparsable", "math-train-5343": "unparsable"}


@pytest.mark.parametrize("source", DATA_SETS)
def test_every_source_loads_and_its_answers_equal_themselves(task, source):
    loaded = task.problems(ProblemsConfig(source=source, split="test" if source != "math" else "train"))
    assert len({p.id for p in loaded}) == len(loaded)
    assert {p.source for p in loaded} == {source}
    assert {str(g.verdict) for g in task.grade([(p, f"\\boxed{{{p.answer}}}") for p in loaded])} == {"correct"}


def test_a_wrong_answer_is_wrong_on_every_kind_of_problem(task):
    loaded = task.problems(ProblemsConfig(source="math500", split="test"))[::3]
    grades = task.grade([(p, "\\boxed{17^q + \\pi}") for p in loaded])
    assert {str(g.verdict) for g in grades} == {"wrong"}


def test_each_answer_of_math500_is_wrong_for_the_next_problem(task):
    """Shifted by one: what is correct then are neighbours with the same answer, written alike but for one."""
    loaded = task.problems(ProblemsConfig(source="math500", split="test"))
    shifted = [(p, f"\\boxed{{{q.answer}}}") for p, q in pairwise(loaded)]
    grades = task.grade(shifted)
    same = {(p.answer, g.extracted) for (p, _), g in zip(shifted, grades, strict=True) if g.verdict == "correct"}
    assert {(gold, pred) for gold, pred in same if gold != pred} == {("5", "x=5")}


def test_lists_of_solutions_take_any_order_unless_one_is_asked(task):
    by_id = {p.id: p for p in task.problems(ProblemsConfig(source="math500", split="test"))}
    roots = next(p for p in by_id.values() if p.answer == "3, 5, 7")
    assert roots.meta["is_multiple_answer"]
    assert task.grade([(roots, "\\boxed{7,3,5}")])[0].verdict == "correct"
    train = task.problems(ProblemsConfig(source="math", split="test_minus_500"))
    asked = next(p for p in train if "in decreasing order, separated by commas" in p.text)
    assert [str(g.verdict) for g in task.grade([(asked, "\\boxed{6,10,12}"), (asked, "\\boxed{12,10,6}")])] == [
        "wrong",
        "correct",
    ]
