"""What the pool knows of an error's confidence, and what is asked about an error without using it."""

from dataclasses import replace

import pytest

from scrpo_cli.pool.queries import attempts_by_id, living_entries, record_step
from scrpo_cli.pool.records import StepRecord, injected_model
from scrpo_cli.pool.stats import pool_stats
from scrpo_cli.types import AttemptKind, Verdict


def pooled(db, run, attempts, **fields) -> None:
    decisions = {a.id: "kept" for a in attempts}
    record_step(db, run, StepRecord(1, "first", attempts, decisions=decisions, pool="p", **fields))


def test_an_entry_has_the_mean_log_prob_of_what_was_sampled(db, run, attempt) -> None:
    own, injected, imported = attempt(run, 1, 0), attempt(run, 1, 1), attempt(run, 1, 2)
    imported = replace(imported, completion=replace(imported.completion, ids=[], logprobs=[]))
    pooled(db, run, [own, injected, imported], models={injected.id: injected_model("early")})
    found = {e.attempt_id: e.confidence for e in living_entries(db, "p")}
    assert found == {own.id: pytest.approx((-0.5 - 0.25) / 2), injected.id: None, imported.id: None}


def test_a_question_about_an_error_is_no_use_of_it(db, run, attempt) -> None:
    error = attempt(run, 1, 0)
    pooled(db, run, [error])
    asked = attempt(run, 2, 0, verdict=Verdict.UNGRADED, parent=error.id, kind=AttemptKind.SELF_VERDICT)
    mended = attempt(run, 2, 0, 1, Verdict.CORRECT, parent=error.id, kind=AttemptKind.CORRECTION)
    record_step(db, run, StepRecord(2, "correct", [asked, mended]))
    (entry,) = living_entries(db, "p")
    assert (entry.uses, entry.repairs) == (1, 1)
    stats = pool_stats(db, "p")
    assert (stats["uses"], stats["repair_rate"]["value"]) == (1, 1.0)


def test_attempts_by_id_leave_out_what_is_not_there(db, run, attempt) -> None:
    first = attempt(run, 1, 0)
    pooled(db, run, [first])
    assert attempts_by_id(db, [first.id, "gone"]) == {first.id: first}
