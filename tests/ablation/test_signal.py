"""What the tokens of a phase bought, by hand."""

import pytest

from scrpo_cli.ablation.outcomes import Spending, added, spending
from scrpo_cli.pool.queries import StepMetrics


def step(number, phase, tokens, length, skipped, trained):
    metrics = {f"{phase}/tokens": tokens, f"{phase}/length": length, "train/tokens": trained}
    return StepMetrics(number, phase, metrics | {"groups/skipped_share": skipped})


def test_phases_are_summed_apart():
    steps = [
        step(1, "first", 400, 40, 0.25, 300),
        step(2, "first", 600, 60, 0.75, 100),
        step(3, "reflect", 900, 90, 0.5, 0),
    ]
    assert spending(steps) == {
        "first": Spending(2, 1000, 20, 1.0, 400),
        "reflect": Spending(1, 900, 10, 0.5, 0),
    }


def test_a_step_that_samples_nothing_is_left_out():
    assert spending([StepMetrics(1, "fit", {"fit/tokens": 0.0, "train/tokens": 50.0})]) == {}


def test_runs_are_added():
    one = spending([step(1, "first", 400, 40, 0.25, 300)])
    assert added([one, one, {}])["first"] == Spending(2, 800, 20, pytest.approx(1.5), 600)
