from dataclasses import replace

import numpy as np
import pytest
from ablation_fakes import PROBLEMS, N, attempt, first_solved, make_answers, run

from scrpo_cli.ablation.outcomes import RunOutcome, Spending
from scrpo_cli.ablation.table import FEW_SEEDS, NO_EFFECT, UNEQUAL_STARTS, tabulate
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.outcomes import Answers, side_by_side
from scrpo_cli.evaluation.paired import UNDECIDED
from scrpo_cli.types import AttemptKind

NAN = np.nan


def pairs(*outcomes):
    """Answers of N problems to two turns, which take turns at these (first, second)."""
    first_NK, second_NK = (np.array([[outcomes[n % len(outcomes)][i]] for n in range(N)], float) for i in (0, 1))
    return make_answers(first_NK, second_NK=second_NK)


MIXED = pairs((0, 1), (1, 1), (1, 0), (0, 0))  # the vectors of SCoRe's metrics: t1 = t2 = 1/2, i2c = c2i = 1/4
REPAIRS = pairs((0, 1))


def two_turn_run(arm, seed, after, before=MIXED, **options):
    return RunOutcome(arm, seed, f"{arm}-{seed}", 1000, before, after, **options)


def values(scores):
    return {key: number["value"] for key, number in scores.two_turn.items()}


def test_two_turns_of_one_seed_and_of_two_side_by_side():
    one = tabulate([two_turn_run("a", 0, MIXED)], ["a"], 1000).arms[0].after
    assert values(one) == {"t1": 0.5, "t2": 0.5, "delta": 0, "i2c": 0.25, "c2i": 0.25, "fix_rate": 0.5}
    two = tabulate([two_turn_run("a", 0, MIXED), two_turn_run("a", 1, REPAIRS)], ["a"], 1000).arms[0].after
    # 20 + 40 of 80 first answers are wrong, of which 10 + 40 are repaired; 10 of 80 are broken
    assert values(two) == pytest.approx(
        {"t1": 1 / 4, "t2": 3 / 4, "delta": 1 / 2, "i2c": 5 / 8, "c2i": 1 / 8, "fix_rate": 5 / 6}
    )
    assert two.seeds == [0, 1]


def test_paired_difference_in_delta():
    runs = [two_turn_run("a", seed, MIXED) for seed in (0, 1)] + [two_turn_run("b", seed, REPAIRS) for seed in (0, 1)]
    a, b = tabulate(runs, ["a", "b"], 1000).arms
    assert a.delta_difference is None
    # problem by problem 1 - (1, 0, -1, 0): mean 1, variance 1/2 x 40/39, Student's t at 39 degrees of freedom 2.0227
    margin = 2.0227 * (0.5 / 39) ** 0.5
    assert b.delta_difference["difference"] == pytest.approx(1)
    assert b.delta_difference["ci95"] == pytest.approx([1 - margin, 1 + margin], abs=1e-4)
    assert b.delta_difference["by_seed"] == pytest.approx([1, 1])
    assert b.delta_difference["p"] < 0.001
    assert b.difference["difference"] == pytest.approx(-0.5)  # first answers: 0 against 1/2


def test_without_second_answers_there_is_nothing_of_two_turns():
    runs = [two_turn_run("a", 0, MIXED), run("b", 0, first_solved(10))]
    b = tabulate(runs, ["a", "b"], 1000).arms[1]
    assert (b.after.two_turn, b.delta_difference) == (None, None)
    assert b.difference["difference"] == pytest.approx(-0.25)


def test_seeds_share_their_start():
    runs = [two_turn_run(arm, seed, REPAIRS, (MIXED, REPAIRS)[seed]) for arm in ("a", "b") for seed in (0, 1)]
    before = tabulate(runs, ["a", "b"], 1000).before
    assert (before.seeds, before.first["value"]) == ([0, 1], 0.25)
    assert before.two_turn["c2i"]["value"] == 0.125


def test_starts_that_differ_are_noted_and_leave_no_common_one():
    runs = [two_turn_run("a", 0, REPAIRS, MIXED), two_turn_run("b", 0, REPAIRS, REPAIRS)]
    result = tabulate(runs, ["a", "b"], 1000)
    assert result.before is None
    assert result.notes == [FEW_SEEDS, UNEQUAL_STARTS]
    assert [arm.before.first["value"] for arm in result.arms] == [0.5, 0]


