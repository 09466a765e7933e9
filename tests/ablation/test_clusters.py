"""Whole sweeps through Ray and SLURM, with real trainings; `make test-clusters`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import ENVIRONMENT, UNSET, small
from run_rows import assert_same_rows, execute, rows_of
from slurm_node import slurm_node, why_not

pytestmark = pytest.mark.clusters

SIZES = small(optim__steps=6, optim__max_generated_tokens=100_000, checkpoint__every=1, eval__repair="false")
SWEEP = ("ablate", "--recipe", "tiny-grpo", "--vary", "optim.lr=1e-3,2e-3", "--seeds", "1", "--json", *SIZES)
SECONDS = 240


def begin(directory, *arguments, environment=None):
    directory.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "scrpo_cli", *arguments],
        cwd=directory,
        env=inherited | ENVIRONMENT | paths | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


def trainings(directory):
    """(run, process) of each run of a sweep that is under way after its third step."""
    for file in (directory / ".scrpo/runs").glob("*/metrics.jsonl"):
        owner = file.parent / ".owner.json"
        if owner.exists() and len(file.read_text().splitlines()) > 3:
            yield file.parent.name, psutil.Process(json.loads(owner.read_text())["pid"])


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    """The same sweep by the local executor."""
    directory = tmp_path_factory.mktemp("home")
    return directory, answer(begin(directory, *SWEEP, "--jobs", "2"))


def assert_same_runs(directory, at_home):
    home, expected = at_home
    runs = [dict(execute(place, "SELECT arm, id FROM run WHERE command = 'train'")) for place in (directory, home)]
    assert runs[0].keys() == runs[1].keys()
    for arm, run in runs[0].items():
        assert_same_rows(rows_of(directory, run), rows_of(home, runs[1][arm]))
    assert expected["arms"][0]["seeds"] == [0]


def test_ray_repeats_what_was_lost_and_the_rows_are_the_same(tmp_path, at_home):
    pytest.importorskip("ray")
    sweep = begin(tmp_path, *SWEEP, "--executor", "ray", "--jobs", "2")
    deadline = time.monotonic() + SECONDS
    while not (found := [*trainings(tmp_path)]):
        assert time.monotonic() < deadline, "no run has come to its third step"
        time.sleep(0.1)
    run, process = found[0]
    worker = process.parent()
    assert worker is not None
    worker.kill()
    answer(sweep)
    assert_same_runs(tmp_path, at_home)
    logs = "".join(file.read_text() for file in (tmp_path / ".scrpo/sweeps").glob("*/logs/*.log"))
    assert f"Resumed {run} at step" in logs


def test_slurm_runs_a_sweep_and_the_rows_are_the_same(tmp_path, at_home):
    pytest.importorskip("submitit")
    if reason := why_not():
        pytest.skip(reason)
    with slurm_node(tmp_path / "slurm") as environment:
        place = tmp_path / "place"
        options = ("--executor", "slurm", "--slurm", "partition=main", "--slurm", "timeout_min=30")
        answer(begin(place, *SWEEP, *options, environment=environment))
    assert_same_runs(place, at_home)
    (sweep,) = (place / ".scrpo/sweeps").iterdir()
    assert "1_0" in json.loads((Path(sweep) / "slurm/jobs.json").read_text())["ids"].values()


def test_a_run_with_two_gpus_has_a_process_for_each(tmp_path, at_home):
    seen = {"CUDA_VISIBLE_DEVICES": "0,1"}  # the processes themselves find none, and train on the CPU
    place = tmp_path / "place"
    answer(begin(place, *SWEEP, "--gpus-per-run", "2", environment=seen))
    home, _ = at_home
    tokens = (
        "SELECT run.arm, step, kind, turn, sample, ids FROM attempt JOIN run ON run.id = run_id ORDER BY 1, 2, 3, 6"
    )
    assert execute(place, tokens) == execute(home, tokens)
    logs = "".join(file.read_text() for file in (place / ".scrpo/sweeps").glob("*/logs/*.log"))
    assert "the other 1 of 2 processes" in logs
