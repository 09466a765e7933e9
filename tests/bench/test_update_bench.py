"""The bench of the update: floors by hand, and one small race of each kind."""

from __future__ import annotations

import pytest
import update
from update import FIXED, floor, merge_race, update_race

from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.rollout import transformers_engine
from scrpo_cli.training.policy import load_policy
from scrpo_cli.types import Completion, FinishReason


def test_the_floor_counts_a_prompt_once_a_group() -> None:
    rows = [Completion([1] * 16, [2] * 4, [], "", FinishReason.STOP) for _ in range(8)]
    assert floor(rows) == pytest.approx((16 + 32) / (8 * 20))


def test_both_ways_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "RATIOS", ((12, 4),))
    monkeypatch.setattr(update, "ROWS", (2,))
    recipes = {share: load_recipe("tiny-grpo", [*FIXED, f"optim.share_prefixes={share}"]) for share in (True, False)}
    policy, merged = load_policy(recipes[True].model, 0), transformers_engine.merged
    (row,) = update_race(policy, recipes, 1)
    assert row["ratio"]["median"] == pytest.approx(row["shared_s"]["median"] / row["plain_s"]["median"])
    (row,) = merge_race(policy, 1)
    assert row["merged_s"]["n"] == row["unmerged_s"]["n"] == 1
    assert transformers_engine.merged is merged
