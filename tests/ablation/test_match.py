"""What all arms of a sweep spend alike: tokens, steps or seconds of training."""

import pytest
from ablation_fakes import runs_in
from processes import run_scrpo, small

from scrpo_cli.ablation.grid import MATCHES, check_arms, make_arms
from scrpo_cli.ablation.standing import share_spent
from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_step, resolve_run, start_run, steps_of
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe, stored_recipe

SWEEP = "ablate --recipe tiny --vary optim.lr=1e-4,2e-4 --seeds 2"
AFTER = {"optim.lr=1e-4": 0.3, "optim.lr=2e-4": 0.4}


def limits(row):
    optim = stored_recipe(row.recipe_json, "here").optim
    return optim.steps, optim.max_generated_tokens, optim.max_seconds


def test_equal_steps_take_the_token_budget_away(scrpo, executor, tmp_path):
    executor(after=AFTER)
    code, answer, err = scrpo(f"{SWEEP} --match steps --set optim.steps=40")
    assert code == 0, err
    assert {limits(row) for row in runs_in(tmp_path)} == {(40, None, None)}
    assert (answer["budget"], answer["unit"]) == (40, "steps")
    assert not any("token budget" in note for note in answer["notes"])
    executor(after=AFTER)
    code, more, err = scrpo("ablate --extend last --seeds 3")
    assert code == 0, err
    assert (more["budget"], more["unit"]) == (40, "steps")


def test_equal_seconds(scrpo, executor, tmp_path):
    executor(after=AFTER)
    code, answer, err = scrpo(f"{SWEEP} --match seconds --set optim.max_seconds=30")
    assert code == 0, err
    assert {limits(row)[1:] for row in runs_in(tmp_path)} == {(None, 30)}
    assert (answer["budget"], answer["unit"]) == (30, "seconds of training")


def test_how_much_of_it_is_spent(scrpo, executor, tmp_path):
    shares = {}
    for match, sets in (
        ("tokens", "optim.max_generated_tokens=1000"),
        ("steps", "optim.steps=8"),
        ("seconds", "optim.max_seconds=40"),
    ):
        executor(after=AFTER)
        scrpo(f"{SWEEP} --match {match} --set {sets}")
        with Database.open(str(tmp_path / "scrpo.db")) as db:
            sweep = find_sweep(db, "last")
            run_id = start_run(db, command="train", recipe=load_recipe("tiny"), directory="d", model="m", run_id=match)
            for step, tokens in ((1, 100.0), (2, 300.0)):
                metrics = {"tokens/total": tokens, "seconds/step": 5.0}
                record_step(db, match, StepRecord(step, "first", [], metrics=metrics))
            shares[match] = share_spent(db, resolve_run(db, run_id), sweep)
    assert shares == {"tokens": 0.3, "steps": 0.25, "seconds": 0.25}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{SWEEP} --match step", "Did you mean 'steps'?"),
        (f"{SWEEP} --match seconds", "has no budget of them"),
        (f"{SWEEP} --match steps --set optim.max_generated_tokens=500", "no effect: arms are matched by steps"),
        ("ablate --recipe tiny --vary optim.steps=10,20 --match steps", "differ in optim.steps"),
        ("ablate --study studies/failed-tiny --match steps", "Write that into its file"),
        ("ablate --resume last --match steps", "keeps the recipes and options of its start"),
    ],
)
def test_what_cannot_be_matched_is_refused(scrpo, line, said):
    code, _, err = scrpo(line)
    assert code == 2
    assert said in err, err


@pytest.mark.parametrize("name", ["steps", "seconds"])
def test_arms_that_may_end_before_are_refused(name):
    match = MATCHES[name]
    arms = make_arms(["tiny"], None, ["optim.lr=1e-4,2e-4"], ["optim.max_seconds=5"], named=False)
    with pytest.raises(UserError, match="may end before that"):
        check_arms(arms, match)


def test_a_run_ends_after_its_seconds_and_goes_on_within_them(tmp_path):
    sets = small(optim__steps=50, checkpoint__every=1, method__reflect_every="never")
    done = run_scrpo(["train", "--recipe", "tiny", *sets, "--set", "optim.max_seconds=1", "--json"], tmp_path)
    assert done.code == 0, done.err
    with Database.open(str(tmp_path / ".scrpo" / "scrpo.db")) as db:
        seconds = [step.metrics["seconds/step"] for step in steps_of(db, done.json["run"])]
    assert 1 <= sum(seconds) < 1 + seconds[-1] + 1e-6, "it stops after the step in which they are over"
    assert len(seconds) < 50
    again = run_scrpo(["train", "--resume", done.json["run"], "--json"], tmp_path)
    assert again.code in (0, 2), again.err
    forked = run_scrpo(["fork", "last", "--at", str(len(seconds)), "--json"], tmp_path)
    assert forked.code == 2
    assert "optim.max_seconds is 1" in forked.err
