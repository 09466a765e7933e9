"""`scrpo grade --task code`, and external responses: programs with their tests in one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scrpo_cli.tasks.external import ResponseRow, read_responses

ASKED = {"prompt": "Add one.", "entry_point": "f", "tests": ["assert f(1) == 2", "assert f(2) == 3"]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def program(body: str) -> str:
    return f"Here it is:\n```python\ndef f(x):\n    {body}\n```\n"


def test_programs_are_graded_by_their_tests(scrpo: Callable, tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"id": "right", **ASKED, "response": program("return x + 1")},
        {"id": "wrong", **ASKED, "response": program("return 2")},
        {"id": "raises", **ASKED, "response": program("return x / 0")},
        {"id": "loops", **ASKED, "response": program("while True: pass")},
        {"id": "prose", **ASKED, "response": "I would add one."},
        {"id": "text", **ASKED, "tests": "assert f(1) == 2", "response": program("return 2")},
    )
    outcome = scrpo("grade", "--task", "code", "--from-jsonl", file, "--deadline", "2", "--json")
    assert outcome.code == 0, outcome.err
    verdicts = {row["id"]: row["verdict"] for row in outcome.json["rows"]}
    assert verdicts == {
        "right": "correct",
        "wrong": "wrong",
        "raises": "wrong",
        "loops": "timeout",
        "prose": "unparsable",
        "text": "correct",
    }
    assert outcome.json["rows"][0]["extracted"] == "def f(x):\n    return x + 1\n"
    assert outcome.json["counts"] == {"correct": 2, "wrong": 2, "timeout": 1, "unparsable": 1}
    assert outcome.json["grader"].startswith("code/2 python=3")


def test_any_field_can_be_the_response(scrpo: Callable, tmp_path: Path) -> None:
    """A set of buggy programs is graded as it stands: `--map response=buggy`, `--map response=solution`."""
    row = {"id": "a", **ASKED, "buggy": "def f(x):\n    return x\n", "solution": "def f(x):\n    return x + 1\n"}
    file = write(tmp_path / "bugs.jsonl", row)
    for field, verdict in (("buggy", "wrong"), ("solution", "correct")):
        outcome = scrpo("grade", "--task", "code", "--from-jsonl", file, "--map", f"response={field}", "--json")
        assert [r["verdict"] for r in outcome.json["rows"]] == [verdict]


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        ("code", {"id": "a", "answer": "1", "response": "A: 1"}, "the fields 'entry_point' and 'tests' are missing"),
        ("code", {"gold": "1", "pred": "1"}, "cannot compare two answers without tests"),
        ("code", {**ASKED, "text": "x"}, "the field 'response' is missing"),
        ("code", {**ASKED, "tests": "assert", "response": "x"}, "cannot be read as Python tests"),
        ("code", {**ASKED, "entry_point": "", "response": "x"}, "the field 'entry_point' is empty"),
        ("code", {"prompt": "p", "tests": ["assert 1"], "response": "x"}, "the field 'entry_point' is missing"),
        ("math", {"id": "a", **ASKED, "response": "x"}, "the task 'math' runs no tests"),
    ],
)
def test_wrong_input_is_told_in_three_lines(
    scrpo: Callable, tmp_path: Path, task: str, row: dict[str, Any], says: str
) -> None:
    write(tmp_path / "rows.jsonl", row)
    outcome = scrpo("grade", "--task", task, "--from-jsonl", "rows.jsonl")
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err
    assert sum(line.startswith(("Error: ", "  where: ", "  fix: ")) for line in outcome.err.splitlines()[-3:]) == 3


def test_a_code_row_carries_what_its_grader_runs(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {**ASKED, "response": "x", "sample": 2, "turn": 2, "model": "m"})
    (row,) = read_responses(file)
    meta = {"entry_point": "f", "tests": "assert f(1) == 2\nassert f(2) == 3\n"}
    text = "Add one.\n\nThe function must be called `f`."
    assert row == ResponseRow("Add one.", f"{file}:1", "x", text, "", 2, 2, "m", meta=meta)


def test_a_row_whose_meta_has_the_tests_needs_no_answer(tmp_path: Path) -> None:
    """What `scrpo runs export` writes of a problem without a reference solution."""
    meta = {"entry_point": "f", "tests": "assert f(1) == 2"}
    row = {"id": "a", "problem": "Add one.", "answer": "", "response": "x", "meta": meta}
    (read,) = read_responses(write(tmp_path / "rows.jsonl", row))
    assert isinstance(read, ResponseRow)
    assert (read.answer, read.meta) == ("", meta)


def test_two_turns_of_external_programs_are_evaluated_exported_and_evaluated_again(
    scrpo: Callable, tmp_path: Path
) -> None:
    right, wrong = program("return x + 1"), program("return 2")
    turns = {"a": (wrong, right), "b": (right, right), "c": (wrong, wrong), "d": (right, wrong)}
    rows = [
        {"id": key, **ASKED, "response": r, "turn": n} for key, both in turns.items() for n, r in enumerate(both, 1)
    ]
    recipe = ["--set", "task.name=code", "--set", "tracking.wandb.mode=off"]
    file: Path | str = write(tmp_path / "two.jsonl", *rows)
    for name in ("first", "again"):
        outcome = scrpo("eval", *recipe, "--from-jsonl", file, "--json")
        assert outcome.code == 0, outcome.err
        (found,) = outcome.json["benchmarks"].values()
        assert [found[key]["value"] for key in ("t1", "t2", "i2c", "c2i")] == [0.5, 0.5, 0.25, 0.25], name
        assert found["maj_at"] == {}  # programs are not counted by a vote
        file = "exported.jsonl"
        assert scrpo("runs", "export", outcome.json["run"], "-o", file).code == 0
