"""What first answers and reflections are worth, against numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scrpo_cli.evaluation.stats import ratio_estimate
from scrpo_cli.evaluation.worth import (
    REFLECTION_WORDS,
    Shown,
    against_fresh,
    checks_itself,
    measure,
    of_kind,
    word_pattern,
)
from scrpo_cli.types import (
    Attempt,
    AttemptKind,
    Completion,
    FinishReason,
    Grade,
    Group,
    Problem,
    SampleRequest,
    Verdict,
)

VERDICTS = {"1": Verdict.CORRECT, "0": Verdict.WRONG, "?": Verdict.GRADER_ERROR}


def group(problem: int, outcomes: str, length: int = 10, text: str = "", kind=AttemptKind.FIRST) -> Group:
    """One attempt for each of `outcomes` (1, 0, ? not graded), all of `length` tokens and the same text."""
    asked = Problem(f"p{problem}", "made-up", "1+1=?", "2")
    completion = Completion([1], [2] * length, [-0.1] * length, text, FinishReason.STOP)
    attempts = [
        Attempt(f"r:{kind}:{problem}:{i}", asked, completion, Grade(VERDICTS[o]), kind, sample=i)
        for i, o in enumerate(outcomes)
    ]
    return Group(SampleRequest(asked, (), len(attempts), kind), attempts)


def ones(n: int) -> np.ndarray:
    return np.ones(n)


def test_first_answers_by_hand() -> None:
    groups = [group(0, "1000", 10, "Wait."), group(1, "0000", 30), group(2, "11?1", 20), group(3, "0101", 20)]
    found = of_kind(groups, ones(4), REFLECTION_WORDS)
    assert found["answers"] == 16
    assert found["right"]["value"] == pytest.approx((1 / 4 + 0 + 1 + 1 / 2) / 4)  # what is not graded does not count
    assert found["signal"]["value"] == 2 / 4
    assert found["self_checking"]["value"] == 1 / 4
    assert found["truncated"]["value"] == 0
    assert found["tokens"]["value"] == pytest.approx(20)
    assert found["group_tokens"] == 80
    assert found["per_1000_tokens"]["value"] == pytest.approx(1000 * 2 / 320)


def test_the_rate_per_token_is_the_share_over_the_cost() -> None:
    """With groups of one length the interval is that of the share; where those with signal are the long ones, the two
    move together and it is narrower than that."""
    same = [group(n, "10" if n < 20 else "00", 25) for n in range(60)]
    found = of_kind(same, ones(60), ["x"])
    for key in (0, 1):
        assert found["per_1000_tokens"]["ci95"][key] == pytest.approx(1000 / 50 * found["signal"]["ci95"][key])
    long = [group(n, "10" if n < 20 else "00", 50 if n < 20 else 5) for n in range(60)]
    other = of_kind(long, ones(60), ["x"])
    widths = [
        (f["per_1000_tokens"]["ci95"][1] - f["per_1000_tokens"]["ci95"][0]) * f["group_tokens"] for f in (found, other)
    ]
    assert widths[1] < widths[0]


def test_errors_weigh_what_they_stand_for() -> None:
    shown = [group(0, "1110", 10), group(1, "0000", 40)]
    found = of_kind(shown, np.array([1.0, 3.0]), ["x"])
    assert found["right"]["value"] == pytest.approx((1 * 3 / 4 + 3 * 0) / 4)
    assert found["signal"]["value"] == 1 / 4
    assert found["group_tokens"] == (1 * 40 + 3 * 160) / 4
    assert found["per_1000_tokens"]["value"] == pytest.approx(1000 * 1 / (40 + 3 * 160))


def test_a_fresh_try_is_the_other_answers() -> None:
    first = [np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 1, 0]), np.array([0.0, 0, np.nan, 0])]
    corrected = [np.array([1.0, 0]), np.array([1.0, 1]), np.array([0.0, np.nan])]
    errors = np.array([3.0, 1.0, 3.0])
    found = against_fresh(first, corrected, errors)
    fresh = (3 * 1 / 3 + 1 * 3 / 3 + 3 * 0 / 2) / 7
    repaired = (3 * 1 / 2 + 1 * 1 + 3 * 0) / 7
    assert found["fresh"]["value"] == pytest.approx(fresh)
    assert (found["gain"]["a"], found["gain"]["b"]) == pytest.approx((fresh, repaired))
    assert found["gain"]["difference"] == pytest.approx(repaired - fresh)


def test_the_rate_of_a_fresh_try_is_unbiased() -> None:
    """Of two answers at a rate of one half, a problem with an error has another right one in two of three cases; a
    fresh try is right in one of two."""
    outcomes = np.random.default_rng(0).integers(0, 2, size=(4_000, 2)).astype(float)
    wrong = outcomes[outcomes.sum(axis=1) < 2]
    errors = 2 - wrong.sum(axis=1)
    found = against_fresh(list(wrong), [np.zeros(1)] * len(wrong), errors)
    assert found["fresh"]["value"] == pytest.approx(1 / 2, abs=0.03)
    assert wrong.sum(axis=1).mean() == pytest.approx(2 / 3, abs=0.03)  # what it would be without the weights


def test_nothing_to_compare() -> None:
    nothing = {"fresh": None, "gain": None}
    assert against_fresh([], [], np.zeros(0)) == nothing
    assert against_fresh([np.array([0.0])], [np.array([1.0])], np.array([1.0])) == nothing  # alone in its group
    assert against_fresh([np.zeros(2)], [np.array([np.nan])], np.array([2.0])) == nothing


def test_a_whole_measurement() -> None:
    firsts = [group(0, "1100"), group(1, "1111"), group(2, "0000", text="Check 1+1=2")]
    corrections = {
        0: Shown(group(0, "11", 40, kind=AttemptKind.CORRECTION), 2),
        2: Shown(group(2, "0?", 40, "let me CHECK", AttemptKind.CORRECTION), 4),
    }
    found = measure(firsts, corrections, REFLECTION_WORDS)
    assert (found["problems"], found["group_size"], found["shown"], found["not_graded"]) == (3, 4, 2, 1)
    assert found["reflection"]["right"]["value"] == pytest.approx(2 * 1 / (2 + 4))  # two errors and four
    assert found["reflection"]["self_checking"]["value"] == pytest.approx(4 / 6)
    expected = ratio_estimate(np.array([2 * 2 / 3, 0]), np.array([2.0, 4.0]))
    assert found["fresh"] == expected.as_dict()


def test_without_an_error_there_is_nothing_of_reflections() -> None:
    found = measure([group(0, "11"), group(1, "11")], {}, REFLECTION_WORDS)
    assert [found[key] for key in ("shown", "reflection", "fresh", "gain")] == [0, None, None, None]


def test_no_number_is_nan() -> None:
    found = measure([group(0, "??"), group(1, "?0")], {1: Shown(group(1, "??"), 1)}, ["x"])
    numbers = [
        n for kind in ("first", "reflection") for f in found[kind].values() if isinstance(f, dict) for n in f["ci95"]
    ]
    assert all(map(math.isfinite, numbers))
    assert found["reflection"]["right"] is None


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("47+38=84\nCheck 7+8=15 4+3+1=8 85 not", True),
        ("Wait, that is wrong.", True),
        ("Let me double-check.", True),
        ("A checkered shirt; he waited; the hmmm of bees.", False),
        ("47+38=85\n\\boxed{85}", False),
    ],
)
def test_words_by_which_an_answer_checks_itself(text: str, holds: bool) -> None:
    (attempt,) = group(0, "0", text=text).attempts
    assert checks_itself(attempt, word_pattern(REFLECTION_WORDS)) is holds


def test_words_are_taken_as_they_are_written() -> None:
    pattern = word_pattern(["let me see", "a.b"])
    assert [bool(pattern.search(text)) for text in ("Let me see.", "let us see", "a.b", "axb")] == [
        True,
        False,
        True,
        False,
    ]
