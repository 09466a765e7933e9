"""The same answers before and after: `train`, `ablate`, `runs compare` and `eval --against` say the same of them."""

import numpy as np
import pytest
from ablation_fakes import attempt
from scipy import stats

from scrpo_cli.ablation.outcomes import read_outcome
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.evaluation.paired import UNDECIDED, compare
from scrpo_cli.jobs.compare import changes_by_training, compare_before_after, compare_runs
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_evaluation, resolve_run, start_run
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.types import Problem

FIELDS = ("a", "b", "difference", "ci95", "p", "test", "n", "verdict")


def doubtful():
    """Two simulated data sets, (N, K) before and after: one that Student's t calls different with a p that the exact
    test puts above 0.05, and one that is different by any test.
    """
    rng = np.random.default_rng(0)
    while True:
        before_NK, after_NK = (rng.binomial(1, 0.5, (8, 2)).astype(float) for _ in range(2))
        differences_N = after_NK.mean(axis=1) - before_NK.mean(axis=1)
        if (
            differences_N.std()
            and stats.ttest_1samp(differences_N, 0).pvalue < 0.05 < compare(before_NK, after_NK)["p"]
        ):
            return before_NK, after_NK


def rows(prefix, outcomes_NK):
    return [
        attempt(prefix, "first", n, Problem(f"p{n}", "made-up", f"{n}", "1"), bool(outcome), k)
        for n, row in enumerate(outcomes_NK)
        for k, outcome in enumerate(row)
    ]


@pytest.mark.parametrize("data", [doubtful(), (np.zeros((12, 1)), np.ones((12, 1)))], ids=["doubtful", "clear"])
def test_four_commands_one_answer(tmp_path, data):
    recipe = load_recipe("tiny")
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        for run, command in (("t", "train"), ("e1", "eval"), ("e2", "eval")):
            start_run(db, command=command, recipe=recipe, directory="d", model="m", run_id=run, arm="a")
        for label, run, outcomes_NK in zip(("before", "after"), ("e1", "e2"), data):
            avg = {"avg": float(outcomes_NK.mean())}
            record_evaluation(db, "t", 0, "test", avg, rows(f"t:{label}", outcomes_NK), label)
            record_evaluation(db, run, 0, "test", avg, rows(run, outcomes_NK))
        told = {
            "train": changes_by_training(db, "t")["test"],
            "ablate": tabulate([read_outcome(db, resolve_run(db, "t"))], ["a"], 1000).arms[0].gain,
            "runs compare": compare_before_after(db, "t")["test"],
            "eval --against": compare_runs(db, "e2", "e1")["test"],
        }
    for found in told.values():
        assert {key: found[key] for key in FIELDS} == compare(*data)
    verdict = compare(*data)["verdict"]
    assert verdict == "higher" if data[0].sum() == 0 else verdict.startswith(f"{UNDECIDED}: the interval alone")
