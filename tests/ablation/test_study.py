"""Studies through the real command line and a real database, with an executor that only pretends."""

import json
import math
import statistics
from pathlib import Path

import pytest
from ablation_fakes import run, runs_in

from scrpo_cli.ablation.study import (
    CANNOT_TELL,
    NO,
    OPEN,
    YES,
    Claim,
    arms_of,
    find_study,
    forecast,
    judged,
    read_study,
)
from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.ablation.table import read_result
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.sequential import half_width
from scrpo_cli.pool.db import Database
from scrpo_cli.recipe.load import shipped_studies
from scrpo_cli.report.tables import findings, sheets_of

STUDY = """
question: Does one learn more than the other?
recipe: tiny
set: {optim.max_generated_tokens: 1000}
arms:
  one: {set: {description: first}}
  other: {recipe: mine.yaml}
claims:
  - {arm: other, over: one, by: 2}
seeds: {first: 4, most: 9}
spread: 4
effect: 10
"""
RECIPE = "extends: tiny\nmethod: {name: grpo}\n"


@pytest.fixture
def study(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)

    def write(*changes):
        text = STUDY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "study.yaml").write_text(text)
        return tmp_path / "study.yaml"

    write()
    return write


def seeds_of(answer):
    return {arm["arm"]: len(arm["seeds"]) for arm in answer["arms"]}


@pytest.mark.parametrize(("after", "verdict"), [(0.7, YES), (0.1, NO), (0.3, NO)])
def test_seeds_are_added_until_the_claim_is_told(scrpo, executor, tmp_path, study, after, verdict):
    executor(after={"one": 0.4, "other": after})
    code, answer, err = scrpo("ablate --study study.yaml")
    assert code == 0, err
    (claim,) = answer["claims"]
    assert claim["verdict"] == verdict
    used = len(claim["seeds"])
    assert 4 <= used < 9, "it stops as soon as it knows"
    assert seeds_of(answer) == {"one": used, "other": used}
    low, high = claim["interval"]
    assert low >= 0.02 if verdict == YES else high < 0.02
    assert "Does one learn more than the other?" in err
    assert "2 arms x 4 to 9 seeds: 8 to 18 runs of 1,000 generated tokens, 18,000 at most" in err
    assert "still open" in err or used == 4


def test_a_study_that_cannot_tell_says_what_it_would_take(scrpo, executor, tmp_path, study):
    study(("by: 2", "by: 30"))
    executor(after={"one": 0.4, "other": 0.7})
    code, answer, err = scrpo("ablate --study study.yaml")
    assert code == 0, err
    (claim,) = answer["claims"]
    assert (claim["verdict"], len(claim["seeds"])) == (CANNOT_TELL, 9)
    assert claim["needed"] is None or claim["needed"] > 9
    saved = json.loads((tmp_path / "sweeps" / answer["sweep"] / "results.json").read_text())
    assert saved["claims"] == answer["claims"]
    executor(after={"one": 0.4, "other": 0.7})
    code, more, err = scrpo(f"ablate --extend {answer['sweep']} --seeds 10")
    assert code == 0, err
    assert len(more["claims"][0]["seeds"]) == 10


def test_a_study_that_was_stopped_goes_on(scrpo, executor, tmp_path, study):
    executor(after={"one": 0.4, "other": 0.75}, stop_after=5)
    code, *_ = scrpo("ablate --study study.yaml")
    assert code == 130
    executor(after={"one": 0.4, "other": 0.75})
    code, answer, err = scrpo("ablate --resume last")
    assert code == 0, err
    assert answer["claims"][0]["verdict"] == YES
    assert len(runs_in(tmp_path)) == 2 * len(answer["claims"][0]["seeds"])


def test_the_arms_have_their_recipes_and_keys(study):
    path = study()
    one, other = arms_of(read_study(path), path.parent, ["seed=7"])
    assert (one.recipe.method.name, other.recipe.method.name) == ("scrpo", "grpo")
    assert (one.recipe.description, one.recipe.seed, other.recipe.seed) == ("first", 7, 7)
    assert one.recipe.optim.max_generated_tokens == other.recipe.optim.max_generated_tokens == 1000


