"""The numbers of a step, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from methods.builders import credits_of

from scrpo_cli.methods.base import PhaseKind
from scrpo_cli.recipe.monitors import MonitorsConfig
from scrpo_cli.training.health import step_metrics
from scrpo_cli.types import (
    Attempt,
    AttemptKind,
    Completion,
    FinishReason,
    Grade,
    Group,
    PoolEntry,
    Problem,
    SampleRequest,
    Verdict,
)

PROBLEM = Problem("p", "test", "1+1", "2")


def attempt(answer: str | None, text: str = "", *, turn: int = 1, kind: AttemptKind = AttemptKind.FIRST) -> Attempt:
    """Right when it answers 2; `error` means that the grader failed."""
    text = text or f"I say {answer}"
    verdict = {"2": Verdict.CORRECT, None: Verdict.UNPARSABLE, "error": Verdict.GRADER_ERROR}.get(answer, Verdict.WRONG)
    ids = [ord(c) for c in text]
    completion = Completion([1], ids, [-1.0] * len(ids), text, FinishReason.STOP)
    return Attempt("a", PROBLEM, completion, Grade(verdict, answer), kind, turn)


def first(*answers: str | None) -> Group:
    return Group(SampleRequest(PROBLEM, [], len(answers)), [attempt(a) for a in answers])


def turn(before: Attempt, answer: str | None, text: str = "") -> Group:
    request = SampleRequest(PROBLEM, [], 1, AttemptKind.CHECK, previous=before)
    return Group(request, [attempt(answer, text, turn=request.turn, kind=AttemptKind.CHECK)])


def correction(entry: PoolEntry, *answers: str | None) -> Group:
    kind = AttemptKind.CORRECTION
    return Group(
        SampleRequest(PROBLEM, [], len(answers), kind, entry), [attempt(a, kind=kind, turn=2) for a in answers]
    )


def entry(extracted: str | None = "3", uses: int = 0, repairs: int = 0, added_step: int = 1) -> PoolEntry:
    return PoolEntry("e", PROBLEM, "I say 3", extracted, added_step, uses, repairs)


def measure(
    phase: str, groups: Sequence[Group], pool: Sequence[PoolEntry] = (), skipped: int = 0, **cfg: object
) -> dict[str, float]:
    credits = credits_of([], "masked_tokens", skipped_groups=skipped)
    kind = {"collect": PhaseKind.COLLECTION, "fit": PhaseKind.FIT}.get(phase, PhaseKind.FIRST_ANSWERS)
    return step_metrics(phase, kind, groups, credits, pool, 5, MonitorsConfig(**cfg))


def part(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


def test_a_verdict_between_two_answers_is_no_answer() -> None:
    """Answer, verify, revise: the revision is compared with the answer, not with the verdict on it."""
    answer = replace(attempt("3"), id="answer")
    said = Attempt("said", PROBLEM, answer.completion, Grade(Verdict.UNGRADED), AttemptKind.SELF_VERDICT, 2)
    verify = SampleRequest(PROBLEM, [], 1, AttemptKind.SELF_VERDICT, previous=answer)
    revise = SampleRequest(PROBLEM, [], 1, AttemptKind.REFINE, previous=said)
    revised = replace(attempt("2", kind=AttemptKind.REFINE, turn=revise.turn), id="revised")
    groups = [Group(SampleRequest(PROBLEM, [], 1), [answer]), Group(verify, [said]), Group(revise, [revised])]
    found = part(measure("turns", groups), "turns/")
    assert (found["i2c"], found["c2i"], found["wrong"]) == (1, 0, 1)


def test_what_is_only_collected_compares_nothing() -> None:
    assert "groups/skipped_share" not in measure("collect", [first("2", "2")])
    assert measure("first", [first("2", "2")])["groups/skipped_share"] == 0


def test_two_turns() -> None:
    """right -> right, right -> wrong, wrong -> right, wrong -> the same wrong answer in other words."""
    before = [attempt(a) for a in ("2", "2", "3", "3")]
    seconds = [turn(b, a) for b, a in zip(before[:3], ("2", "5", "2"))]
    found = measure(
        "turns", [Group(SampleRequest(PROBLEM, [], 4), before), *seconds, turn(before[3], "3", "Sorry: I say 3")]
    )
    assert found["first/accuracy"] == 0.5
    assert found["turns/reward"] == 0.5
    assert (
        part(found, "turns/").items()
        >= {
            "t1": 0.5,
            "t2": 0.5,
            "i2c": 0.25,
            "c2i": 0.25,
            "right": 2,
            "wrong": 2,
            "broken": 0.5,
            "unchanged": 0.5,  # the first and the last
            "edit_zero": 0.25,  # the first
            "unchanged_wrong": 0.5,
            "edit_zero_wrong": 0.0,
            "apology": 0.5,
        }.items()
    )
    assert found["turns/edit_ratio"] == pytest.approx((0 + 1 / 14 + 1 / 14 + 7 / 21) / 4)


def test_an_apology_that_changes_the_answer_is_none() -> None:
    wrong = attempt("3")
    assert measure("turns", [turn(wrong, "4", "Sorry: I say 4")])["turns/apology"] == 0
    assert measure("turns", [turn(wrong, "3", "No: I say 3")])["turns/apology"] == 0
    assert measure("turns", [turn(wrong, "3", "No: I say 3")], apology_words=["NO:"])["turns/apology"] == 1


def test_two_answers_without_a_final_answer_are_not_the_same() -> None:
    found = measure("turns", [turn(attempt(None, "hm"), None, "ha")])
    assert (found["turns/unchanged"], found["turns/wrong"]) == (0, 1)


def test_three_turns_by_turn() -> None:
    one = attempt("3")
    two = turn(one, "3")
    three = turn(two.attempts[0], "2")
    found = measure("turns", [Group(SampleRequest(PROBLEM, [], 1), [one]), two, three])
    assert [found[f"turns/t{t}"] for t in (1, 2, 3)] == [0, 0, 1]
    assert (found["turns/wrong"], found["turns/i2c"]) == (2, 0.5)


def test_a_failed_grader_leaves_every_share() -> None:
    found = measure("turns", [turn(attempt("2"), "error"), turn(attempt("error"), "3"), turn(attempt("2"), "2")])
    assert (found["turns/right"], found["turns/broken"], found["turns/t1"], found["turns/wrong"]) == (1, 0, 1, 0)
    assert "turns/unchanged_wrong" not in found
    assert measure("first", [first("2", "error", "3")])["first/reward"] == 0.5
    assert "first/reward" not in measure("first", [first("error")])


def test_repairs_of_used_and_fresh_errors() -> None:
    groups = [correction(entry(uses=4), "2", "2", "3", "4"), correction(entry(), "3", "2")]
    found = measure("reflect", groups)
    assert (
        part(found, "reflect/").items()
        >= {
            "fix_rate": 0.5,
            "solved": 1.0,
            "used": 4,
            "fresh": 2,
            "fix_rate_used": 0.5,
            "fix_rate_fresh": 0.5,
            "wrong": 6,
            "unchanged_wrong": pytest.approx(2 / 6),
            "edit_zero_wrong": pytest.approx(2 / 6),
            "tokens_share": 1.0,
            "groups": 2,
        }.items()
    )
    assert "first/accuracy" not in found


def test_trials_and_reflections_in_one_step() -> None:
    found = measure("retry", [first("2", "3"), correction(entry(), "2", "2")])
    assert (found["first/accuracy"], found["reflect/fix_rate"], found["retry/reward"]) == (0.5, 1.0, 0.75)
    assert (found["rollout/tokens"], found["reflect/tokens"], found["reflect/tokens_share"]) == (28, 14, 0.5)


def test_skipped_is_a_share_of_the_sets_that_share_a_baseline() -> None:
    """First answers and reflections by group; turns by problem and turn; a step that does both by its corrections."""
    begun = first("2", "3")
    turns = [begun, *(turn(a, "2") for a in begun.attempts)]
    both = [first("3"), first("3"), correction(entry(), "2"), correction(entry(), "3")]
    for phase, groups, share in (("first", [first("2")] * 4, 0.25), ("turns", turns, 0.5), ("retry", both, 0.5)):
        assert measure(phase, groups, skipped=1)["groups/skipped_share"] == share


def test_the_pool() -> None:
    stuck = entry("7", uses=16)
    pool = [entry("3"), entry("3"), entry(None), entry(None), stuck, entry("8", uses=16, repairs=1)]
    found = measure("first", [first("2")], pool)
    assert part(found, "pool/") == {
        "size": 6,
        "age": 4,
        "repeated_share": pytest.approx(1 / 6),
        "stuck_share": pytest.approx(1 / 6),
    }
    assert measure("first", [first("2")], pool, stuck_uses=17)["pool/stuck_share"] == 0


def test_a_step_without_groups() -> None:
    """Offline methods fit what was recorded: nothing is sampled, nothing is divided by nothing."""
    found = measure("fit", [])
    assert part(found, "fit/") == {"groups": 0, "tokens": 0}
    assert (found["rollout/tokens"], found["pool/size"]) == (0, 0)
    assert "groups/skipped_share" not in found
