"""Counts over a small pool, by hand."""

from __future__ import annotations

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_evaluation, record_step
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.pool.stats import pool_stats, rate
from scrpo_cli.types import AttemptKind

CORRECTION, RETRY = AttemptKind.CORRECTION, AttemptKind.RETRY


@pytest.fixture
def filled(db: Database, new_run, attempt) -> None:
    """Pool `p`: 4 wrong answers to problem 0 (7, 7, 8 and none), 3 of them kept; two are tried, one is repaired."""
    run = new_run(db, run_id="run")
    made = [attempt(run, 0, 0, s, extracted=x) for s, x in enumerate(["7", "7", "8"])]
    made += [attempt(run, 0, 0, 3, "unparsable", extracted=None), attempt(run, 0, 1, 0, "correct", extracted="1")]
    decisions = {a.id: "kept" for a in made[:3]} | {made[3].id: "truncated"}
    record_step(db, run, StepRecord(0, "first", made, decisions, "p"))
    tries = [
        attempt(run, 4, 0, 0, "correct", parent="run:0:0:0", kind=CORRECTION),
        attempt(run, 4, 0, 1, "wrong", parent="run:0:0:0", kind=CORRECTION, extracted="7"),
        attempt(run, 4, 0, 2, "grader_error", parent="run:0:0:0", kind=CORRECTION, extracted=None),
        attempt(run, 4, 0, 3, "wrong", parent="run:0:0:1", kind=RETRY, extracted="9"),
    ]
    record_step(db, run, StepRecord(4, "reflection", tries, {}, "p", [("run:0:0:0", "solved")]))
    record_evaluation(db, run, 4, "tiny", {}, [attempt("eval", 4, 0, s) for s in range(3)])
    other = new_run(db, run_id="other")
    made = [attempt(other, 0, 5)]
    record_step(db, other, StepRecord(0, "first", made, {made[0].id: "kept"}, "q"))


def test_counts(db: Database, filled: None) -> None:
    found = pool_stats(db, "p")
    assert found["attempts"] == 9, "without the evaluation and the other run"
    assert found["verdicts"] == {"wrong": 5, "correct": 2, "grader_error": 1, "unparsable": 1}
    assert found["verdicts_by_kind"]["retry"] == {"wrong": 1}
    assert found["decisions"] == {"kept": 3, "truncated": 1}
    assert (found["entries"], found["alive"], found["retired"]) == (3, 2, {"solved": 1})
    assert (found["uses"], found["entries_used"]) == (4, 2)


def test_ages_are_those_of_the_living(db: Database, filled: None) -> None:
    ages = pool_stats(db, "p")["age_steps"]
    assert (ages["min"], ages["median"], ages["max"]) == (4, 4, 4)
    assert ages["histogram"] == {"0": 0, "1-2": 0, "3-5": 2, "6-10": 0, "11-20": 0, "21-50": 0, "51-100": 0, "101+": 0}
    assert pool_stats(db, "q")["age_steps"]["histogram"]["0"] == 1


def test_repair_rates_leave_errors_of_the_grader_out(db: Database, filled: None) -> None:
    found = pool_stats(db, "p")
    assert (found["repair_rate"]["successes"], found["repair_rate"]["trials"]) == (1, 3)
    assert (found["entries_repaired"]["successes"], found["entries_repaired"]["trials"]) == (1, 2)
    assert found["repair_rate_by_kind"]["correction"]["value"] == 0.5
    assert found["repair_rate_by_kind"]["retry"]["value"] == 0


def test_repeated_mistakes(db: Database, filled: None) -> None:
    again = pool_stats(db, "p")["repeated_mistakes"]
    assert (again["mistakes"], again["attempts"], again["share_of_wrong"]) == (1, 3, 3 / 5)
    assert again["top"] == [{"problem_source": "tiny", "problem_id": "0", "extracted": "7", "attempts": 3}]


def test_all_pools(db: Database, filled: None) -> None:
    found = pool_stats(db)
    assert (found["attempts"], found["entries"]) == (10, 4)


def test_an_attempt_in_two_pools_is_used_once(db: Database, filled: None) -> None:
    from scrpo_cli.pool.models import POOL_ENTRY

    with db.write() as connection:
        row = {"pool": "q", "attempt_id": "run:0:0:0", "run_id": "other", "added_step": 0}
        connection.execute(POOL_ENTRY.insert(), row)
    assert pool_stats(db)["uses"] == 4


def test_an_empty_database(db: Database) -> None:
    found = pool_stats(db)
    assert (found["attempts"], found["entries"], found["age_steps"]) == (0, 0, None)
    assert found["repair_rate"] == {"value": None, "ci95": None, "successes": 0, "trials": 0}
    with pytest.raises(UserError, match="no pool"):
        pool_stats(db, "p")


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals(successes: int, trials: int, low: float, high: float) -> None:
    """81 of 263 is the example of Newcombe 1998, Table I (score method); 0 and 1 of 10 by the formula."""
    found = rate(successes, trials)
    assert found["ci95"] == pytest.approx([low, high], abs=5e-5)


def test_injected_errors_are_counted_apart(db: Database, filled: None, attempt) -> None:
    before = pool_stats(db, "p")
    injected = [attempt("run", 5, 9, s) for s in range(3)]
    models = {injected[0].id: "injected:early", injected[1].id: "injected:early", injected[2].id: "injected:late"}
    record_step(db, "run", StepRecord(5, "first", injected, dict.fromkeys(models, "kept"), "p", models=models))
    tries = [
        attempt("run", 6, 9, 0, "correct", parent=injected[0].id, kind=CORRECTION),
        attempt("run", 6, 9, 1, "wrong", parent=injected[0].id, kind=CORRECTION),
    ]
    record_step(db, "run", StepRecord(6, "reflect", tries, {}, "p", [(injected[0].id, "used")]))

    found = pool_stats(db, "p")
    early, late = found["injected"]["early"], found["injected"]["late"]
    assert (early["entries"], early["alive"], early["repair_rate"]["value"]) == (2, 1, 0.5)
    assert (late["entries"], late["alive"], late["repair_rate"]["trials"]) == (1, 1, 0)
    assert found["attempts"] == before["attempts"] + 2, "the injected ones are nobody's answers"
    assert (found["decisions"], found["entries"]) == (before["decisions"], before["entries"] + 3)
    assert before["injected"] == pool_stats(db, "q")["injected"] == {}
