import io
import json

import numpy as np
import pytest
from ablation_fakes import PROBLEMS, N, attempt, first_solved, make_answers, run
from rich.console import Console

from scrpo_cli.ablation.outcomes import RunOutcome, answers_of
from scrpo_cli.ablation.table import render, tabulate
from scrpo_cli.errors import RunError
from scrpo_cli.evaluation.metrics import UNDECIDED

NAN = np.nan


def text_of(result):
    recorder = Console(width=80, record=True, file=io.StringIO())
    recorder.print(render(result))
    return recorder.export_text().replace("\n", " ")


def test_paired_by_seed_and_problem():
    # seed 0: 10 -> 20 problems, seed 1: 12 -> 22: +10/40 in both
    runs = [run("a", 0, first_solved(10)), run("a", 1, first_solved(12))]
    runs += [run("b", 1, first_solved(22)), run("b", 0, first_solved(20))]
    result = tabulate(runs, ["a", "b"], budget=1000)
    a, b = result.arms
    assert a.difference is None
    assert a.after["value"] == pytest.approx(11 / 40)
    assert (b.seeds, b.runs) == ([0, 1], ["b-0", "b-1"])
    assert b.difference["difference"] == pytest.approx(0.25)
    assert b.difference["by_seed"] == pytest.approx([0.25, 0.25])
    assert b.difference["n"] == N  # problems, not problems x seeds
    assert b.difference["p"] < 0.01
    assert b.gain["difference"] == pytest.approx(21 / 40)
    assert result.notes == []


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


def test_repair_rates_and_samples_of_different_number():
    wide = make_answers(np.tile([1, 0], (N, 1)), np.tile([NAN, 1], (N, 1)))
    narrow = make_answers(np.zeros((N, 1)), np.zeros((N, 1)))
    runs = [RunOutcome("a", 0, "r0", 1000, narrow, wide), RunOutcome("a", 1, "r1", 1000, narrow, narrow)]
    arm = tabulate(runs, ["a"], 1000).arms[0]
    assert arm.after["value"] == pytest.approx(1 / 3)  # 1 right of 3 answers a problem
    assert (arm.repair_before["value"], arm.repair_after["value"]) == (0.0, 0.5)


def test_problems_are_matched_by_name():
    straight = run("a", 0, first_solved(10))
    turned = make_answers(first_solved(10)[::-1], names=reversed(straight.after.problems))
    result = tabulate([straight, RunOutcome("b", 0, "r", 1000, straight.before, turned)], ["a", "b"], 1000)
    assert result.arms[1].difference["difference"] == 0


def test_notes_name_what_is_missing_or_not_at_equal_budget():
    runs = [run("a", seed, first_solved(10), tokens=tokens) for seed, tokens in enumerate((500, 1000, 1040, 1400))]
    assert tabulate(runs, ["a", "b"], 1000).notes == [
        "b: no run finished.",
        "a seed 0 used 50% of the token budget; it ran out of steps: raise optim.steps.",
        "a seed 3 used 140% of the token budget; one step is much of it: raise the budget.",
    ]


@pytest.mark.parametrize("after", [None, make_answers([[1.0]], names=("elsewhere",))])
def test_runs_without_common_problems(after):
    runs = [RunOutcome("a", 0, "r", 1000, make_answers(first_solved(1)), after)]
    with pytest.raises(RunError, match="no evaluated problem in common"):
        tabulate(runs, ["a"], 1000)


def test_missing_first_arm_leaves_no_difference():
    result = tabulate([run("b", 0, first_solved(10))], ["a", "b"], 1000)
    assert [arm.arm for arm in result.arms] == ["b"]
    assert result.arms[0].difference is None


def test_result_is_json_and_a_table():
    runs = [run("a", 0, first_solved(10)), run("b", 0, first_solved(25))]
    result = tabulate(runs, ["a", "b"], 1000)
    json.dumps(result.as_dict(), allow_nan=False)
    text = text_of(result)
    for part in ("25.0% [", "62.5% [", "b against a: +37.5 points [", "1,000", "higher in these runs", "40 problems"):
        assert part in text


def test_brackets_in_an_arm_are_not_markup():
    runs = [run("lora.targets=[q_proj]", 0, first_solved(10)), run("b", 0, first_solved(25))]
    assert text_of(tabulate(runs, ["lora.targets=[q_proj]", "b"], 1000)).count("[q_proj]") == 2


def test_answers_of_attempts():
    one, two = PROBLEMS[:2]
    attempts = [
        attempt("2", one, False, sample=1),
        attempt("1", one, True, sample=0),
        attempt("3", two, False),
        attempt("c", one, True, parent="2"),
        attempt("d", two, False, parent="3"),
    ]
    answers = answers_of(attempts)
    assert answers.problems == ("made-up/p0", "made-up/p1")
    np.testing.assert_array_equal(answers.first_NK, [[1, 0], [0, NAN]])
    np.testing.assert_array_equal(answers.repaired_NK, [[NAN, 1], [0, NAN]])
