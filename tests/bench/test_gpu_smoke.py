"""The Python part of the GPU smoke run, on a CPU with a two-layer model: it must find both kinds of step trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import smoke


@pytest.mark.slow
def test_smoke_run_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    few = ["--set", "task.train.limit=4", "--set", "optim.prompts_per_step=4"]
    args = ["smoke.py", "--shape", "two-layers", "--steps", "2", *few, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", args)
    assert smoke.main() == 0
    [path] = tmp_path.glob("gpu-smoke-*.json")
    data = json.loads(path.read_text())
    trial, reflection = data["steps"]
    assert trial["train/tokens"] > 0
    assert reflection["train/tokens"] > 0
    assert 0 < trial["first/reward"] < 1
    assert data["failures"] == []
    assert str(path) in capsys.readouterr().out


def step(kind: str, **values: float) -> dict[str, float]:
    return {"step": 1, f"{kind}/reward": 0.5, "train/tokens": 10.0, **values}


@pytest.mark.parametrize("bad", [{"train/loss": math.nan}, {"train/loss": None}, {"train/tokens": 0.0}])
def test_what_a_smoke_run_calls_a_failure(bad: dict[str, float]) -> None:
    good = [step("first"), step("reflect")]
    assert smoke.failures(good) == []
    assert len(smoke.failures([step("first"), step("reflect", **bad)])) == 1


def test_a_run_without_a_reflection_step_fails() -> None:
    assert smoke.failures([step("first")]) == ["no reflect step trained a token"]
