"""The race on two small rounds: both sides sample and train the same number of rows, and on the very same rows."""

from __future__ import annotations

import pytest
from rich.console import Console

pytest.importorskip("trl", reason="TRL is not installed: pip install 'scrpo-cli[bench]'")

from world import FIXED, grid, race, results

from scrpo_cli.recipe.load import load_recipe

SMALL = ["optim.prompts_per_step=2", "rollout.group_size=4", "rollout.max_tokens=80"]


@pytest.mark.slow
def test_both_sides_run_the_same_step() -> None:
    interleave = race(load_recipe("tiny-grpo", [*FIXED, *SMALL]), rounds=2, batch=4, console=Console(quiet=True))
    ours, trainer = interleave.ours, interleave.trainer
    assert trainer is not None
    assert len(trainer.batch["completion_ids"]) == 8
    assert interleave.sample.tokens == interleave.train.tokens == ours.same_rows.tokens
    assert len(ours.sample.seconds) == len(ours.train.seconds) == len(interleave.step.seconds) == 2
    found = results(interleave, skip=0)
    assert all(row["ratio"]["n"] == 2 for row in found.values())
    assert len(grid(found).rows) == len(found)
