"""The benches of slot refill and of masked tokens: one small race each, in which both ways compute the same."""

from __future__ import annotations

import masked
import numpy as np
import pytest
import refill
from masked import EveryToken
from training.tiny_policy import random_policy

from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.training.runtime import open_runtime
from scrpo_cli.training.update import Updater


def test_both_ways_sample_the_same() -> None:
    with open_runtime(load_recipe("tiny", ["rollout.engine=transformers", "rollout.max_tokens=12"])) as runtime:
        row = refill.race(runtime, 1.0, 2, 1)
    assert row["tokens"]["n"] == 2 * refill.BATCHES
    assert row["ratio"]["median"] == pytest.approx(row["refilled_s"]["median"] / row["static_s"]["median"])


def test_every_token_means_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked, "LENGTH", 8)
    policy, recipe = random_policy(), load_recipe("tiny-grpo", ["optim.lr=1e-9"])
    counts: dict[type, list[int]] = {Updater: [], EveryToken: []}
    for way in counts:
        plain = way.token_batch
        monkeypatch.setattr(
            way,
            "token_batch",
            lambda self, *args, plain=plain: (
                counts[type(self)].append(len((found := plain(self, *args))[0].logp_N)) or found
            ),
        )
    row = masked.race(policy, recipe, 2, 0.25, 1)
    assert {way: set(seen) for way, seen in counts.items()} == {Updater: {4}, EveryToken: {16}}
    assert np.isfinite(row["ratio"]["median"])
