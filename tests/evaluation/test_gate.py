"""The gate's pure part: the fit, its two ends, and its report, against values by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.evaluation.gate import (
    ALWAYS,
    NEVER,
    GateData,
    auroc,
    fit_threshold,
    gate_metrics,
    reflects,
    spelled,
    threshold_of,
)

NAN = np.nan


def data(first, second, confidence) -> GateData:
    first_NK, second_NK, confidence_NK = (np.array(x, dtype=float) for x in (first, second, confidence))
    ones_NK = np.ones_like(first_NK)
    return GateData(first_NK, second_NK, confidence_NK, 10 * ones_NK, 30 * ones_NK, 2 * ones_NK)


# Wrong answers are the unsure ones; the second turn mends every wrong answer and breaks every right one.
SEPARATED = data([[1, 0], [1, 0], [1, 1]], [[0, 1], [0, 1], [0, 0]], [[-0.1, -2], [-0.2, -3], [-0.3, -0.4]])


def test_a_gate_helps_where_low_confidence_means_wrong():
    threshold = fit_threshold(SEPARATED)
    assert threshold == -0.4  # the least confidence that is kept
    report = gate_metrics(SEPARATED, threshold)
    values = {k: report[k]["value"] for k in ("accuracy", "never", "always", "coverage")}
    assert values == pytest.approx({"accuracy": 1.0, "never": 4 / 6, "always": 2 / 6, "coverage": 2 / 6})
    assert report["against_never"]["difference"] == pytest.approx(1 / 3)
    assert report["against_always"]["difference"] == pytest.approx(2 / 3)
    assert report["auroc"] == 1.0
    assert report["tokens"] == {"never": 10.0, "gated": pytest.approx(10 + 2 + 30 / 3), "always": 40.0}


def test_a_gate_must_choose_never_where_every_second_turn_does_harm():
    harmful = data([[1, 1], [1, 0]], [[0, 1], [1, 0]], [[-5, -1], [-0.1, -0.1]])  # the unsure answer is broken
    assert fit_threshold(harmful) == NEVER
    report = gate_metrics(harmful, NEVER)
    assert (report["threshold"], report["coverage"]["value"]) == ("never", 0.0)
    assert report["accuracy"] == report["never"]
    assert report["against_never"]["difference"] == 0.0


def test_a_gate_chooses_always_where_only_the_surest_answers_are_mended():
    assert fit_threshold(data([[0, 1]], [[1, 1]], [[-0.1, -3.0]])) == ALWAYS


def test_ties_go_to_less_coverage():
    useless = data([[1, 0], [0, 1]], [[1, 0], [0, 1]], [[-1, -2], [-3, -4]])
    assert fit_threshold(useless) == NEVER
    early = data([[0, 0], [1, 1]], [[1, 0], [1, 1]], [[-4, -3], [-2, -1]])  # all beyond the first repair adds nothing
    assert fit_threshold(early) == -3.0


def test_equal_confidences_are_never_split():
    mixed = data([[0, 1, 1]], [[1, 0, 0]], [[0.5, 0.5, 1.0]])  # one repaired and one broken at 0.5: no gain
    assert fit_threshold(mixed) == NEVER


def test_problems_count_equally_and_ungraded_pairs_not_at_all():
    """The one counted answer of a problem weighs as much as the two of another: +1/2 against -1/4."""
    uneven = data([[0, NAN], [1, 1]], [[1, 1], [0, 1]], [[-2, -9], [-1, -0.5]])
    assert fit_threshold(uneven) == -1.0
    report = gate_metrics(uneven, -1.0)
    assert report["coverage"]["value"] == pytest.approx(0.5)  # (1/1 + 0/2) / 2
    assert report["accuracy"]["value"] == 1.0


def test_unknown_confidence_is_reflected_on_unless_never():
    confidence = np.array([NAN, -1.0, ALWAYS])
    assert reflects(confidence, -5.0).tolist() == [True, False, False]
    assert reflects(confidence, NEVER).tolist() == [False, False, False]
    assert reflects(confidence, ALWAYS).tolist() == [True, True, True]
    assert fit_threshold(data([[0, 1]], [[1, 0]], [[NAN, -1.0]])) == -1.0


CELLS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), st.sampled_from([-3.0, -2.0, -1.0, NAN])),
    min_size=2,
    max_size=24,
).map(lambda cells: cells[: len(cells) // 2 * 2])


@given(CELLS)
def test_the_fit_is_the_best_of_all_thresholds(cells):
    table = data(*(np.array(column).reshape(-1, 2) for column in zip(*cells, strict=True)))
    fitted = gate_metrics(table, fit_threshold(table))
    tried = [gate_metrics(table, t) for t in (NEVER, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, ALWAYS)]
    best = max(report["accuracy"]["value"] for report in tried)
    assert fitted["accuracy"]["value"] == pytest.approx(best)
    equal = [r["coverage"]["value"] for r in tried if r["accuracy"]["value"] == pytest.approx(best)]
    assert fitted["coverage"]["value"] == pytest.approx(min(equal))
    assert fitted["accuracy"]["value"] >= max(fitted["never"]["value"], fitted["always"]["value"]) - 1e-12


def test_auroc_by_hand():
    assert auroc(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0])) == 0.5
    assert auroc(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 0.5  # a tie is half
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 1.0])) is None


def test_the_ends_are_words():
    assert [spelled(t) for t in (NEVER, -0.25, ALWAYS)] == ["never", -0.25, "always"]
    assert [threshold_of(w) for w in ("never", -0.25, "always")] == [NEVER, -0.25, ALWAYS]
