"""Which problem a row of external responses answers, and who grades it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.identity import of_benchmark, of_their_own, source_name, task_of, with_samples
from scrpo_cli.recipe.benchmark import Benchmark, shipped
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.external import UNNAMED, ResponseRow
from scrpo_cli.types import Problem

DATA = Path(os.environ.get("SCRPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
PROBLEMS = [
    Problem("m-1", "m", "One?", "1", {"rel_tol": 0.01}),
    Problem("m-2", "m", "Two,\nor more?", "2", {}),
    Problem("m-21", "m", "Three?", "3", {"error": None, "level": 2}),
]


def row(id: str, **more) -> ResponseRow:
    return ResponseRow(id, f"f:{id}", "text", **more)


# --- of a benchmark -----------------------------------------------------------------------------------------------


def test_everything_comes_from_the_benchmark_in_its_order() -> None:
    found = of_benchmark([row("m-21"), row("m-1"), row("m-21", sample=1)], PROBLEMS, "m")
    assert [r.as_problem() for r in found] == [PROBLEMS[0], PROBLEMS[2], PROBLEMS[2]]
    assert [r.sample for r in found] == [0, 0, 1]


@pytest.mark.parametrize(
    "said",
    [
        {"answer": "2"},
        {"answer": " 2 "},
        {"answer": "2.0"},
        {"answer": "002"},
        {"problem": "Two, or  more?"},
        {"meta": {}},
        {"source": "elsewhere", "answer": "2", "problem": "Two,\nor more?"},
    ],
)
def test_a_row_may_repeat_its_problem(said) -> None:
    assert [r.as_problem() for r in of_benchmark([row("m-2", **said)], PROBLEMS, "m")] == [PROBLEMS[1]]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"answer": "2.01"}, "answer"),
        ({"answer": "nan"}, "answer"),
        ({"answer": "two"}, "answer"),
        ({"problem": "Two?"}, "problem"),
        ({"problem": ""}, "problem"),
        ({"meta": {"rel_tol": 0.01}}, "meta.rel_tol"),
    ],
)
def test_a_row_that_says_something_else_is_refused_with_its_line(said, field) -> None:
    with pytest.raises(UserError, match=f"`{field}` of problem m-2 is not that of m") as error:
        of_benchmark([row("m-1"), row("m-2", **said)], PROBLEMS, "m")
    assert error.value.where == "f:m-2"


@pytest.mark.parametrize(
    ("id", "says"),
    [("m-3", "'m-2' or 'm-1'"), ("M-21", "'m-21'"), ("m21", "'m-21'"), ("7", "Its ids are like 'm-1'")],
)
def test_an_unknown_id_is_answered_with_those_near_it(id, says) -> None:
    with pytest.raises(UserError, match=f"m has no problem '{id}'") as error:
        of_benchmark([row("m-1"), row(id)], PROBLEMS, "m")
    assert says in error.value.fix
    assert error.value.where == f"f:{id}"


def test_a_place_in_a_file_is_no_id_and_the_text_says_which_problem_it_is() -> None:
    foreign = row("0", problem="Two, or more?", foreign=True)
    assert [r.id for r in of_benchmark([foreign], PROBLEMS, "m")] == ["m-2"]
    with pytest.raises(UserError, match="has no problem '0'"):
        of_benchmark([replace(foreign, problem="Another?")], PROBLEMS, "m")
    with pytest.raises(UserError, match="has no problem '0'"):  # its own id is one, even with the text of a problem
        of_benchmark([replace(foreign, foreign=False)], PROBLEMS, "m")


def test_of_two_problems_with_one_text_the_text_decides_nothing() -> None:
    twice = [*PROBLEMS, Problem("m-4", "m", "One?", "4")]
    with pytest.raises(UserError, match="has no problem"):
        of_benchmark([row("One?", problem="One?", foreign=True)], twice, "m")


RULES = {"minerva": ({"rel_tol"}, 272), "olympiadbench": ({"is_multiple_answer", "error"}, 95)}
"""What a grader has to know of so many of their problems."""


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SCRPO_DATA_DIR")
@pytest.mark.parametrize("name", [name for name, found in shipped().items() if isinstance(found, Benchmark)])
def test_every_problem_of_every_benchmark_is_found_and_its_own_export_accepted(name, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(DATA))
    benchmark = shipped()[name]
    with closing(make_task(benchmark.task)) as task:
        problems = [*task.problems(benchmark.problems)]
    by_id = [row(p.id) for p in problems]
    full = [row(p.id, problem=p.text, answer=p.answer, source=p.source, meta=dict(p.meta)) for p in problems]
    for rows in (by_id, full):
        assert [r.as_problem() for r in of_benchmark(rows, problems, name)] == problems
    if name in RULES:
        rules, count = RULES[name]
        assert sum(any(r.meta.get(rule) for rule in rules) for r in of_benchmark(by_id, problems, name)) == count


# --- of their own -------------------------------------------------------------------------------------------------

SAID = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["1", "2"]),
        "problem": st.sampled_from(["a", "b"]),
        "answer": st.sampled_from(["1", "1.0"]),
        "meta": st.sampled_from([{}, {"rel_tol": 0.1}]),
    }
)


@given(first=SAID, second=SAID, source=st.sampled_from([UNNAMED, "gsm8k", "minerva_math", "tiny"]))
def test_a_problem_is_known_by_what_it_says_and_by_nothing_else(first, second, source) -> None:
    """Two files of one row each, whatever they are called."""
    a, b = (
        of_their_own([ResponseRow(where=w, response="", source=source, **said)])[0]
        for w, said in (("f", first), ("g", second))
    )
    assert ((a.source, a.id) == (b.source, b.id)) == (first == second)
    assert of_their_own([a]) == [a]  # what was exported is the same problem again
    assert source_name(a.source) == "external"


def test_a_source_of_ones_own_is_kept() -> None:
    kept = row("1", problem="a", answer="1", source="mine")
    assert of_their_own([kept]) == [kept]


@pytest.mark.parametrize("field", ["problem", "answer", "meta"])
def test_one_id_with_two_problems_is_refused_with_its_line(field) -> None:
    first = row("1", problem="a", answer="1")
    other = replace(first, where="f:9", **{field: {"rel_tol": 1} if field == "meta" else "b"})
    with pytest.raises(UserError, match=f"another `{field}` in f:1") as error:
        of_their_own([first, other])
    assert error.value.where == "f:9"


def test_rows_that_do_not_number_their_samples_are_numbered() -> None:
    rows = [row("1", numbered=False), row("2", numbered=False), row("1", numbered=False)]
    assert [r.sample for r in with_samples(rows)] == [0, 0, 1]
    numbered = [row("1", sample=3), row("1", sample=1)]
    assert with_samples(numbered) == numbered
    turns = [row("1", numbered=False), row("1", numbered=False, turn=2)]
    assert with_samples(turns) == turns
    with pytest.raises(UserError, match="answered by a and b"):
        with_samples([row("1", numbered=False, model="a"), row("1", numbered=False, model="b")])


@pytest.mark.parametrize(
    ("rows", "task"),
    [
        ([("Half?", "\\frac{1}{2}", {})], "math"),
        ([("1+1=?", "2", {})], "tiny"),
        ([("1+1=?", "two", {})], "math"),
        ([("1+1=?", "2", {}), ("How much is 1+1=?", "2", {})], "math"),
        ([("Add.", "", {"tests": "assert f()"})], "code"),
    ],
)
def test_the_rows_say_who_grades_them(rows, task) -> None:
    assert task_of([row("1", problem=text, answer=answer, meta=meta) for text, answer, meta in rows]) == task


@pytest.mark.parametrize("first", [True, False])
def test_programs_and_answers_in_one_file_are_asked_about(first) -> None:
    rows = [row("1", problem="Add.", answer="", meta={"tests": "assert f()"}), row("2", problem="1+1", answer="2")]
    with pytest.raises(UserError, match="tests, and others have") as error:
        task_of(rows if first else rows[::-1])
    assert error.value.where == ("f:2" if first else "f:1")
