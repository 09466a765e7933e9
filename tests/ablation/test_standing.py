"""How a sweep stands while it runs: read from the database, shown above the live line and by `runs show`."""

import io

import pytest
from ablation_fakes import runs_in
from rich.console import Console
from rich.text import Text
from sqlalchemy import text as sql

from scrpo_cli.ablation import standing as module
from scrpo_cli.ablation.standing import Watch, shown_live, standing
from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.tracking.activity import now, show_on

SWEEP = "ablate --recipe tiny --vary optim.lr=1e-4,2e-4 --seeds 2 --set optim.max_generated_tokens=1000"
ARMS = {"optim.lr=1e-4": 0.25, "optim.lr=2e-4": 0.75}


@pytest.fixture
def stopped(scrpo, executor, tmp_path):
    """A database with a sweep of which three of four runs have been run, and one of these failed; a fourth goes on."""
    executor(after=ARMS, stop_after=3, fails=("optim.lr=2e-4 seed=0",))
    code, *_ = scrpo(SWEEP)
    assert code == 130
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        sweep = find_sweep(db, "last")
        arm = sweep.arms[1]
        recipe = load_recipe("tiny", ["seed=1"])
        start_run(
            db, command="train", recipe=recipe, directory="d", model="m", run_id="x", sweep=sweep.id, arm=arm.name
        )
        for step, tokens in ((1, 150.0), (2, 300.0)):
            record_step(db, "x", StepRecord(step, "first", [], metrics={"tokens/total": tokens}))
        yield db, sweep


def test_every_arm_says_what_is_done_and_what_goes_on(stopped):
    one, other = standing(*stopped)
    assert (one.arm, one.done, one.seeds, one.failed, one.under_way) == ("optim.lr=1e-4", 2, 2, 0, {})
    assert (one.accuracy, one.worked) == (0.25, 2)
    assert (other.done, other.failed, other.under_way, other.accuracy) == (0, 1, {1: 0.3}, None)
    assert other.worked == pytest.approx(1.3)


def test_a_terminal_shows_the_arms_while_they_run(stopped):
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    show_on(screen)
    try:
        with shown_live(*stopped):
            now().stage("sweep, runs done")
            now().clear()
        assert now().panel is None
    finally:
        show_on(None)
    said = screen.file.getvalue()
    assert "optim.lr=2e-4" in said
    assert "0/2, 1 failed" in said
    assert "seed 1 30%" in said
    assert "25.0%" in said
    assert max(map(len, Text.from_ansi(said).plain.splitlines())) <= 80


def test_it_is_read_anew_only_when_it_is_old_and_never_fails(stopped, monkeypatch):
    db, sweep = stopped
    watch = Watch(db, sweep)
    first = watch.render()
    assert watch.render() is first
    monkeypatch.setattr(module, "REFRESH_S", -1.0)
    assert watch.render() is not first
    with db.write() as connection:
        connection.execute(sql("ALTER TABLE run RENAME TO gone"))
    last = watch.render()
    assert last is watch.render(), "what was known"


def test_a_sweep_is_shown_with_its_arms(stopped, scrpo, tmp_path):
    _, sweep = stopped
    code, shown, _ = scrpo(f"runs show {sweep.id}")
    assert code == 0
    assert [arm["done"] for arm in shown["arms"]] == [2, 0]
    assert shown["arms"][1]["under_way"] == {"1": 0.3}
    code, run, _ = scrpo(f"runs show {runs_in(tmp_path)[0].id}")
    assert code == 0
    assert "arms" not in run