def test_the_result_says_it_in_words_and_a_table(scrpo, executor, tmp_path, study):
    executor(after={"one": 0.4, "other": 0.7})
    _, answer, _ = scrpo("ablate --study study.yaml")
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        result, _ = read_result(db, [find_sweep(db, answer["sweep"])])
    sheet = sheets_of(result)[0]
    assert sheet.columns["claim"] == ["first answers: other - one >= 2"]
    assert sheet.columns["verdict"] == [YES]
    assert "95% confidence sequences" in sheet.title
    assert findings(result)[0].startswith("first answers: other - one >= 2: yes. +")


def test_arms_are_compared_with_what_the_claims_are_over(scrpo, executor, study):
    study(("arm: other, over: one", "arm: one, over: other"))
    executor(after={"one": 0.4, "other": 0.7})
    code, answer, err = scrpo("ablate --study study.yaml")
    assert code == 0, err
    assert answer["reference"] == "other"
    compared = {arm["arm"]: arm["difference"] for arm in answer["arms"]}
    assert compared["other"] is None
    assert compared["one"]["difference"] < 0


def rows(differences):
    """Runs of two arms: 40 problems, of which the second arm solves so many more, by seed."""
    found = []
    for seed, more in enumerate(differences):
        found.append(run("one", seed, [[float(n < 10)] for n in range(40)]))
        found.append(run("other", seed, [[float(n < 10 + more)] for n in range(40)]))
    return found


def test_a_verdict_is_the_interval_beside_what_is_claimed(study):
    asked = read_study(study())
    outcomes = rows([10, 12, 8, 11, 9])
    (claim,) = judged(asked, outcomes, outcomes[0].after.problems)
    shares = [0.25, 0.3, 0.2, 0.275, 0.225]
    assert claim.by_seed == pytest.approx(shares)
    assert claim.spread == pytest.approx(max(0.04, statistics.stdev(shares)))
    reach = half_width(5, claim.spread, 0.05)
    assert claim.interval == pytest.approx([0.25 - reach, 0.25 + reach])
    assert claim.verdict == (YES if 0.25 - reach >= 0.02 else OPEN)


def test_what_few_seeds_seem_to_agree_on_is_not_believed(study):
    outcomes = rows([4, 4, 4, 4])
    (claim,) = judged(read_study(study()), outcomes, outcomes[0].after.problems)
    assert statistics.stdev(claim.by_seed) < 1e-9
    assert claim.spread == 0.04
    assert claim.verdict == OPEN
    assert claim.interval[0] < 0.02


def test_before_the_first_seeds_nothing_is_said(study):
    outcomes = rows([30, 30, 30])
    (claim,) = judged(read_study(study()), outcomes, outcomes[0].after.problems)
    assert claim.verdict == OPEN


def test_several_claims_share_the_error(study):
    asked = read_study(
        study(("  - {arm: other, over: one, by: 2}", "  - {arm: other, over: one}\n  - {arm: one, over: other}"))
    )
    outcomes = rows([20, 22, 18, 19, 21, 20])
    first, second = judged(asked, outcomes, outcomes[0].after.problems)
    assert first.confidence == second.confidence == 0.975
    assert (first.verdict, second.verdict) == (YES, NO)


def test_other_numbers_of_a_run(study):
    right, wrong = [[1.0]] * 4, [[0.0]] * 4
    half = [[1.0], [1.0], [0.0], [0.0]]
    one = [
        run("one", seed, half, second_NK=wrong, repaired_NK=[[math.nan], [math.nan], [0.0], [0.0]]) for seed in range(3)
    ]
    other = [
        run("other", s, half, second_NK=right, repaired_NK=[[math.nan], [math.nan], [1.0], [0.0]]) for s in range(3)
    ]
    expected = {"first answers": 0.0, "second answers": 1.0, "second - first": 1.0, "repairs": 0.5}
    for of, difference in expected.items():
        asked = read_study(study(("over: one", f"over: one, of: {of}")))
        assert asked.claims[0] == Claim(of=of, arm="other", over="one", by=2)
        (claim,) = judged(asked, [*one, *other], one[0].after.problems)
        assert claim.by_seed == pytest.approx([difference] * 3)


