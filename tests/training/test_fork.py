"""A fork goes on exactly as its run did, until a changed key makes a difference."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import SignalAt, run_scrpo, small
from run_rows import assert_same_rows, execute, lines, rows_of

AT = 4
SIZES = small(optim__steps=8, checkpoint__every=2, checkpoint__keep=9, eval__every=4, eval__repair="false")
STATEFUL = ("--set", "method.injection.share=0.3", "--set", "method.replay.batch=1", "--reflect-every", "2")
"""Attempts that are in the pool by another way, and in the method's own state by their ids."""


@pytest.fixture(scope="session")
def parent(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("parent")
    outcome = run_scrpo(("train", *SIZES, *STATEFUL), directory)
    assert outcome.code == 0, outcome.err
    return directory


@pytest.fixture
def database(parent: Path, tmp_path: Path) -> Path:
    shutil.copytree(parent / ".scrpo", tmp_path / ".scrpo")
    execute(tmp_path, "UPDATE run SET directory = replace(directory, ?, ?)", str(parent), str(tmp_path))
    return tmp_path


def ids(directory: Path) -> list[str]:
    return [each for (each,) in execute(directory, "SELECT id FROM run ORDER BY created_at")]


def state(directory: Path, run: str, step: int) -> dict:
    path = directory / f".scrpo/runs/{run}/checkpoints/step-{step:06d}/state.json"
    return json.loads(path.read_text().replace(run, "run"))


def assert_same_end(directory: Path, run: str, other: str) -> None:
    assert_same_rows(rows_of(directory, run), rows_of(directory, other))
    runs = directory / ".scrpo/runs"
    assert lines(runs / run / "metrics.jsonl") == lines(runs / other / "metrics.jsonl")
    last, theirs = (runs / each / "checkpoints/step-000008" for each in (run, other))
    assert (last / "adapter_model.safetensors").read_bytes() == (theirs / "adapter_model.safetensors").read_bytes()
    mine, other_optimizer = (torch.load(each / "optimizer.pt", weights_only=True) for each in (last, theirs))
    torch.testing.assert_close(mine, other_optimizer, rtol=0, atol=0)
    assert state(directory, run, 8) == state(directory, other, 8)


def test_a_fork_without_a_change_is_its_run_bit_for_bit(scrpo_process, database):
    forked = scrpo_process("fork", "last", "--at", AT, "--json")
    assert forked.code == 0, forked.err
    assert "were missing" not in forked.err  # lines of metrics.jsonl
    source, fork = ids(database)
    assert forked.json["fork"] == {"of": source, "at": AT}
    assert_same_end(database, fork, source)
    (named,) = execute(database, "SELECT count(*) FROM attempt WHERE run_id = ? AND id NOT LIKE ?", fork, f"{fork}:%")
    assert named == (0,)


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_a_fork_that_was_killed_before_its_first_step_is_taken_up(scrpo_process, database, moment):
    kill = SignalAt("scrpo_cli.jobs.fork:copy_past", 1, moment)
    assert scrpo_process("fork", "last", "--at", AT, hooks=(kill,)).code == -signal.SIGKILL
    resumed = scrpo_process("train", "--resume", "last", "--json")
    assert resumed.code == 0, resumed.err
    source, fork = ids(database)
    assert_same_end(database, fork, source)


def test_what_differs_comes_from_the_switch(scrpo_process, database):
    assert scrpo_process("fork", "last", "--at", AT, "--reflect-every", "never").code == 0
    source, fork = ids(database)
    mine, theirs = rows_of(database, fork), rows_of(database, source)
    for table in ("attempt", "step"):
        past, their_past = ([row for row in rows[table] if row["step"] <= AT] for rows in (mine, theirs))
        assert past == their_past
    phases = [row["phase"] for row in mine["step"]]
    assert "reflect" in phases[:AT]
    assert "reflect" not in phases[AT:]
    assert "reflect" in [row["phase"] for row in theirs["step"]][AT:]
    first = AT + 1  # a first-answer step in both: the same draws
    assert theirs["step"][AT]["phase"] == "first"
    texts = [[row["ids"] for row in rows["attempt"] if row["step"] == first] for rows in (mine, theirs)]
    assert texts[0] == texts[1]


def test_another_method_begins_with_a_state_of_its_own(scrpo_process, database):
    forked = scrpo_process("fork", "last", "--at", AT, "--set", "method={name: grpo}", "--json")
    assert forked.code == 0, forked.err
    assert state(database, ids(database)[1], 8)["method"] == {}


def test_a_fork_that_goes_on_after_the_end_of_its_run_is_evaluated_at_its_own_end(scrpo_process, database):
    forked = scrpo_process("fork", "last", "--at", "8", "--set", "optim.steps=10", "--json")
    assert forked.code == 0, forked.err
    _, fork = ids(database)
    after = [row for row in rows_of(database, fork)["evaluation"] if row["label"] == "after"]
    assert [row["step"] for row in after] == [10]
    assert {row["step"] for row in rows_of(database, fork)["attempt"] if row["phase"].endswith(":after")} == {10}
    measured = lines(database / ".scrpo/runs" / fork / "metrics.jsonl")
    assert [row["step"] for row in measured if "eval/accuracy" in row] == [0, 10]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--at", "3"), ("There is no intact checkpoint of step 3", "2, 4, 6, 8")),
        (("--at", AT, "--set", "model.lora.r=4"), ("A fork keeps model.lora.r", "scrpo train")),
        (("--at", AT, "--set", "eval.samples=3"), ("A fork keeps eval.samples", "scrpo train")),
        (("--at", AT, "--set", "task.grader=my:lenient"), ("A fork keeps task.grader", "scrpo train")),
        (("--at", "8"), ("Nothing is left to train: optim.steps is 8", "--set optim.steps=")),
        (("--at", AT, "--set", "optim.max_generated_tokens=10"), ("Nothing is left", "max_generated_tokens")),
    ],
)
def test_what_cannot_be_forked_is_refused_before_anything_is_written(scrpo_process, database, options, said):
    refused = scrpo_process("fork", "last", *options)
    assert refused.code == 2
    assert all(words in refused.err for words in said), refused.err
    assert len(ids(database)) == 1


