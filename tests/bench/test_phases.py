"""The bench of phases on four very small steps: both kinds of step, every phase, and phases that add up to the step."""

from __future__ import annotations

import pytest
from phases import FIXED, PHASES, grid, measured, summary

from scrpo_cli.recipe.load import load_recipe


@pytest.mark.slow
def test_phases_of_real_steps_add_up() -> None:
    small = ["optim.steps=5", "optim.prompts_per_step=3", "rollout.group_size=4", "rollout.max_tokens=60"]
    small += ["method.filter.mode=none", "method.pool.include_truncated=true"]
    steps = measured(load_recipe("tiny", [*FIXED, *small]))
    assert [s["step"] for s in steps] == [2, 3, 4, 5]
    kinds = {kind: [s for s in steps if f"{kind}/reward" in s] for kind in ("first", "reflect")}
    assert [len(found) for found in kinds.values()] == [2, 2]
    for s in steps:
        assert sum(s[f"seconds/{phase}"] for phase in PHASES) == pytest.approx(s["seconds/step"])
        assert s["seconds/record"] > -0.01
    found = {kind: summary(rows) for kind, rows in kinds.items()}
    assert found["first"]["generated_tokens"]["median"] > 0
    assert len(grid(found).rows) == 2 * (len(PHASES) + 1)
