"""Corrected verdicts, families of arms and equivalence, against hand-computed numbers and a simulation."""

import numpy as np
import pytest
from ablation_fakes import N, first_solved, make_answers, run

from scrpo_cli.ablation.comparisons import Question, corrected, over_both
from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.paired import HIGHER, UNDECIDED, holm
from scrpo_cli.evaluation.stats import crossed_equivalence_p, crossed_estimate, crossed_p
from scrpo_cli.report.tables import sheets_of

SURE = [0.2, 0.4]
"""An interval over seeds without 0."""


def comparison(p, p_seeds=0.001, interval=SURE, said=HIGHER, **fields):
    return {"p": p, "p_seeds": p_seeds, "ci95_seeds": interval, "verdict": said, "seeds": [0, 1, 2], **fields}


# -- Holm ----------------------------------------------------------------------------------------------------------


def test_the_family_is_all_comparisons_that_there_are():
    found = corrected([comparison(0.01), None, comparison(0.04), comparison(0.03), comparison(0.005)])
    assert found[1] is None
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, made monotone: Holm 1979
    assert [c["p_holm"] for c in found if c] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [c["comparisons"] for c in found if c] == [4] * 4
    but = "higher in these runs taken alone, but not as one of 4 comparisons"
    assert [c["verdict"] for c in found if c] == [HIGHER, but, but, HIGHER]


def test_one_comparison_is_as_it_was():
    (alone,) = corrected([comparison(0.04, 0.04)])
    assert (alone["p_holm"], alone["p_seeds_holm"], alone["verdict"]) == (0.04, 0.04, HIGHER)


def test_the_setting_is_judged_by_the_p_over_seeds():
    found = corrected([comparison(0.001, 0.03), comparison(0.001, 0.2, [-0.1, 0.3]), comparison(0.3, said=UNDECIDED)])
    assert found[0]["p_seeds_holm"] == pytest.approx(0.06)
    assert found[0]["verdict"] == "higher in these runs; of the setting taken alone, but not as one of 3 comparisons"
    assert found[1]["verdict"] == "higher in these runs; 3 seeds cannot say it of the setting"
    assert found[2]["verdict"] == UNDECIDED


def few(p):
    return comparison(p, None, None, seeds=[0])


def test_without_a_p_over_seeds_the_runs_are_corrected_alone():
    first, _ = corrected([few(0.02), few(0.03)])
    assert (first["p_holm"], "p_seeds_holm" in first) == (0.04, False)
    assert first["verdict"] == "higher in these runs; 1 seed cannot say it of the setting"
    _, second = corrected([few(0.03), few(0.04)])
    assert second["verdict"].endswith("not as one of 2 comparisons")


@pytest.mark.slow
def test_arms_that_do_not_differ_are_told_apart_in_at_most_five_sweeps_of_a_hundred():
    """Five arms whose problems and seeds are all drawn from the same: some `higher` or `lower`, in 400 sweeps."""
    false = alone = 0
    for draw in range(400):
        rng = np.random.default_rng(draw)
        arms = np.clip(
            rng.normal(0.5, 0.2, (1, 60, 1)) + rng.normal(0, 0.1, (5, 1, 6)) + rng.normal(0, 0.2, (5, 60, 6)), 0, 1
        )
        ps = [crossed_p(arm_NS - arms[0]) for arm_NS in arms[1:]]
        alone += min(ps) < 0.05
        false += min(holm(ps)) < 0.05
    assert false / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert alone / 400 > 0.08, "what is corrected for is there"


# -- p and interval over problems and seeds ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_p_is_the_level_at_which_the_interval_just_reaches_nothing(seed):
    rng = np.random.default_rng(seed)
    values_NS = np.clip(
        rng.normal(0.05, 0.2, (50, 1)) + rng.normal(0, 0.03, (1, 4)) + rng.normal(0, 0.1, (50, 4)), -1, 1
    )
    assert_touches(values_NS, crossed_p(values_NS))


def test_p_of_problems_that_do_not_differ():
    """The bound on problems that were not drawn, as in the interval."""
    assert_touches(np.full((20, 3), 0.25), crossed_p(np.full((20, 3), 0.25)))
    assert crossed_p(np.zeros((20, 3))) == 1.0