def test_warnings_are_added_over_the_runs():
    fired = ({"collapse": 2}, {"collapse": 1, "length": 4}, {})
    runs = [two_turn_run("a", seed, MIXED, steps=10, warnings=w) for seed, w in enumerate(fired)]
    assert tabulate(runs, ["a"], 1000).arms[0].warnings == {"collapse": 3, "length": 4}


def test_paired_by_seed_and_problem():
    # seed 0: 10 -> 20 problems, seed 1: 12 -> 22: +10/40 in both
    runs = [run("a", 0, first_solved(10)), run("a", 1, first_solved(12))]
    runs += [run("b", 1, first_solved(22)), run("b", 0, first_solved(20))]
    result = tabulate(runs, ["a", "b"], budget=1000)
    a, b = result.arms
    assert a.difference is None
    assert a.after.first["value"] == pytest.approx(11 / 40)
    assert (b.seeds, b.runs) == ([0, 1], ["b-0", "b-1"])
    assert b.difference["difference"] == pytest.approx(0.25)
    assert b.difference["by_seed"] == pytest.approx([0.25, 0.25])
    assert b.difference["n"] == N  # problems, not problems x seeds
    assert b.difference["p"] < 0.01
    assert b.gain["difference"] == pytest.approx(21 / 40)
    assert b.difference["ci95_seeds"] is None  # two seeds
    assert result.notes == [FEW_SEEDS]


def test_only_shared_seeds_are_compared():
    runs = [run("a", 0, first_solved(10)), run("b", 0, first_solved(10)), run("b", 1, first_solved(40))]
    difference = tabulate(runs, ["a", "b"], 1000).arms[1].difference
    assert (difference["seeds"], difference["difference"], difference["verdict"]) == ([0], 0.0, UNDECIDED)


def test_verdicts():
    def verdict(*after):
        runs = [run("a", seed, first_solved(10)) for seed in range(len(after))]
        runs += [run("b", seed, first_solved(k)) for seed, k in enumerate(after)]
        return tabulate(runs, ["a", "b"], 1000).arms[1].difference["verdict"]

    assert verdict(11) == UNDECIDED
    assert verdict(25) == "higher in these runs; 1 seed cannot say it of the setting"
    assert verdict(25, 40, 12) == "higher in these runs; 3 seeds cannot say it of the setting"
    assert verdict(25, 26, 24, 25) == "higher"
    assert verdict(0, 0, 1, 0) == "lower"


def test_interval_over_problems_and_seeds():
    # 40 problems: a solves 10 under every seed, b 15, 20 and 25: +5, +10, +15 of 40, the same 10 problems in each
    runs = [run("a", seed, first_solved(10)) for seed in range(3)]
    runs += [run("b", seed, first_solved(15 + 5 * seed)) for seed in range(3)]
    b = tabulate(runs, ["a", "b"], 1000).arms[1]
    low, high = b.difference["ci95_seeds"]
    inner_low, inner_high = b.difference["ci95"]
    assert low < inner_low < 0.25 < inner_high < high
    low, high = b.after.first["ci95_seeds"]
    assert 0 < low < b.after.first["ci95"][0]
    assert b.after.first["ci95"][1] < high < 1


def test_repair_rates_and_samples_of_different_number():
    wide = make_answers(np.tile([1, 0], (N, 1)), np.tile([NAN, 1], (N, 1)))
    narrow = make_answers(np.zeros((N, 1)), np.zeros((N, 1)))
    runs = [RunOutcome("a", 0, "r0", 1000, narrow, wide), RunOutcome("a", 1, "r1", 1000, narrow, narrow)]
    arm = tabulate(runs, ["a"], 1000).arms[0]
    assert arm.after.first["value"] == pytest.approx(1 / 3)  # 1 right of 3 answers a problem
    assert (arm.before.repair["value"], arm.after.repair["value"]) == (0.0, 0.5)


