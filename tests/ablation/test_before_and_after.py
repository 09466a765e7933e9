"""A training run's own evaluations, before and after it, and those of two training runs."""

import pytest
from ablation_fakes import runs_in

from scrpo_cli.errors import UserError
from scrpo_cli.jobs.compare import compare_before_after, compare_runs
from scrpo_cli.pool.db import Database

AFTER = {"tiny": 0.4, "tiny-grpo": 0.9}


@pytest.fixture
def arms(scrpo, executor, tmp_path):
    executor(after=AFTER)
    scrpo("ablate --recipe tiny,tiny-grpo --set optim.max_generated_tokens=1000 --set eval.turns=2")
    return {row.arm: row.id for row in runs_in(tmp_path) if row.command == "train"}


def test_before_and_after(arms):
    with Database.open("scrpo.db") as db:
        (change,) = compare_before_after(db, arms["tiny-grpo"]).values()
    assert change["verdict"] == "higher"
    assert change["b"] == pytest.approx(0.9, abs=0.06)
    assert change["n"] == 40
    assert change["p_holm"] == change["p"]  # one comparison


def test_two_training_runs_are_compared_after_training(arms):
    with Database.open("scrpo.db") as db:
        found = compare_runs(db, arms["tiny-grpo"], arms["tiny"])
    assert [name.rpartition(":")[2] for name in found] == ["after"]
    assert all(change["verdict"] == "higher" for change in found.values())


def test_a_run_without_evaluations_is_refused(arms):
    with Database.open("scrpo.db") as db, pytest.raises(UserError, match="before and after"):
        compare_before_after(db, "nothing")
