"""Grading against real labels and reference solutions. Skipped where the data sets are not at hand."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.external import ResponseRow, read_responses
from scrpo_cli.tasks.grading.numbers import normalize
from scrpo_cli.tasks.grading.units import without_unit
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


EMPTY_BOX = ("math-train-5341", "math-train-5343")
SEVERAL_BOXES = {
    "train": ("334", "504", "3460", "3694", "3997", "4253", "6780", "6816", "6843", "7414"),
    "test": ("414", "2549", "2703", "2716", "2912", "4559", "4860"),
}
"""Solutions that end in two boxes, "k = 5 or k = -3", of which the source took the last for its answer."""
OLYMPIAD_OTHERWISE = {
    "1641": "the phrase is within the argument",
    "1695": "the phrase is within the argument",
    "1918": "a formula that the next sentence evaluates",
    "1977": "the answer to a part of the argument",
    "3028": "a remark on another value follows in the same sentence",
    "2781": "a formula that the next sentence evaluates",
    "2785": "a quantity in words, its value follows",
    "2854": "the phrase is within the argument",
    "2857": "a formula that the next sentence evaluates",
    "3007": "a quantity in words, its value follows",
    "3095": "a formula that the next sentence evaluates",
}


@pytest.mark.parametrize(
    ("source", "split", "problems", "otherwise"),
    [
        ("gsm8k", "train", 7473, {}),
        ("gsm8k", "test", 1319, {}),
        ("math500", "test", 500, {}),
        ("minerva_math", "test", 272, {}),
        pytest.param(
            "math",
            "train",
            7500,
            dict.fromkeys(EMPTY_BOX, "unparsable") | {f"math-train-{i}": "wrong" for i in SEVERAL_BOXES["train"]},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "math",
            "test_minus_500",
            4500,
            {f"math-test-{i}": "wrong" for i in SEVERAL_BOXES["test"]},
            marks=pytest.mark.slow,
        ),
        ("aime24", "test", 30, {"aime24-0": "unparsable"}),  # no final statement
    ],
)
def test_reference_solutions_are_correct(task, source, split, problems, otherwise):
    """Through extraction and comparison: all of them, but for the exceptions of docs/validation/grading.md."""
    loaded = task.problems(ProblemsConfig(source=source, split=split))
    grades = task.grade([(p, p.meta.get("solution") or "") for p in loaded])
    assert len(loaded) == problems
    assert {p.id: str(g.verdict) for p, g in zip(loaded, grades, strict=True) if g.verdict != "correct"} == otherwise


def test_reference_solutions_of_olympiadbench(task):
    """Proof-like texts: 599 have no final statement. Of the 75 that have one, all but those listed are right."""
    loaded = task.problems(ProblemsConfig(source="olympiadbench", split="test"))
    grades = task.grade([(p, p.meta["solution"]) for p in loaded])
    wrong = {p.id.rpartition("-")[2] for p, g in zip(loaded, grades, strict=True) if g.verdict == "wrong"}
    assert Counter(str(g.verdict) for g in grades) == {"unparsable": 599, "correct": 64, "wrong": 11, "grader_error": 1}
    assert wrong == set(OLYMPIAD_OTHERWISE)


UNREADABLE = {"olympiadbench": ["olympiadbench-2045"]}
"""`t(0,4]`, which says nothing."""


@pytest.mark.parametrize(
    ("source", "split"),
    [*((s, "test") for s in DATA_SETS if s != "math"), ("math", "train"), ("math", "test_minus_500")],
)
def test_every_source_loads_and_its_answers_equal_themselves(task, source, split):
    """Boxed, and without the unit where there is one."""
    loaded = task.problems(ProblemsConfig(source=source, split=split))
    assert len({p.id for p in loaded}) == len(loaded)
    assert {p.source for p in loaded} == {source}
    assert list(task.unreadable(loaded)) == UNREADABLE.get(source, [])
    readable = [p for p in loaded if p.id not in UNREADABLE.get(source, [])]
    spelled = [(p, p.answer) for p in readable]
    spelled += [(p, bare) for p in readable if (bare := without_unit(normalize(p.answer))) != normalize(p.answer)]
    grades = task.grade([(p, f"\\boxed{{{answer}}}") for p, answer in spelled])
    refused = [
        (p.id, answer, g.verdict) for (p, answer), g in zip(spelled, grades, strict=True) if g.verdict != "correct"
    ]
    assert refused == []


def test_a_wrong_answer_is_wrong_on_every_kind_of_problem(task):
    loaded = task.problems(ProblemsConfig(source="math500", split="test"))[::3]
    grades = task.grade([(p, "\\boxed{17^q + \\pi}") for p in loaded])
    assert {str(g.verdict) for g in grades} == {"wrong"}


REALLY_EQUAL = {
    ("b=4", "4"),
    ("10", "10^\\circ"),
    ("6", "6^{\\circ}"),
    ("6^{\\circ}", "6"),
    ("100\\%", "1"),
    ("10", "\\$ 10"),
    ("100\\text{ square units}", "100"),
    ("D", "\\text{(D)}"),
    ("f(x)=1", "1"),
    ("5", "x=5"),
    ("90^\\circ", "90"),
    ("10^\\circ", "10"),
    ("9^\\circ", "9"),
    ("45", "45^\\circ"),
    ("7\\%", "7"),
    ("0.6", "\\frac{3}{5}"),
    ("0", "b=0"),
    ("3:1", "3"),
    ("100", "99.9"),  # minerva: within 1%
}
"""Answers of different problems that are the same value, written differently."""


def answers_of_other_problems(task, source, split, draws):
    """(problem, answer of another problem), the same draw each time; equal strings left out."""
    loaded = task.problems(ProblemsConfig(source=source, split=split))
    rng = random.Random(0)
    return [(p, f"\\boxed{{{q.answer}}}") for p in loaded for q in rng.sample(loaded, draws) if q.answer != p.answer]


def false_positives(task, pairs):
    grades = task.grade(pairs)
    right = {(p.answer, g.extracted) for (p, _), g in zip(pairs, grades, strict=True) if g.verdict == "correct"}
    return right - REALLY_EQUAL, Counter(str(g.verdict) for g in grades)


@pytest.mark.parametrize("source", ["math500", "olympiadbench", "minerva_math"])
def test_answers_of_other_problems_are_wrong(task, source):
    pairs = answers_of_other_problems(task, source, "test", 1)
    wrongly, counts = false_positives(task, pairs)
    assert wrongly == set()
    assert counts["wrong"] > 0.98 * len(pairs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_24_000_answers_of_other_problems_are_wrong(task):
    sources = [("math500", "test"), ("olympiadbench", "test"), ("minerva_math", "test"), ("math", "test_minus_500")]
    pairs = [pair for source, split in sources for pair in answers_of_other_problems(task, source, split, 4)]
    wrongly, counts = false_positives(task, pairs)
    assert wrongly == set()
    assert counts["wrong"] > 0.998 * len(pairs) > 23_000


@pytest.mark.parametrize("source", ["aime24", "aime25", "amc23"])
def test_answers_that_nearly_are_the_integer_are_wrong(task, source):
    pairs = []
    for p in task.problems(ProblemsConfig(source=source, split="test")):
        n = int(p.answer)
        near = [n + 1, n - 1, n + 10, 10 * n + 1, f"{n}.5", f"{n}/7", f"{n}, {n + 1}", f"{n} or {n + 1}", f"{n}x"]
        near += [f"{n}^2+1", f"\\sqrt{{{n}}}+{n}", f"n > {n}", f"({n}, {n})", f"{n}\\pi", f"{n} million"]
        pairs += [(p, f"\\boxed{{{answer}}}") for answer in near]
    assert {str(g.verdict) for g in task.grade(pairs)} == {"wrong"}


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
