"""The GPU bench on a CPU: its counts of operations by hand, and its whole path on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import speed
import torch
from models import SHAPES, build
from sides import SIZE, Cell, our_policy, recipe_of


def test_operations_by_hand(tmp_path: Path) -> None:
    policy = our_policy(recipe_of(build("tiny", tmp_path), 512, True))
    config, cell = SHAPES["tiny"], Cell(10, 3, groups=2, silent=True)
    attention = 4 * config.hidden_size * config.num_attention_heads * config.head_dim
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    body, head = config.num_hidden_layers * layer, config.vocab_size * config.hidden_size
    rows = SIZE  # of the group with signal
    alone = 4 * (body * rows * 13 + head * rows * 3)
    assert speed.flops(policy, cell, shared=False) == pytest.approx(alone, rel=0.1)  # the adapter and the norms, 8%
    saved = speed.flops(policy, cell, shared=False) - speed.flops(policy, cell, shared=True)
    assert saved == pytest.approx(4 * body * 10 * (rows - 1), rel=0.1)


@pytest.mark.slow
def test_its_path_without_trl_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = speed.Scale(("tiny",), torch.float32, ((16, 4),), 2, 256, (16, 4), ((1, 8, 4),), 64, 1, 0)
    monkeypatch.setattr(speed, "CPU", small)
    monkeypatch.setattr(speed, "HAS_TRL", False)
    monkeypatch.setattr(speed, "WAYS", ("shared", "alone"))
    monkeypatch.setattr("sys.argv", ["speed.py", "--out", str(tmp_path)])
    speed.main()
    [path] = tmp_path.glob("gpu-speed-*.json")
    data = json.loads(path.read_text())
    assert [row["alive"] for row in data["updates"]] == [1.0, 0.5]
    assert data["world"]["cpu"]["steps"][0]["rollout/tokens"] == data["world"]["auto"]["steps"][0]["rollout/tokens"]
    assert data["tables"][-1]["title"].startswith("the update")
