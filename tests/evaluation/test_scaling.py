"""Three ways to spend 2K samples, against hand-computed values and enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from scrpo_cli.evaluation.metrics import by_turn, summarize
from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.voting import (
    DRAWS,
    NO_VOTE,
    Votes,
    majority,
    scaling_metrics,
    scaling_point,
    subsets,
    vote,
    vote_classes,
)
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.report.figures import plot_scaling
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict


def answers(problems: list[list[tuple[str, str]]], gold: str = "7") -> Answers:
    """(first, second) final answers of each sample of each problem."""
    made = []
    for g, pairs in enumerate(problems):
        problem = Problem(str(g), "test", "?", gold)
        for s, (first, second) in enumerate(pairs):
            flat = g * len(pairs) + s
            ids = (f"r:0:first:{g}:{s}", f"r:0:second:{flat}:0")
            for turn, (answer, attempt_id) in enumerate(zip((first, second), ids, strict=True), start=1):
                grade = Grade(Verdict.CORRECT if answer == gold else Verdict.WRONG, answer)
                kind, parent = (AttemptKind.FIRST, None) if turn == 1 else (AttemptKind.CHECK, ids[0])
                text = Completion([], [], [], answer, FinishReason.UNKNOWN)
                part, group, sample = ("first", g, s) if turn == 1 else ("second", flat, 0)
                made.append(Attempt(attempt_id, problem, text, grade, kind, turn, sample, parent, part, group))
    return Answers.of(made[::-1])  # in any order


TASK = TinyTask(load_recipe("tiny").task)
MIXED = [("7", "7"), ("7", "7"), ("8", "7"), ("9", "8")]  # 2 of 4 right at first, 3 of 4 after


def test_points_by_hand() -> None:
    one, two, four = scaling_metrics(answers([MIXED, MIXED]), TASK)["points"]
    assert (one["budget"], two["budget"], four["budget"]) == (2, 4, 8)
    # 2 parallel: 6 pairs; {7,7} 1, 4 mixed pairs tie at 1/2, {8,9} 0: (1 + 2) / 6
    assert one["parallel"]["value"] == pytest.approx(0.5)
    assert one["last"]["value"] == pytest.approx(3 / 4)
    # one answer with its correction, both vote: 7,7 -> 1 twice; 8,7 -> 1/2; 9,8 -> 0
    assert one["all"]["value"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert one["last_parallel"]["difference"] == pytest.approx(0.25)
    assert two["parallel"]["value"] == 1.0  # 7, 7, 8, 9
    assert two["last"]["value"] == pytest.approx((3 * 1 + 3 * 0.5) / 6)
    assert four["parallel"] is None  # there are no 8 first answers
    assert four["last_parallel"] is None
    assert four["last"]["value"] == four["all"]["value"] == 1.0


def test_answers_that_were_not_graded_leave_both_arms() -> None:
    votes = Votes.of(["a", "a", "b", "a", "a", None], [1, np.nan, 0, 1, 1, 0], 2)
    assert votes.size == 2
    assert votes.class_Tn[1].tolist() == [0, NO_VOTE]
    assert np.isnan(majority(votes, 3, (0,), seed=0))


def test_many_subsets_are_drawn_without_bias() -> None:
    rng = np.random.default_rng(0)
    class_n = rng.integers(0, 4, 16)
    outcome_2n = np.stack([class_n == 0] * 2).astype(float)
    votes = Votes(np.stack([class_n] * 2), outcome_2n)
    every = np.array([*combinations(range(16), 4)])
    exact = vote(class_n[every], np.array([1.0, 0, 0, 0])).mean()
    assert len(every) > DRAWS
    estimates = [majority(votes, 4, (0,), seed=seed) for seed in range(60)]
    assert np.mean(estimates) == pytest.approx(exact, abs=3 * np.std(estimates) / np.sqrt(60))
    assert all(len({*row}) == 4 for row in subsets(16, 4, 0))
    assert majority(votes, 4, (0,), seed=1) == majority(votes, 4, (0,), seed=1)


def test_nobody_votes() -> None:
    assert vote(np.array([[NO_VOTE, NO_VOTE]]), np.array([])).tolist() == [0.0]
    assert vote(np.array([[NO_VOTE, 0]]), np.array([1.0])).tolist() == [1.0]


def test_one_sample_is_no_curve() -> None:
    assert scaling_metrics(answers([[("7", "7")]]), TASK) is None


def test_the_plot_is_the_same_file_for_the_same_numbers(tmp_path) -> None:
    scaling = {"points": [scaling_point([Votes.of(["a", "b", "a", "a"], [1, 0, 1, 1], 2)] * 3, k) for k in (1, 2)]}
    files = [plot_scaling(scaling, "test", tmp_path / name).read_bytes() for name in ("a.svg", "b.svg")]
    assert files[0] == files[1]
    assert plot_scaling(scaling, "test", tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_by_turn_by_hand() -> None:
    turns = [np.array(t, float) for t in ([[1, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 1], [1, np.nan]])]
    found = by_turn(turns)
    # the answer without a third grade leaves all turns
    assert [a["value"] for a in found["accuracy"]] == [0.25, 0.5, 0.75]
    assert [d["value"] for d in found["delta"]] == [0.25, 0.25]
    assert [d["value"] for d in found["i2c"]] == [0.25, 0.5]
    assert [d["value"] for d in found["c2i"]] == [0.0, 0.25]
    assert found["last_first"]["difference"] == 0.5


def test_a_vote_is_the_same_number_in_the_summary_and_in_the_curve() -> None:
    """Eight answers, three of them right: one estimator of maj@k, here by enumeration."""
    given = ["7", "7", "7", "1", "1", "2", "3", "4"]
    made = answers([[(x, x) for x in given]])
    outcomes = made.outcomes
    summary = summarize(outcomes.first_NK, None, vote_classes(TASK, made.first))
    points = {point["budget"]: point["parallel"]["value"] for point in scaling_metrics(made, TASK)["points"][:3]}
    assert {k: summary["maj_at"][k] for k in points} == points
    right = []
    for four in combinations(given, 4):
        most = max(map(four.count, four))
        top = {x for x in four if four.count(x) == most}
        right.append(("7" in top) / len(top))
    assert summary["maj_at"][4] == pytest.approx(np.mean(right))  # 70 subsets: all of them
