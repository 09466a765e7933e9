"""A run that was killed anywhere and resumed ends like one that was not: the same weights, the same rows."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest
import torch
from filelock import FileLock
from processes import FailureInStep, Outcome, SignalAt, SignalInStep, run_scrpo, small
from run_rows import Rows, all_rows, assert_same_rows, execute, lines

from scrpo_cli.training import half_step

SIZES = small(optim__steps=8, checkpoint__every=2, eval__every=4, eval__repair="false", rollout__max_tokens=160)
TRAIN = ("train", "--reflect-every", "2", "--json", *SIZES)

# Lines of metrics.jsonl: 1 evaluation before, 2-5 steps 1-4, 6 validation, 7-10 steps 5-8, 11 evaluation after.
KILLS = {
    "sampling-of-step-1": SignalAt("scrpo_cli.training.loop:sample_requests", 1),
    "after-an-optimizer-step": SignalAt("scrpo_cli.training.update:Updater.step", 3, "after"),
    "inside-the-transaction-of-step-5": SignalAt("scrpo_cli.pool.queries:_retire", 5),
    "between-evaluation-row-and-its-line": SignalAt("scrpo_cli.tracking.jsonl:JsonlSink.log", 6),
    "checkpoint-without-manifest": SignalAt("scrpo_cli.training.checkpoint:seal", 3),
    "checkpoint-not-renamed": SignalAt("scrpo_cli.training.checkpoint:seal", 2, "after"),
    "between-last-evaluation-and-its-line": SignalAt("scrpo_cli.tracking.jsonl:JsonlSink.log", 11),
}


@dataclass(frozen=True)
class Remains:
    """Everything of a run that must not depend on whether it was interrupted."""

    weights: bytes
    optimizer: dict[str, Any]
    progress: dict[str, Any]
    rows: Rows
    lines: list[dict[str, Any]]
    checkpoints: list[str]


def remains(directory: Path) -> Remains:
    """Of the one run in `directory`."""
    (run,) = (directory / ".scrpo/runs").iterdir()
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return Remains(
        weights=(last / "adapter_model.safetensors").read_bytes(),
        optimizer=torch.load(last / "optimizer.pt", weights_only=True),
        progress=json.loads((last / "state.json").read_text()),
        rows=all_rows(directory),
        lines=lines(run / "metrics.jsonl"),
        checkpoints=sorted(p.name for p in (run / "checkpoints").iterdir()),
    )


def assert_same(found: Remains, expected: Remains) -> None:
    assert found.lines == expected.lines
    assert_same_rows(found.rows, expected.rows)
    assert found.weights == expected.weights
    torch.testing.assert_close(found.optimizer, expected.optimizer, rtol=0, atol=0)
    assert (found.progress, found.checkpoints) == (expected.progress, expected.checkpoints)


@dataclass(frozen=True)
class Undisturbed:
    directory: Path
    remains: Remains


@pytest.fixture(scope="session")
def undisturbed(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    directory = tmp_path_factory.mktemp("undisturbed")
    outcome = run_scrpo(TRAIN, directory)
    assert outcome.code == 0, outcome.err
    found = remains(directory)
    assert (len(found.lines), found.checkpoints) == (11, ["step-000006", "step-000008"])
    assert [row["phase"] for row in found.rows["step"]].count("reflect") == 2
    return Undisturbed(directory, found)


@pytest.fixture
def finished(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """The directory of a copy of the undisturbed run."""
    shutil.copytree(undisturbed.directory / ".scrpo", tmp_path / ".scrpo")
    (run,) = (tmp_path / ".scrpo/runs").iterdir()
    execute(tmp_path, "UPDATE run SET directory = ?", str(run))
    return run


def status(directory: Path) -> str:
    ((found,),) = execute(directory, "SELECT status FROM run")
    return found


def assert_finishes(resumed: Outcome, steps: int = 8) -> None:
    assert resumed.code == 0, resumed.err
    assert (resumed.json["status"], resumed.json["steps"]) == ("done", steps)


def command_in(err: str) -> list[str]:
    """The arguments of the `scrpo` command that the last line of an error names."""
    words = re.findall(r"`scrpo (train --resume \S+)`", err.splitlines()[-1])
    assert words, err
    return words[0].split()


SLOW = (
    "checkpoint-not-renamed",  # a checkpoint without a manifest and a damaged one cover what is incomplete
    "sampling-of-step-1",  # before anything was written; the transaction of step 5 covers what is half written
    "after-an-optimizer-step",  # as is every kill below in the middle of a step, of other methods
    "between-evaluation-row-and-its-line",
)


@pytest.mark.parametrize(
    "kill", [pytest.param(kill, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, kill in KILLS.items()]
)
def test_a_killed_run_ends_like_an_undisturbed_one(scrpo_process, tmp_path, undisturbed, kill) -> None:
    killed = scrpo_process(*TRAIN, hooks=(kill,))
    assert killed.code == -signal.SIGKILL, killed.err
    assert_finishes(scrpo_process("train", "--resume", "last", "--json"))
    assert_same(remains(tmp_path), undisturbed.remains)


# -- steps and evaluations in parts: a step samples two batches of eight, an evaluation two parts of four problems -----

SAMPLING = "scrpo_cli.evaluation.runner:sample_requests"
PARTS = small(
    optim__steps=3,
    checkpoint__every=2,
    eval__every=1,
    eval__limit=8,
    eval__samples=2,
    eval__repair="false",
    rollout__batch_size=8,
)
TRAIN_IN_PARTS = ("train", "--reflect-every", "2", "--json", *PARTS)
EVALUATED_PARTS = 8  # before, after step 1, after step 2, after


@pytest.fixture(scope="session")
def in_parts(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Remains:
    directory = tmp_path_factory.mktemp("in-parts")
    outcome = run_scrpo(TRAIN_IN_PARTS, directory)
    assert outcome.code == 0, outcome.err
    return remains(directory)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_stop_in_the_middle_of_a_step_keeps_the_answers_that_are_finished(scrpo_process, tmp_path, in_parts, step):
    stopped = scrpo_process(*TRAIN_IN_PARTS, hooks=(SignalInStep(step, 1),))
    assert (stopped.code, status(tmp_path)) == (130, "interrupted"), stopped.err
    assert f"Stopped in step {step}: 8 finished answers of it are kept" in stopped.err
    assert execute(tmp_path, "SELECT max(step) FROM attempt") == [(step - 1,)]
    (kept,) = tmp_path.glob(f".scrpo/runs/*/{half_step.FILE}")
    only_one_left = SignalInStep(step, 2)
    resumed = scrpo_process(*command_in(stopped.err), "--json", hooks=(only_one_left,))
    assert f"Step {step} goes on with the 8 answers" in resumed.err
    assert_finishes(resumed, 3)
    assert not kept.exists()
    assert_same(remains(tmp_path), in_parts)


def test_what_an_engine_had_answered_before_it_failed_is_kept(scrpo_process, tmp_path, in_parts):
    failed = scrpo_process(*TRAIN_IN_PARTS, hooks=(FailureInStep(2, 1),))
    assert (failed.code, status(tmp_path)) == (1, "failed"), failed.err
    assert "The engine is gone." in failed.err
    resumed = scrpo_process("train", "--resume", "last", "--json")
    assert "Step 2 goes on with the 8 answers" in resumed.err
    assert_finishes(resumed, 3)
    assert_same(remains(tmp_path), in_parts)


def test_a_resumed_run_keeps_its_engine(scrpo_process, tmp_path):
    """`auto` takes what is there, and that may have changed."""
    assert scrpo_process(*TRAIN_IN_PARTS, hooks=(SignalInStep(1, 1),)).code == 130
    ((summary,),) = execute(tmp_path, "SELECT summary_json FROM run")
    assert json.loads(summary)["engine"] == "transformers"
    execute(tmp_path, "UPDATE run SET summary_json = ?", json.dumps(json.loads(summary) | {"engine": "vllm"}))
    refused = scrpo_process("train", "--resume", "last", "--json")
    assert refused.code == 2, refused.err
    assert "began with the engine vllm, and now there is transformers" in refused.err


@pytest.mark.parametrize(
    ("signum", "part"),
    [
        pytest.param(signal.SIGKILL, 2, id="kill-before-training"),
        pytest.param(signal.SIGKILL, 4, id="kill-after-a-step-without-a-checkpoint-of-its-own"),
        pytest.param(SIGINT, 8, id="ctrl-c-after-training", marks=pytest.mark.slow),
    ],
)
def test_parts_of_an_evaluation_that_are_stored_are_not_asked_again(scrpo_process, tmp_path, in_parts, signum, part):
    stopped = scrpo_process(*TRAIN_IN_PARTS, hooks=(SignalAt(SAMPLING, part, "before", signum),))
    assert stopped.code == (130 if signum == SIGINT else -signal.SIGKILL), stopped.err
    ((step, phase),) = execute(tmp_path, "SELECT step, phase FROM attempt ORDER BY rowid DESC LIMIT 1")
    assert phase.startswith("eval:")
    assert execute(tmp_path, "SELECT count(*) FROM attempt WHERE phase = ?", phase) == [(8,)]
    assert not execute(tmp_path, "SELECT 1 FROM evaluation WHERE step = ? AND ? LIKE '%' || label", step, phase)
    one_too_many = SignalAt(SAMPLING, EVALUATED_PARTS - (part - 1) + 1)
    assert_finishes(scrpo_process("train", "--resume", "last", "--json", hooks=(one_too_many,)), 3)
    assert_same(remains(tmp_path), in_parts)


METHODS = {
    # stopped between two turns, after the plan has moved on to Stage II; killed in Stage II, whose reference is the
    # policy as Stage I left it
    "score": ({"optim.steps": 4, "method.kl.reference": "stage1"}, SignalInStep(3, 1), 1),
    # stopped in a step; killed in the last one, which the budget of tokens cuts
    "dapo": ({"optim.steps": 50, "optim.max_generated_tokens": 2500}, SignalInStep(2, 1), 2),
    # stopped in the first step; killed between two optimizer steps over the pairs that the run has sampled itself
    "dpo": ({"optim.steps": 50, "optim.max_generated_tokens": 1500, "method.batch": 4}, SignalInStep(1, 1), 2),
    # stopped and killed when the teacher is an average of policies that are gone
    "sdpo": ({"optim.steps": 4, "method.teacher_rate": 0.5}, SignalInStep(3, 1), 1),
}


SLOW_METHODS = (
    "sdpo",  # its reference is restored as that of SCoRe; test_sdpo_oracle.py goes on from a checkpoint
    "dapo",  # it has no state but that of the run; test_token_budget.py cuts steps
)


@pytest.mark.parametrize(
    ("name", "sizes", "stop", "update"),
    [pytest.param(k, *v, id=k, marks=[pytest.mark.slow] * (k in SLOW_METHODS)) for k, v in METHODS.items()],
)
def test_methods_with_a_state_of_their_own_end_the_same_after_a_stop_and_a_kill(
    scrpo_process, tmp_path, name, sizes, stop, update
):
    sizes |= {"eval.every": "null", "method.name": name}
    train = ("train", "--json", *SIZES, *(word for key, value in sizes.items() for word in ("--set", f"{key}={value}")))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        directory.mkdir()
    assert scrpo_process(*train, directory=whole).code == 0
    again = ("train", "--resume", "last")
    assert scrpo_process(*train, directory=broken, hooks=(stop,)).code == 130
    kill = SignalAt("scrpo_cli.training.update:Updater.step", update, "after")
    assert scrpo_process(*again, directory=broken, hooks=(kill,)).code == -signal.SIGKILL
    assert scrpo_process(*again, directory=broken).code == 0
    assert_same(remains(broken), remains(whole))


def test_injected_errors_are_the_same_after_a_kill(scrpo_process, tmp_path) -> None:
    sizes = {
        "optim.steps": 4,
        "eval.every": "null",
        "method.injection.share": 0.5,
        "method.pool.diversity": "error_kind",
    }
    injection = (*TRAIN, *(word for key, value in sizes.items() for word in ("--set", f"{key}={value}")))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        directory.mkdir()
    assert scrpo_process(*injection, directory=whole).code == 0
    kill = SignalAt("scrpo_cli.pool.queries:_retire", 4)
    assert scrpo_process(*injection, directory=broken, hooks=(kill,)).code == -signal.SIGKILL
    assert scrpo_process("train", "--resume", "last", directory=broken).code == 0
    expected = remains(whole)
    assert_same(remains(broken), expected)
    injected = {row["id"] for row in expected.rows["attempt"] if row["model"] == "injected:early"}
    assert {row["phase"] for row in expected.rows["attempt"] if row["id"] in injected} == {"first"}
    assert injected & {row["parent_id"] for row in expected.rows["attempt"]}, "reflection steps work on them"


def test_ctrl_c_finishes_the_update_saves_and_says_how_to_go_on(scrpo_process, tmp_path, undisturbed) -> None:
    stopped = scrpo_process(*TRAIN, hooks=(SignalAt("scrpo_cli.training.update:Updater.step", 3, "after", SIGINT),))
    assert stopped.code == 130, stopped.err
    assert "Stopped after step 3" in stopped.err
    assert status(tmp_path) == "interrupted"
    assert remains(tmp_path).checkpoints == ["step-000002", "step-000003"]
    assert_finishes(scrpo_process(*command_in(stopped.err), "--json"))
    assert_same(remains(tmp_path), undisturbed.remains)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_other_signals_do_the_same_and_a_terminal_may_be_lost_twice(scrpo_process, tmp_path, undisturbed, signum):
    hooks = [SignalAt("scrpo_cli.training.update:Updater.step", 3, "after", signum)]
    if signum == signal.SIGHUP:
        hooks.append(SignalAt("scrpo_cli.pool.queries:_retire", 3, "before", signum))
    stopped = scrpo_process(*TRAIN, hooks=hooks)
    assert (stopped.code, status(tmp_path)) == (130, "interrupted"), stopped.err
    assert "Stopped after step 3" in stopped.err
    assert remains(tmp_path).checkpoints == ["step-000002", "step-000003"]


COMMIT = "scrpo_cli.training.loop:commit"
EVALUATIONS = {
    "in-the-step-before-the-validation": (SignalAt(COMMIT, 4, "before", SIGINT), 4, 5, "Stopped after step 4"),
    "in-the-validation": (SignalAt(SAMPLING, 2, "before", SIGINT), 4, 5, "Stopped in an evaluation after step 4"),
    "in-the-last-step": (SignalAt(COMMIT, 8, "before", SIGINT), 8, 10, "Stopped after step 8"),
    "in-the-evaluation-after": (SignalAt(SAMPLING, 3, "after", SIGINT), 8, 10, "Stopped in an evaluation after step 8"),
}


SLOW_EVALUATIONS = ("in-the-validation", "in-the-last-step")  # the other two cover both places and both ways


@pytest.mark.parametrize(
    ("hook", "steps", "metrics", "said"),
    [pytest.param(*v, id=k, marks=[pytest.mark.slow] * (k in SLOW_EVALUATIONS)) for k, v in EVALUATIONS.items()],
)
def test_ctrl_c_waits_for_no_evaluation(scrpo_process, tmp_path, undisturbed, hook, steps, metrics, said) -> None:
    stopped = scrpo_process(*TRAIN, hooks=(hook,))
    assert (stopped.code, status(tmp_path)) == (130, "interrupted"), stopped.err
    assert said in stopped.err
    left = remains(tmp_path)
    assert (left.checkpoints[-1], len(left.lines)) == (f"step-{steps:06d}", metrics)
    assert not [row for row in left.rows["evaluation"] if row["step"] == steps]
    assert_finishes(scrpo_process(*command_in(stopped.err), "--json"))
    assert_same(remains(tmp_path), undisturbed.remains)


def test_a_second_ctrl_c_stops_at_once(scrpo_process, tmp_path, undisturbed) -> None:
    in_update = SignalAt("scrpo_cli.training.update:Updater.step", 3, "after", SIGINT)
    in_transaction = SignalAt("scrpo_cli.pool.queries:_retire", 3, "before", SIGINT)
    stopped = scrpo_process(*TRAIN, hooks=(in_update, in_transaction))
    assert stopped.code == 130, stopped.err
    assert status(tmp_path) == "interrupted"
    assert execute(tmp_path, "SELECT max(step) FROM attempt") == [(2,)]
    assert_finishes(scrpo_process(*command_in(stopped.err), "--json"))
    assert_same(remains(tmp_path), undisturbed.remains)


def test_ctrl_c_before_the_first_step_says_how_to_go_on(scrpo_process, tmp_path) -> None:
    stopped = scrpo_process(*TRAIN, hooks=(SignalAt("scrpo_cli.training.runtime:load_policy", 1, "after", SIGINT),))
    assert stopped.code == 130, stopped.err
    assert [line.split()[0] for line in stopped.err.splitlines()[-3:]] == ["Error:", "where:", "fix:"]
    assert command_in(stopped.err)[:2] == ["train", "--resume"]
    assert status(tmp_path) == "interrupted"


def test_a_damaged_checkpoint_is_passed_over(scrpo_process, tmp_path, undisturbed, finished) -> None:
    weights = finished / "checkpoints/step-000008/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    resumed = scrpo_process("train", "--resume", "last", "--json")
    assert_finishes(resumed)
    assert "at step 6" in resumed.err
    assert_same(remains(tmp_path), undisturbed.remains)


def test_resuming_a_finished_run_changes_nothing(scrpo_process, tmp_path, undisturbed, finished) -> None:
    resumed = scrpo_process("train", "--resume", finished.name[:-2], "--json")
    assert_finishes(resumed)
    assert_same(remains(tmp_path), undisturbed.remains)


def test_one_process_at_a_time_works_on_a_run(scrpo_process, tmp_path, undisturbed, finished) -> None:
    with FileLock(finished / ".lock"):
        second = scrpo_process("train", "--resume", "last")
    assert second.code == 2, second.err
    assert f"\nError: Another process is working on run {finished.name}.\n" in second.err
    assert_same(remains(tmp_path), undisturbed.remains)
    assert status(tmp_path) == "done"


def test_a_run_whose_directory_is_gone_keeps_its_rows(scrpo_process, tmp_path, undisturbed, finished) -> None:
    finished.rename(tmp_path / "elsewhere")
    resumed = scrpo_process("train", "--resume", "last")
    assert resumed.code == 2, resumed.err
    assert resumed.err.splitlines()[-2].endswith(str(finished))
    assert_same_rows(all_rows(tmp_path), undisturbed.remains.rows)
