"""Which attempts a report shows, and how their texts are matched with tokens and with each other."""

import pytest
from methods.builders import CharTokenizer
from tests_tokenizer import TOKENIZER

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_evaluation, record_step, resolve_run, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.report.browser import differences, pieces, runs_of
from scrpo_cli.report.sample import DEFAULT_TOKENS, draw
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

PROBLEM = Problem("p", "made-up", "1 + 1", "2")


def attempts(prefix, number, tokens=2, parent=None):
    completion = Completion([1], [2] * tokens, [-0.1] * tokens, "text", FinishReason.STOP)
    kind = AttemptKind.CORRECTION if parent else AttemptKind.FIRST
    grade = Grade(Verdict.WRONG)
    return [Attempt(f"{prefix}:{i:03d}", PROBLEM, completion, grade, kind, parent=parent) for i in range(number)]


@pytest.fixture
def db(tmp_path):
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        yield db


def run_with(db, name, tokens=2, firsts=20, corrections=20):
    start_run(db, command="train", recipe=load_recipe("tiny"), directory="d", model="m", run_id=name)
    record_step(db, name, StepRecord(1, "first", attempts(f"{name}f", firsts, tokens)))
    record_step(db, name, StepRecord(2, "reflect", attempts(f"{name}r", corrections, tokens, f"{name}f:000")))
    record_evaluation(db, name, 2, "test", {}, attempts(f"{name}e", 20, tokens), "after")
    return resolve_run(db, name)


def test_each_run_and_kind_of_answer_has_its_turn(db):
    runs = [run_with(db, "one"), run_with(db, "two", corrections=2)]
    drawn = draw(db, runs, 0, 24)
    counts = {}
    for place in drawn.places:
        key = place.run_id, place.phase
        counts[key] = counts.get(key, 0) + 1
    assert drawn.total == 60 + 42
    assert counts == {
        ("one", "first"): 5, ("one", "reflect"): 5, ("one", "eval:test:after"): 4,
        ("two", "first"): 4, ("two", "reflect"): 2, ("two", "eval:test:after"): 4,
    }  # fmt: skip


def test_a_draw_is_the_seeds(db):
    run = run_with(db, "one")
    ids = [[place.id for place in draw(db, [run], seed, 10).places] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 10


def test_long_answers_are_fewer_unless_a_number_is_given(db):
    run = run_with(db, "one", tokens=DEFAULT_TOKENS // 10)
    assert len(draw(db, [run], 0, None).places) == 10
    assert "until they have 120,000 tokens" in draw(db, [run], 0, None).rule
    assert len(draw(db, [run], 0, 30).places) == 30
    assert len(draw(db, [run], 0, None, everything=True).places) == 60
    assert draw(db, [run], 0, 60).rule == "All of them are shown."


def test_pieces_are_the_text():
    text = "47+38=85\n\\boxed{85}"
    ids = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
    found = pieces(ids, text, TOKENIZER)
    assert sum(found) == len(text)
    assert found[-1] == 0, "an end token has no text"
    assert pieces(ids[:-3], text, TOKENIZER) is None, "other tokens than the text's"


class Bytes(CharTokenizer):
    """Token ids are bytes: a letter may take two."""

    all_special_ids = (0,)

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def test_half_a_letter_has_no_length_of_its_own():
    found = pieces([*"aé€b".encode(), 0], "aé€b", Bytes())
    assert sum(found) == 4
    assert (found[0], found[-2], found[-1]) == (1, 1, 0)


def test_differences_are_words_of_both_sides():
    one, two = "47+38=75 so 75", "Solution: 47+38=85 so 85"
    first, second = differences(one, two, len("Solution: "))
    assert [one[a:b] for a, b in first] == ["75", "75"]
    assert [two[a:b] for a, b in second] == ["85", "85"]
    assert differences("same", "same") == [[], []]


def test_runs_of_equal_values():
    assert runs_of([0.5, 0.5, 0.0]) == [[2, 0.5], [1, 0.0]]