def test_a_number_that_no_run_has_is_never_told(study):
    asked = read_study(study(("over: one", "over: one, of: repairs")))
    outcomes = rows([3] * 9)
    (claim,) = judged(asked, outcomes, outcomes[0].after.problems)
    assert (claim.verdict, claim.seeds, claim.difference, claim.needed) == (CANNOT_TELL, [], None, None)


def test_power_that_the_seeds_do_not_have_is_said(study):
    enough = forecast(read_study(study()), 1000)
    assert len(enough) == 2
    short = forecast(read_study(study(("effect: 10", "effect: 3"))), 1000)
    assert "less than the 80% that are wanted" in short[-1]
    assert "`seeds: most`" in short[-1]


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (("arm: other", "arm: othr"), ":", "names no arm 'othr'. Did you mean 'other'?"),
        (("arm: other", "arm: one"), ":", "compares an arm with itself"),
        (("recipe: tiny\n", ""), ":", "arm 'one' has no recipe"),
        (("most: 9", "most: 3"), ":", "at most has to be at least first"),
        (("spread: 4\n", ""), ":", "spread"),
        (("effect: 10", "efect: 10"), ":", "There is no key efect"),
        (("by: 2", "by: true"), ":", "should be a number"),
        (("optim.max_generated_tokens: 1000", "optim.max_tokens: 5"), "arm 'one' of the study", "optim.max_tokens"),
        (
            ("optim.max_generated_tokens: 1000", "optim.max_generated_tokens: null"),
            "optim.max_generated_tokens",
            "no budget",
        ),
        (("over: one", "over: one, of: second answers"), "eval.turns: 1", "No run is asked for second answers"),
        (("over: one", "over: one, of: second - first"), "eval.turns: 1", "No run is asked for second answers"),
        (("mine.yaml", "nothing.yaml"), "nothing.yaml", "No such recipe file"),
    ],
)
def test_a_study_with_a_mistake_is_refused_with_its_place(scrpo, executor, tmp_path, study, change, where, said):
    study(change)
    executor(after={})
    code, _, err = scrpo("ablate --study study.yaml")
    assert code == 2
    assert said in err, err
    assert where in err
    assert not runs_in(tmp_path) if (tmp_path / "scrpo.db").exists() else True


def test_a_claim_about_repairs_that_no_run_is_asked_for_is_refused(scrpo, tmp_path, study):
    study(("tokens: 1000}", "tokens: 1000, eval.repair: false}"), ("over: one", "over: one, of: repairs"))
    code, _, err = scrpo("ablate --study study.yaml")
    assert (code, "No run is asked for repairs" in err, "eval.repair: false" in err) == (2, True, True)
    assert not (tmp_path / "scrpo.db").exists()


@pytest.mark.parametrize("options", ["--seeds 3", "--recipe tiny", "--vary seed=1,2", "--against one"])
def test_what_a_study_says_itself_is_no_option(scrpo, study, options):
    code, _, err = scrpo(f"ablate --study study.yaml {options}")
    assert code == 2
    assert "Write that into its file" in err


def test_an_unknown_study_is_refused_with_the_nearest(scrpo):
    names = [*shipped_studies()]
    assert names
    with pytest.raises(UserError) as error:
        find_study(names[0][:-1])
    assert names[0] in error.value.fix


def test_every_question_is_asked_in_both_worlds():
    names = [*shipped_studies()]
    questions = {name.rpartition("-")[0] for name in names}
    assert sorted(names) == sorted(f"{question}-{world}" for question in questions for world in ("think", "tiny"))


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_whole(name):
    path = find_study(name)
    study = read_study(path)
    arms = arms_of(study, path.parent)
    assert len(arms) == len(study.arms)
    assert study.question.endswith("?")
    assert forecast(study, arms[0].recipe.optim.max_generated_tokens)
    page = Path(__file__).parents[2] / "docs" / "studies.md"
    assert f" `{name}` |" in page.read_text()
