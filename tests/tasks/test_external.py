"""The interchange JSONL: shapes, field maps, errors with line numbers."""

from __future__ import annotations

import json

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.external import PairRow, ResponseRow, parse_map, read_responses


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return path

    return write


def test_a_full_row(file):
    row = {"id": "a", "problem": "1+1?", "answer": "2", "response": "A: 2", "sample": 3, "turn": 2, "model": "m"}
    path = file(row)
    assert read_responses(path) == [ResponseRow("a", f"{path}:1", "A: 2", "1+1?", "2", 3, 2, "m")]


def test_defaults_and_problem_text_as_key(file):
    (row,) = read_responses(file({"problem": "1+1?", "answer": 2, "response": ""}))
    assert isinstance(row, ResponseRow)
    assert (row.id, row.answer, row.response, row.sample, row.turn, row.model) == ("1+1?", "2", "", 0, 1, None)


def test_pairs_of_final_answers(file):
    path = file({"gold": "1/2", "pred": "0.5"}, {"id": "b", "gold": 1, "pred": ""})
    assert read_responses(path) == [PairRow(f"{path}:1", f"{path}:1", "1/2", "0.5"), PairRow("b", f"{path}:2", "1", "")]


def test_fields_are_mapped(file):
    theirs = {"id": "solution-7", "problem_id": "p7", "answer": "2", "model_solution": "A: 2", "response": "other"}
    (row,) = read_responses(file(theirs), parse_map(["response=model_solution,id=problem_id"]))
    assert isinstance(row, ResponseRow)
    assert (row.id, row.response) == ("p7", "A: 2")


def test_a_row_without_reference_is_readable_but_not_gradable(file):
    (row,) = read_responses(file({"id": "a", "response": "A: 2"}))
    assert isinstance(row, ResponseRow)
    with pytest.raises(UserError, match="'answer' is missing") as error:
        row.as_problem()
    assert error.value.where.endswith("rows.jsonl:1")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "not JSON"),
        ({"response": "x"}, "neither 'id' nor 'problem'"),
        ({"id": "a", "text": "x"}, r"'response' is missing \(there: id, text\)"),
        ({"id": "a", "response": ["x"]}, "'response' is no text"),
        ({"id": "a", "response": "x", "answer": None}, "'answer' is empty or no text"),
        ({"id": "a", "response": "x", "sample": "0"}, "'sample' is no whole number"),
        ({"id": "a", "response": "x", "turn": -1}, "'turn' is no whole number"),
        ({"id": "", "response": "x"}, "'id' is empty"),
        ({"gold": "", "pred": "x"}, "'gold' is empty"),
        ({"id": "a", "response": "x", "meta": "hard"}, "'meta' is no object"),
    ],
)
def test_bad_lines_are_named(file, row, says):
    good = {"id": "a", "answer": "1", "response": "x"}
    with pytest.raises(UserError, match=says) as error:
        read_responses(file(good, row))
    assert error.value.where.endswith("rows.jsonl:2")


def test_an_empty_and_a_missing_file(file, tmp_path):
    with pytest.raises(UserError, match="no rows"):
        read_responses(file())
    with pytest.raises(UserError, match="does not exist"):
        read_responses(tmp_path / "none.jsonl")


@pytest.mark.parametrize("text", ["response", "response=", "reply=text", "=x"])
def test_a_map_that_cannot_be_read(text):
    with pytest.raises(UserError, match="cannot be read"):
        parse_map([text])
