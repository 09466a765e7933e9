"""Short runs of three methods, pinned: moving and renaming code changes no sampled token and no weight.

A change that is meant to change them writes the file anew (`PIN=write pytest tests/training/test_pinned_runs.py`) and
says so in its commit. Another kind of processor rounds differently: there only what was sampled is compared exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Outcome, small
from run_rows import DATABASE, execute
from safetensors.torch import load_file

from scrpo_cli.pool.records import unpack

PINS = Path(__file__).parent / "pinned_runs.json"
SIZES = {"optim__steps": 5, "optim__warmup_steps": 2, "eval__repair": "false", "rollout__max_tokens": 128}
METHODS = {
    "grpo": ("tiny-grpo", {"method__kl__beta": 0.01, "optim__minibatches": 2}),
    "scrpo": ("tiny", {"method__reflect_every": 2, "method__loss__failed": "negative"}),
    "score": ("compare/score", {"eval__turns": 1}),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_short_run_ends_as_pinned(method: str, scrpo_process: Callable[..., Outcome], tmp_path: Path) -> None:
    recipe, sets = METHODS[method]
    outcome = scrpo_process("train", "--recipe", recipe, "--json", *small(**SIZES, **sets))
    assert outcome.code == 0, outcome.err
    found = pinned(tmp_path)
    pins = json.loads(PINS.read_text()) if PINS.exists() else {}
    if os.environ.get("PIN") == "write":
        PINS.write_text(json.dumps(pins | {method: found}, indent=2, sort_keys=True) + "\n")
        return
    expected = pins[method]
    assert found["sampled_sha256"] == expected["sampled_sha256"]
    assert found["pool"] == expected["pool"]
    assert found["weights_norm"] == pytest.approx(expected["weights_norm"], rel=1e-4)
    if found["processor"] == expected["processor"]:
        assert found["weights_sha256"] == expected["weights_sha256"]


def pinned(directory: Path) -> dict[str, Any]:
    """What must not change of the one run in `directory`: sampled tokens with their verdicts, the pool, the weights."""
    columns = "step, sample, turn, kind, problem_id, extracted, verdict = 'correct', coalesce(decision, '')"
    found = execute(directory, f"SELECT {columns}, ids, packed FROM attempt")
    plain = [unpack({"ids": ids, "packed": packed}, "ids").tobytes().hex().upper() for *_, ids, packed in found]
    rows = sorted(((*row[:5], ids, *row[5:8]) for row, ids in zip(found, plain, strict=True)), key=repr)
    pool = execute(directory, "SELECT added_step, retired_step, retired_reason FROM pool_entry ORDER BY 1, 2, 3")
    (run,) = (directory / DATABASE.parent / "runs").iterdir()
    weights = load_file(sorted(run.glob("checkpoints/step-*"))[-1] / "adapter_model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return {
        "attempts": len(rows),
        "sampled_sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "pool": [list(row) for row in pool],
        "weights_norm": float(torch.stack([w.double().square().sum() for w in weights.values()]).sum().sqrt()),
        "weights_sha256": digest.hexdigest(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}",
    }
