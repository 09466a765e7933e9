"""Tuning sweeps and races through the real command line and a real database, with an executor that only pretends."""

import json

import pytest
from ablation_fakes import option, runs_in

from scrpo_cli.ablation.plan import read_settings
from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.ablation.table import read_result
from scrpo_cli.pool.db import Database
from scrpo_cli.report.tables import sheets_of

PLAN = """
common:
  optim.lr: [1.0e-3, 4.0e-3]
own:
  mine.yaml: {method.reflect_every: [2, 3]}
  other.yaml: {}
runs: 3
seeds: 2
max_generated_tokens: 500
"""
RECIPE = "extends: tiny\noptim: {max_generated_tokens: 1000}\n"


class Reached(dict):
    """Accuracies by arm; 0.3 for every other one."""

    def __missing__(self, arm):
        return 0.3


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "other.yaml").write_text(RECIPE + "method: {name: grpo}\n")

    def write(text=PLAN):
        (tmp_path / "plan.yaml").write_text(text)

    write()
    return write


def chosen(answer):
    return {trial["recipe"]: trial["setting"] for trial in answer["tuning"] if trial["chosen"]}


def recipes_of(tmp_path, sweep):
    return {row.arm: json.loads(row.recipe_json) for row in runs_in(tmp_path, sweep=sweep)}


def test_the_best_setting_of_each_recipe_races_on_fresh_seeds(scrpo, executor, tmp_path, plan):
    reached = Reached({"other optim.lr=0.004": 0.6})
    executor(after=reached)
    code, tuned, err = scrpo("ablate --tune plan.yaml --set seed=5")
    assert code == 0, err
    assert [trial["recipe"] for trial in tuned["tuning"]] == ["mine"] * 3 + ["other"] * 3
    assert [trial["seeds"] for trial in tuned["tuning"]] == [[5, 6]] * 6
    assert chosen(tuned) == {"mine": [], "other": ["optim.lr=0.004"]}  # of equals the first: the recipe's own
    best = next(t for t in tuned["tuning"] if t["arm"] == "other optim.lr=0.004")
    assert best["accuracy"] == pytest.approx(0.6)
    assert (len(best["by_seed"]), best["budget"]) == (2, 500)

    fake = executor(after=Reached(mine=0.4, other=0.7))
    code, race, err = scrpo(f"ablate --race {tuned['sweep']} --seeds 3")
    assert code == 0, err
    assert [(arm["arm"], arm["seeds"]) for arm in race["arms"]] == [("mine", [7, 8, 9]), ("other", [7, 8, 9])]
    assert race["tuning"] == tuned["tuning"]
    assert len(fake.seen) == 6
    raced = recipes_of(tmp_path, race["sweep"])
    assert (raced["other"]["optim"]["lr"], raced["mine"]["optim"]["lr"]) == (0.004, 0.002)
    assert {r["optim"]["max_generated_tokens"] for r in raced.values()} == {1000}
    assert all(recipe["task"]["test"]["split"] == "test" for recipe in raced.values())


def test_a_tuning_run_never_sees_test_problems(scrpo, executor, tmp_path, plan):
    executor(after=Reached())
    _, tuned, _ = scrpo("ablate --tune plan.yaml")
    for recipe in recipes_of(tmp_path, tuned["sweep"]).values():
        assert (recipe["task"]["test"], recipe["task"]["validation"]["split"]) == (None, "validation")
        assert recipe["optim"]["max_generated_tokens"] == 500


def test_every_recipe_has_as_many_different_settings_its_own_one_first(scrpo, executor, tmp_path, plan):
    plan(PLAN.replace("4.0e-3", "2.0e-3"))  # 2e-3 is the recipes' own: a setting that says so is none of its own
    plan_of_two = PLAN.replace("4.0e-3", "2.0e-3").replace("runs: 3", "runs: 2")
    executor(after=Reached())
    code, answer, _ = scrpo("ablate --tune plan.yaml")
    assert (code, answer["error"]["what"]) == (2, "other.yaml has 2 different settings, and 3 are asked for")
    assert not (tmp_path / "scrpo.db").exists(), "mistakes show before anything is written"
    plan(plan_of_two)
    _, tuned, _ = scrpo("ablate --tune plan.yaml")
    assert [t["setting"] for t in tuned["tuning"] if t["recipe"] == "other"] == [[], ["optim.lr=0.001"]]


def test_another_draw_takes_other_settings(plan, tmp_path):
    def overrides(draw):
        plan(PLAN.replace("[1.0e-3, 4.0e-3]", "[1, 2, 3, 4, 5, 6, 7, 8]") + f"draw: {draw}\n")
        return [trial.overrides for trial in read_settings(tmp_path / "plan.yaml").trials]

    assert overrides(0) == overrides(0) != overrides(1)


def test_tuning_and_race_go_on_where_they_were_stopped(scrpo, executor, plan, tmp_path):
    executor(after=Reached(), stop_after=5)
    code, answer, _ = scrpo("ablate --tune plan.yaml")
    assert code == 130
    code, refused, _ = scrpo("ablate --race last")
    assert code == 2
    assert "No setting is chosen of mine, other" in refused["error"]["what"]
    fake = executor(after=Reached())
    code, tuned, err = scrpo(answer["error"]["fix"].removeprefix("scrpo "))
    assert code == 0, err
    assert len(fake.seen) == 12 - 5
    executor(after=Reached(), stop_after=1)
    code, answer, _ = scrpo("ablate --race last --seeds 2")
    assert code == 130
    fake = executor(after=Reached())
    code, race, _ = scrpo("ablate --resume last")
    assert (code, len(fake.seen)) == (0, 3)
    assert race["tuning"] == tuned["tuning"]
    assert [arm["seeds"] for arm in race["arms"]] == [[2, 3]] * 2