def test_a_fork_does_not_go_back_behind_its_beginning(scrpo_process, database):
    assert scrpo_process("fork", "last", "--at", AT, "--set", "optim.steps=6").code == 0
    refused = scrpo_process("train", "--resume", "last", "--from-checkpoint", "2")
    source, _ = ids(database)
    assert refused.code == 2
    assert f"train --resume {source} --from-checkpoint 2" in refused.err


def test_arms_that_branch_from_a_run(scrpo_process, database):
    budget = ("--set", "optim.max_generated_tokens=100000")
    arms = ("ablate", "--fork-from", "last", "--at", "6", "--reflect-every", "2,1", "--seeds", "1", *budget)
    done = scrpo_process(*arms, "--json")
    assert done.code == 0, done.err
    source = ids(database)[0]
    arms = dict(execute(database, "SELECT arm, id FROM run WHERE command = 'train' AND arm IS NOT NULL"))
    as_it_was, changed = arms["reflect_every=2"], arms["reflect_every=1"]  # which were started together
    assert_same_end(database, as_it_was, source)
    assert {arm["arm"]: arm["steps"] for arm in done.json["arms"]} == {
        "reflect_every=2": [8],
        "reflect_every=1": [8],
    }
    assert rows_of(database, changed)["step"] != rows_of(database, source)["step"]
    ((directory,),) = execute(database, "SELECT directory FROM run WHERE command = 'ablate'")
    assert json.loads((Path(directory) / "sweep.json").read_text())["fork"] == {"of": source, "at": 6}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fork-from", "last"), "Add --at STEP."),
        (("--at", "4"), "--at has no effect without --fork-from"),
        (("--fork-from", "last", "--at", "4", "--recipe", "tiny"), "Forks have the recipe of the run that they leave"),
        (("--fork-from", "last", "--at", "4", "--vary", "model.lora.r=4,8"), "A fork keeps model.lora.r"),
    ],
)
def test_options_of_forked_arms_that_go_nowhere(scrpo_process, database, options, said):
    refused = scrpo_process("ablate", *options, "--set", "optim.max_generated_tokens=100000")
    assert refused.code == 2
    assert said in refused.err, refused.err
    assert len(ids(database)) == 1