def assert_touches(values_NS, p):
    assert 0 < p < 1
    low, high = crossed_estimate(values_NS, alpha=p).ci95
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("values_NS", [np.tile([0.3, -0.28], 30)[:, None] * [1, 0.9, 1.1], np.full((60, 3), 0.01)])
def test_equivalence_is_the_interval_of_ninety_percent_within_the_margin(values_NS, margin):
    low, high = crossed_estimate(values_NS, alpha=0.1).ci95
    assert (crossed_equivalence_p(values_NS, margin) < 0.05) == (-margin < low and high < margin)
    assert crossed_equivalence_p(values_NS, 0.001) == 1.0, "the mean itself is outside"


def test_equivalence_takes_seeds_and_a_margin():
    same_NS = np.zeros((400, 3))
    assert over_both(same_NS, 1.0, None).keys() == {"ci95_seeds", "p_seeds"}
    assert over_both(same_NS, 1.0, 0.02)["p_equivalent"] < 0.05
    assert over_both(same_NS[:, :2], 1.0, 0.02)["p_equivalent"] is None
    (equal,) = corrected([comparison(1.0, 1.0, [-0.01, 0.01], UNDECIDED, margin=0.02, p_equivalent=0.01)])
    assert (equal["equivalent"], equal["verdict"]) == (True, f"{UNDECIDED}; equal within 2 points")
    (open_,) = corrected([comparison(1.0, 1.0, [-0.1, 0.1], UNDECIDED, margin=0.02, p_equivalent=0.4)])
    assert (open_["equivalent"], open_["verdict"]) == (False, UNDECIDED)
    (few_,) = corrected([comparison(1.0, None, None, UNDECIDED, margin=0.02, p_equivalent=None)])
    assert (few_["equivalent"], few_["verdict"]) == (False, UNDECIDED)


# -- who is compared with whom -------------------------------------------------------------------------------------


def arms(*solved):
    names = ("base", "score", "score-a", "score-b")
    return [run(name, seed, first_solved(k)) for name, k in zip(names, solved, strict=True) for seed in range(3)]


def test_pairs_of_a_family_and_another_reference():
    names, question = ["base", "score", "score-a", "score-b"], Question("score", ("score*",), 0.5)
    result = tabulate(arms(10, 20, 20, 30), names, 1000, question)
    assert [arm.difference and arm.difference["difference"] for arm in result.arms] == pytest.approx(
        [-10 / N, None, 0, 10 / N]
    )
    assert [(pair.against, pair.arm) for pair in result.pairs] == [("score-a", "score-b")]  # the others are there
    assert {arm.difference["comparisons"] for arm in result.arms if arm.difference} == {4}
    assert result.arms[2].difference["equivalent"]
    assert result.pairs[0].difference["difference"] == pytest.approx(10 / N)
    sheet = next(sheet for sheet in sheets_of(result) if sheet.name == "pairs")
    assert (sheet.columns["arm"], sheet.columns["against"]) == (["score-b"], ["score-a"])


@pytest.mark.parametrize(
    ("question", "what"),
    [(Question("nobody"), "no arm 'nobody'"), (Question(pairs=("bas*",)), "has to match two arms")],
)
def test_questions_about_other_arms(question, what):
    with pytest.raises(UserError, match=what):
        tabulate(arms(1, 2, 3, 4), ["base", "score", "score-a", "score-b"], 1000, question)


def test_questions_on_the_command_line(scrpo, executor):
    executor(after={"reflect_every=5": 0.3, "reflect_every=10": 0.3, "reflect_every=never": 0.8})
    line = "ablate --reflect-every 5,10,never --seeds 3 --set optim.max_generated_tokens=1000"
    code, answer, _ = scrpo(f"{line} --against nobody")
    assert (code, answer["error"]["where"]) == (2, "--against")
    code, answer, err = scrpo(f"{line} --against reflect_every=10 --pairs 'reflect*' --margin 30")
    assert code == 0, err
    assert answer["reference"] == "reflect_every=10"
    assert [(pair["against"], pair["arm"]) for pair in answer["pairs"]] == [("reflect_every=5", "reflect_every=never")]
    assert answer["arms"][0]["difference"]["margin"] == 0.3
    _, again, _ = scrpo("ablate --resume last --margin 2")
    assert (again["reference"], again["pairs"]) == ("reflect_every=5", [])
    assert not any(arm["difference"]["equivalent"] for arm in again["arms"][1:])


def test_runs_that_share_no_seed_are_no_comparison():
    other = RunOutcome("b", 7, "r", 1000, make_answers(first_solved(8)), make_answers(first_solved(9)))
    result = tabulate([run("a", 0, first_solved(9)), other], ["a", "b"], 1000)
    assert result.arms[1].difference is None