def test_a_setting_that_fails_is_not_chosen_and_holds_up_nothing(scrpo, executor, plan):
    executor(after=Reached({"other optim.lr=0.004": 0.9}), fails=("other optim.lr=0.004 seed=1",))
    code, answer, err = scrpo("ablate --tune plan.yaml")
    assert (code, "failed (seed 1)" in err) == (1, True)
    assert "other optim.lr=0.004 seed=1: out of memory" in answer["error"]["what"]
    executor(after=Reached())
    code, race, err = scrpo("ablate --race last")
    assert code == 0, err
    assert chosen(race) == {"mine": [], "other": []}
    failed = next(t for t in race["tuning"] if t["arm"] == "other optim.lr=0.004")
    assert (failed["accuracy"], failed["failed"]) == (None, [1])


def test_several_runs_at_a_time(scrpo, plan, monkeypatch):
    given = []
    monkeypatch.setattr(
        "scrpo_cli.cli.sweep.run_jobs", lambda executor, jobs, ended, output: given.append((executor, jobs)) or []
    )
    assert scrpo("ablate --tune plan.yaml --jobs 2")[0] == 0
    ((executor, jobs),) = given
    assert (executor.jobs, len(jobs)) == (2, 12)
    assert {option(job.arguments, "--seed") for job in jobs} == {"0", "1"}


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        (PLAN.replace("runs: 3", "runs: 1"), "runs: Input should be greater than or equal to 2", "plan.yaml:7"),
        (PLAN.replace("runs: 3", ""), "runs: Field required", "plan.yaml"),
        (PLAN + "budget: 3", "There is no key budget", "plan.yaml:10"),
        (PLAN.replace("[1.0e-3, 4.0e-3]", "[]"), "common.optim.lr: List should have at least 1 item", "plan.yaml:3"),
        (PLAN.replace("[1.0e-3, 4.0e-3]", "1"), "common.optim.lr: Input should be a valid list", "plan.yaml:3"),
        (
            PLAN.replace("other.yaml: {}", "other.yaml: {optim.lr: [1]}"),
            "optim.lr is in `common` and under",
            "plan.yaml",
        ),
        (PLAN.replace("other.yaml", "none.yaml"), "No such recipe file", "none.yaml"),
        (PLAN.replace("optim.lr:", "optim.rl:"), "Unknown key 'optim.rl'", "mine.yaml in the plan: --set optim.rl"),
    ],
)
def test_mistakes_in_a_plan(scrpo, plan, text, what, where):
    plan(text)
    code, answer, _ = scrpo("ablate --tune plan.yaml")
    assert code == 2
    assert what in answer["error"]["what"]
    assert where in answer["error"]["where"]


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ("task: {validation: null}", "has no task.validation"),
        ("task: {test: null}", "has no task.test"),
        ("task: {validation: {source: tiny, split: test, limit: 7}}", "tuned on the problems that it races on"),
    ],
)
def test_a_recipe_needs_validation_problems_of_its_own(scrpo, plan, tmp_path, section, what):
    for name in ("mine", "other"):
        (tmp_path / f"{name}.yaml").write_text(f"{RECIPE}{section}\n")
    code, answer, _ = scrpo("ablate --tune plan.yaml")
    assert (code, what in answer["error"]["what"]) == (2, True), answer


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--tune none.yaml", "no such plan"),
        ("--tune plan.yaml --seeds 2", "The plan says which"),
        ("--tune plan.yaml --set optim.lr=1", "--set optim.lr has no effect"),
        ("--tune plan.yaml --resume last", "exclude each other"),
        ("--race last --set optim.lr=1", "from its tuning sweep"),
        ("--race last --vary optim.lr=1,2", "from its tuning sweep"),
        ("--race last", "has tuned nothing"),
    ],
)
def test_options_that_do_not_go_together(scrpo, executor, plan, line, what):
    executor(after=Reached())
    scrpo("ablate --reflect-every 5,10 --set optim.max_generated_tokens=1000")
    code, answer, _ = scrpo(f"ablate {line}")
    assert (code, what in answer["error"]["what"]) == (2, True), answer


def test_a_tuning_sweep_is_not_extended(scrpo, executor, plan):
    executor(after=Reached())
    scrpo("ablate --tune plan.yaml")
    code, answer, _ = scrpo("ablate --extend last --seeds 3")
    assert (code, "is not extended" in answer["error"]["what"]) == (2, True)


def test_the_table_of_a_race_holds_all_that_was_tried(scrpo, executor, plan):
    executor(after=Reached({"other optim.lr=0.004": 0.6}))
    scrpo("ablate --tune plan.yaml")
    executor(after=Reached())
    scrpo("ablate --race last --seeds 1")
    with Database.open("scrpo.db") as db:
        result, _ = read_result(db, [find_sweep(db, "last")])
    sheet = next(sheet for sheet in sheets_of(result) if sheet.name == "tuning")
    assert sheet.columns["recipe"] == ["mine"] * 3 + ["other"] * 3
    assert sheet.columns["setting"][3] == "optim.lr=0.004", "the best comes first"
    assert sheet.columns["chosen"] == ["yes", "", "", "yes", "", ""]
    assert "after 500 generated tokens" in sheet.title
    assert len({*sheet.columns["validation"]}) > 1