def test_problems_are_matched_by_name():
    straight = run("a", 0, first_solved(10))
    turned = make_answers(first_solved(10)[::-1], names=reversed(straight.after.problems))
    result = tabulate([straight, RunOutcome("b", 0, "r", 1000, straight.before, turned)], ["a", "b"], 1000)
    assert result.arms[1].difference["difference"] == 0


def test_arms_that_did_the_same_in_every_run_are_named():
    spent = {"first": Spending(3, 1000.0, 24.0, 0.5, 900.0)}
    other = {"first": Spending(3, 1000.0, 24.0, 0.75, 900.0)}

    def runs(a, b):
        """Two seeds of two arms, the second with what differs."""
        return [
            replace(run(arm, seed, first_solved(10)), spent=s) for arm, s in (("a", a), ("b", b)) for seed in (0, 1)
        ]

    note = f"a and b: {NO_EFFECT}"
    assert note in tabulate(runs(spent, spent), ["a", "b"], 1000).notes
    assert note not in tabulate(runs(spent, other), ["a", "b"], 1000).notes
    *same, last = runs(spent, spent)
    changed = replace(run("b", 1, first_solved(11)), spent=spent)
    assert last.seed == changed.seed
    assert note not in tabulate([*same, changed], ["a", "b"], 1000).notes
    assert note not in tabulate(same[:2], ["a", "b"], 1000).notes


def test_notes_name_what_is_missing_or_not_at_equal_budget():
    runs = [run("a", seed, first_solved(10), tokens=tokens) for seed, tokens in enumerate((500, 1000, 1015, 1400))]
    assert tabulate(runs, ["a", "b"], 1000).notes == [
        "b: no run finished.",
        "a seed 0 used 50% of the token budget; it ran out of steps: raise optim.steps.",
        "a seed 3 used 140% of the token budget; one group is much of it: raise the budget.",
    ]


@pytest.mark.parametrize("after", [None, make_answers([[1.0]], names=(("made-up", "elsewhere"),))])
def test_runs_without_common_problems(after):
    runs = [RunOutcome("a", 0, "r", 1000, make_answers(first_solved(1)), after)]
    with pytest.raises(RunError, match="no evaluated problem in common"):
        tabulate(runs, ["a"], 1000)


def test_missing_first_arm_leaves_no_difference():
    result = tabulate([run("b", 0, first_solved(10))], ["a", "b"], 1000)
    assert [arm.arm for arm in result.arms] == ["b"]
    assert result.arms[0].difference is None


def test_outcomes_of_attempts():
    one, two = PROBLEMS[:2]
    attempts = [
        attempt("r", "first", 0, one, False, sample=1),
        attempt("r", "first", 0, one, True, sample=0),
        attempt("r", "first", 1, two, False),
        attempt("r", "repair", 0, one, True, parent="r:first:0:1"),
        attempt("r", "repair", 1, two, False, parent="r:first:1:0"),
        attempt("r", "second", 0, one, True, parent="r:first:0:0", kind=AttemptKind.CHECK),
        attempt("r", "second", 1, one, False, parent="r:first:0:1", kind=AttemptKind.CHECK),
        attempt("r", "second", 2, two, True, parent="r:first:1:0", kind=AttemptKind.CHECK),
    ]
    outcomes = Answers.of(attempts).outcomes
    assert outcomes.problems == (("made-up", "p0"), ("made-up", "p1"))
    np.testing.assert_array_equal(outcomes.first_NK, [[1, 0], [0, NAN]])
    np.testing.assert_array_equal(outcomes.repaired_NK, [[NAN, 1], [0, NAN]])
    np.testing.assert_array_equal(outcomes.second_NK, [[1, 0], [1, NAN]])


def test_problems_and_samples_stay_aligned_side_by_side():
    a = make_answers([[1, 0], [0, NAN], [1, 1]], second_NK=[[1, 1], [0, NAN], [0, 1]], names="xyz")
    b = make_answers([[0], [1]], second_NK=[[NAN], [1]], names="zx")
    both = side_by_side([a, b], "zx")
    assert both.problems == ("z", "x")
    np.testing.assert_array_equal(both.first_NK, [[1, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(both.second_NK, [[0, 1, NAN], [1, 1, 1]])
    assert not both.same(side_by_side([b, a], "zx"))
