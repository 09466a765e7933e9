import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import majority_at_k, pass_at_k, repair_rate, summarize, two_turn
from scrpo_cli.evaluation.paired import UNDECIDED, compare

NAN = np.nan
OUTCOMES = arrays(
    float, st.tuples(st.integers(1, 12), st.integers(1, 5)), elements=st.sampled_from([0.0, 1.0, NAN])
).filter(lambda a: not np.isnan(a).all())


def test_summarize_by_hand():
    result = summarize(
        np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]), np.array([[0, 0, 0, 1], [1, 1, 0, 0], [0] * 4])
    )
    assert result["n"] == 3
    assert result["samples"] == 4
    assert result["avg"] == pytest.approx(0.5)
    assert result["ci95"] == pytest.approx([0.1253, 0.8747], abs=1e-4)  # Wilson's of 1.5 in 3: Student's is beyond
    assert result["pass_at"] == pytest.approx({1: 0.5, 2: (5 / 6 + 0 + 1) / 3, 4: 2 / 3})
    assert result["truncated"] == pytest.approx(3 / 12)
    assert result["excluded"] == 0


def test_interval_counts_problems_not_samples():
    few_NK = np.array([[1], [0], [1], [0], [1], [1], [0], [1]])
    copies = summarize(np.repeat(few_NK, 16, axis=1))
    assert copies["ci95"] == summarize(few_NK)["ci95"]


def test_ungraded_answers_do_not_count():
    result = summarize(np.array([[1, NAN], [0, 0], [NAN, NAN]]), np.array([[0, 1], [1, 0], [1, 1]]))
    assert (result["n"], result["samples"], result["excluded"]) == (2, 2, 3)
    assert result["avg"] == 0.5
    assert result["truncated"] == pytest.approx(1 / 3)
    assert result["pass_at"] == {1: 0.5, 2: 0.0}  # only the second problem has two graded answers


@pytest.mark.parametrize("empty", [np.zeros((0, 4)), np.zeros((3, 0)), np.full((2, 2), NAN), []])
def test_empty_input_is_a_clear_error(empty):
    with pytest.raises(UserError, match="No graded answer"):
        summarize(empty)


def test_wrong_shapes_and_values_are_refused():
    with pytest.raises(ValueError, match="problems x samples"):
        summarize(np.ones(3))
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarize(np.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="same problems"):
        compare(np.ones((2, 1)), np.ones((3, 1)))


def test_pass_at_k_is_the_mean_over_all_draws():
    row_K = [1, 0, 0, 1, 0, 0]
    for k in range(1, 7):
        drawn = np.mean([any(c) for c in combinations(row_K, k)])
        assert pass_at_k(np.array([row_K]), k) == pytest.approx([drawn])


def test_majority_vote():
    correct_NK = np.array([[1, 1, 0, 0], [0, 0, 1, 0]])
    answers_NK = [["7", "7", "8", "9"], ["1", "2", "3", None]]
    assert majority_at_k(correct_NK, answers_NK, 4) == pytest.approx([1, 1 / 3])  # a three-way tie counts 1/3
    # of the 6 pairs {7,7} is right, four ties with a 7 count half; of the second row 1-3, 2-3 count half, 3-None whole
    assert majority_at_k(correct_NK, answers_NK, 2) == pytest.approx([(1 + 4 / 2) / 6, (2 / 2 + 1) / 6])
    assert majority_at_k(np.array([[0, 0]]), [[None, None]], 2) == [0.0]


def test_votes_and_truncation_have_intervals_clustered_by_problem():
    few_NK = np.array([[1], [0], [1], [0], [1], [1], [0], [1]])
    answers_NK = [["right" if c else "wrong" for c in row] for row in np.repeat(few_NK, 4, axis=1)]
    copies = summarize(np.repeat(few_NK, 4, axis=1), np.repeat(few_NK, 4, axis=1), answers_NK)
    assert copies["maj_at_ci95"][4] == copies["truncated_ci95"] == copies["ci95"] == summarize(few_NK)["ci95"]


def test_majority_of_one_is_accuracy():
    correct_NK = np.array([[1, 0, NAN], [0, 0, 1]])
    answers_NK = [["1", "2", "3"], ["4", None, "6"]]
    result = summarize(correct_NK, answers_NK=answers_NK)
    assert result["maj_at"][1] == pytest.approx(result["avg"])


def test_two_turn_vectors():
    # (r1, r2) = (0,1), (1,1), (1,0), (0,0): @t1 0.5, @t2 0.5, Delta 0, i->c 0.25, c->i 0.25
    result = two_turn(np.array([[0], [1], [1], [0]]), np.array([[1], [1], [0], [0]]))
    values = {name: number["value"] for name, number in result.items()}
    assert values == {"t1": 0.5, "t2": 0.5, "delta": 0.0, "i2c": 0.25, "c2i": 0.25, "fix_rate": 0.5}


