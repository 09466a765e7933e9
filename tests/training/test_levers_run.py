"""ScRPO's own levers in whole runs of the tiny model: what they record, and that a killed run ends the same."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import SignalAt, small
from run_rows import execute
from training.test_resume import Remains, assert_same, remains

SIZES = {"checkpoint__every": 2, "eval__repair": "false", "rollout__max_tokens": 160, "eval__limit": 2}
JOINT = {
    "optim__steps": 4,
    "method__reflect_every": 2,
    "method__stage2__step": "joint",
    "method__loss__stage2_weight": "tokens",
    "method__filter__all_wrong": "admit",
}
MEASURED = {
    "optim__steps": 6,
    "method__reflect_every": "null",
    "method__trigger__mode": "signal",
    "method__trigger__size": 2,
    "method__trigger__probe_every": 1,
    "method__loss__stage2_weight": "grad_norm",
    "method__filter__mode": "none",
    "method__replay__batch": 4,
}


def train(sets: dict[str, object]) -> tuple[str, ...]:
    return ("train", "--recipe", "tiny", "--json", *small(**SIZES, **sets))


@pytest.mark.slow
def test_a_run_with_joint_steps_that_admits_errors_of_groups_without_a_right_answer(scrpo_process, tmp_path) -> None:
    outcome = scrpo_process(*train(JOINT))
    assert outcome.code == 0, outcome.err
    assert [row["phase"] for row in steps(tmp_path)] == ["first", "joint"] * 2
    check_metrics(tmp_path)
    groups = "SELECT step, problem_id FROM attempt WHERE kind = 'first' AND phase IN ('first', 'joint') GROUP BY 1, 2"
    hopeless = execute(tmp_path, f"{groups} HAVING max(verdict = 'correct') = 0")
    kept = execute(tmp_path, "SELECT step, problem_id FROM attempt WHERE decision = 'kept'")
    assert hopeless
    assert {*hopeless} <= {*kept}


def test_a_trigger_a_weight_and_a_replay_that_remember_end_the_same_after_a_kill(scrpo_process, tmp_path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        directory.mkdir()
    outcome = scrpo_process(*train(MEASURED), directory=whole)
    assert outcome.code == 0, outcome.err
    assert [row["phase"] for row in steps(whole)] == ["first", "reflect", "replay"] * 2
    check_metrics(whole)
    kill = SignalAt("scrpo_cli.training.update:Updater.step", 4, "after")
    assert scrpo_process(*train(MEASURED), directory=broken, hooks=(kill,)).code == -signal.SIGKILL
    assert scrpo_process("train", "--resume", "last", directory=broken).code == 0
    assert_same(anonymous(broken), anonymous(whole))


def anonymous(directory: Path) -> Remains:
    """What remains of the run, without its id in the ids of the solutions that wait for a replay."""
    (run,) = (directory / ".scrpo/runs").iterdir()
    found = remains(directory)
    return replace(found, progress=json.loads(json.dumps(found.progress).replace(run.name, "RUN")))


def steps(directory: Path) -> list[dict[str, Any]]:
    rows = execute(directory, "SELECT phase, metrics_json FROM step ORDER BY step")
    return [{"phase": phase, **json.loads(metrics)} for phase, metrics in rows]


def check_metrics(directory: Path) -> None:
    for row in steps(directory):
        reflects = row["phase"] in ("reflect", "joint")
        assert ("train/stage2_weight" in row, "reflect/reward" in row) == (reflects, reflects)
        assert ("first/reward" in row) == (row["phase"] in ("first", "joint"))
        if row["phase"] == "replay":
            assert (row["rollout/tokens"], row["train/replayed"] > 0) == (0, True)
            assert row["train/tokens"] > 0
        if row["phase"] == "joint":
            assert row["first/tokens"] + row["reflect/tokens"] == row["rollout/tokens"]