def test_fix_rate_is_conditional_on_a_wrong_first_answer():
    # SCoRe on MATH-500: t1 60.0, i->c 5.8 of all problems, hence 14.5% of the wrong ones
    first_NK = np.array([[1]] * 300 + [[0]] * 200)
    second_NK = np.array([[1]] * 293 + [[0]] * 7 + [[1]] * 29 + [[0]] * 171)
    result = two_turn(first_NK, second_NK)
    assert result["i2c"]["value"] == pytest.approx(0.058)
    assert result["c2i"]["value"] == pytest.approx(0.014)
    assert result["delta"]["value"] == pytest.approx(0.044)
    assert result["fix_rate"]["value"] == pytest.approx(0.145)
    low, high = result["fix_rate"]["ci95"]
    assert low < 0.145 < high


@given(st.data())
def test_two_turn_identities(data):
    first_NK = data.draw(OUTCOMES)
    second_NK = data.draw(arrays(float, first_NK.shape, elements=st.sampled_from([0.0, 1.0, NAN])))
    if np.isnan(first_NK + second_NK).all():
        with pytest.raises(UserError):
            two_turn(first_NK, second_NK)
        return
    result = two_turn(first_NK, second_NK)
    value = {name: number["value"] for name, number in result.items()}
    assert value["delta"] == pytest.approx(value["i2c"] - value["c2i"], abs=1e-12)
    assert value["delta"] == pytest.approx(value["t2"] - value["t1"], abs=1e-12)
    assert (value["fix_rate"] is None) == (not ((first_NK == 0) & ~np.isnan(second_NK)).any())


@given(OUTCOMES)
def test_summary_is_json_without_nan(correct_NK):
    result = summarize(correct_NK, np.zeros_like(correct_NK))
    json.dumps(result, allow_nan=False)
    passes = list(result["pass_at"].values())
    assert passes[0] == pytest.approx(result["avg"])
    assert result["ci95"][0] <= result["avg"] + 1e-12
    assert result["avg"] - 1e-12 <= result["ci95"][1]


@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.sampled_from([0.0, 1.0])))
def test_pass_at_k_never_falls(correct_NK):
    passes = list(summarize(correct_NK)["pass_at"].values())
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(passes))


def test_repair_rate():
    first_NK = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, NAN]])
    repaired_NK = np.array([[1, 0, NAN], [1, NAN, NAN], [NAN, NAN, NAN], [0, NAN, 1]])
    result = repair_rate(first_NK, repaired_NK)
    assert result["value"] == pytest.approx(2 / 4)
    assert result["wrong"] == 4
    assert 0 <= result["ci95"][0] < 0.5 < result["ci95"][1] <= 1


def test_no_wrong_answer_leaves_no_rate():
    assert repair_rate(np.ones((3, 2)), np.full((3, 2), NAN)) == {"value": None, "ci95": None, "wrong": 0}


def test_paired_removes_what_the_problems_share():
    rng = np.random.default_rng(1)
    before_NK = (rng.random((300, 4)) < rng.random((300, 1))).astype(float)
    after_NK = before_NK.copy()
    after_NK[:30] = 1.0
    result = compare(before_NK, after_NK)
    unpaired = summarize(before_NK)["ci95"]
    assert result["verdict"] == "higher"
    assert result["p"] < 0.001
    assert result["ci95"][1] - result["ci95"][0] < 0.6 * (unpaired[1] - unpaired[0])


def test_paired_changes_sign_when_swapped():
    a_NK, b_NK = np.array([[1, 0], [1, 1], [0, 0], [1, 1]]), np.array([[0, 0], [1, 1], [0, 0], [0, 1]])
    forth, back = compare(a_NK, b_NK), compare(b_NK, a_NK)
    assert forth["difference"] == -back["difference"] == pytest.approx(-0.25)
    assert forth["ci95"] == pytest.approx([-back["ci95"][1], -back["ci95"][0]])
    assert forth["p"] == pytest.approx(back["p"])
    assert forth["verdict"] == UNDECIDED


def test_paired_identical_answers_cannot_be_told_apart():
    same_NK = np.array([[1], [0], [1]])
    result = compare(same_NK, same_NK)
    assert (result["difference"], result["p"], result["verdict"]) == (0.0, 1.0, UNDECIDED)
    assert result["ci95"][0] < 0 < result["ci95"][1]


def test_paired_skips_problems_that_one_side_lacks():
    result = compare(np.array([[1, 1], [NAN, NAN], [0, 0]]), np.array([[1], [1], [1]]))
    assert result["n"] == 2
    assert result["difference"] == 0.5
