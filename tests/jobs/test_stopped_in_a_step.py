"""A command that is stopped in a step keeps its finished answers: what is resumed asks for the rest, and ends alike."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import FailureInStep, Hook, Outcome, RowsAsked, SignalAt, SignalInStep, run_scrpo, small
from run_rows import Rows, all_rows, assert_same_rows, execute

from scrpo_cli.training import half_step

BATCH = 8
SIZES = small(rollout__batch_size=BATCH, method__filter__mode="none")  # a step has two batches
CORRECT = ("correct", "--limit", 14, "--samples", 4, *SIZES)
COMMANDS = {
    "collect": ("collect", "--limit", 20, *SIZES),
    "correct": CORRECT,
    "gated": (*CORRECT, "--gate", "verdict", "--gate-threshold", 0.75),
    "unsure": (*CORRECT, "--gate", "mean_logprob", "--gate-threshold", -0.02),
    "advise": ("advise", "--problems", 8, *SIZES),
    "audit": ("audit", "--problems", 8, *SIZES),
}
SLOW = ("advise", "audit")  # they sample as `collect` does
EVERY = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in COMMANDS]


@dataclass(frozen=True)
class Ended:
    """What a command left that was not disturbed."""

    directory: Path
    rows: Rows
    asked: list[str]
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def undisturbed(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ended]:
    known: dict[str, Ended] = {}

    def find(name: str) -> Ended:
        if name not in known:
            directory = tmp_path_factory.mktemp(name)
            prepare(name, directory, find)
            asked = RowsAsked(directory / "asked")
            outcome = run_scrpo((*COMMANDS[name], "--json"), directory, (asked,))
            assert outcome.code == 0, outcome.err
            known[name] = Ended(directory, all_rows(directory), asked.read(), without_run(outcome.json))
        return known[name]

    return find


def prepare(name: str, directory: Path, find: Callable[[str], Ended]) -> None:
    """Put a pool of errors there, for a command that corrects them."""
    if COMMANDS[name][0] == "correct":
        shutil.copytree(find("collect").directory / ".scrpo", directory / ".scrpo")


def without_run(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "run"}


@dataclass(frozen=True)
class Stopped:
    """A run of a command that something ended early."""

    name: str
    directory: Path
    expected: Ended
    outcome: Outcome
    asked: list[str]

    @property
    def run(self) -> tuple[str, str, int]:
        """Its id, its status, and the number of steps that it recorded."""
        count = "(SELECT count(*) FROM step WHERE run_id = run.id)"
        return execute(self.directory, f"SELECT id, status, {count} FROM run ORDER BY created_at DESC LIMIT 1")[0]

    @property
    def file(self) -> Path:
        return self.directory / ".scrpo/runs" / self.run[0] / half_step.FILE

    def resume(self) -> tuple[list[str], Outcome]:
        """What it asks for when it is resumed; it ends as the one that was not disturbed."""
        asked = RowsAsked(self.directory / "asked-again")
        outcome = run_scrpo((COMMANDS[self.name][0], "--resume", "last", "--json"), self.directory, (asked,))
        assert outcome.code == 0, outcome.err
        assert_same_rows(all_rows(self.directory), self.expected.rows)
        assert without_run(outcome.json) == self.expected.summary
        assert not self.file.exists()
        return asked.read(), outcome


@pytest.fixture
def stop(tmp_path: Path, undisturbed: Callable[[str], Ended]) -> Callable[[str, Hook], Stopped]:
    def stop(name: str, hook: Hook) -> Stopped:
        expected = undisturbed(name)
        prepare(name, tmp_path, undisturbed)
        asked = RowsAsked(tmp_path / "asked")
        outcome = run_scrpo(COMMANDS[name], tmp_path, (hook, asked))
        return Stopped(name, tmp_path, expected, outcome, asked.read())

    return stop


def assert_the_rest_is_asked(stopped: Stopped, again: list[str], kept: int) -> None:
    """Of what the engine was asked for last, all but what was kept; then all that was never asked for."""
    last = [row for row in stopped.asked if row.startswith("2 ")]
    rest = len(last) - kept
    assert rest
    assert set(again[:rest]) < set(last)
    assert again[rest:] == stopped.expected.asked[len(stopped.asked) :]


@pytest.mark.parametrize("name", EVERY)
def test_a_stop_keeps_the_answers_that_are_finished(stop, name) -> None:
    stopped = stop(name, SignalInStep(2, 1))
    run, *rest = stopped.run
    assert (stopped.outcome.code, *rest) == (130, "interrupted", 1), stopped.outcome.err
    assert "Stopped in step 2: " in stopped.outcome.err
    assert stopped.outcome.err.endswith(f"`scrpo {COMMANDS[name][0]} --resume {run}`.\n")
    assert stopped.file.is_file()
    again, outcome = stopped.resume()
    assert "Step 2 goes on with the " in outcome.err
    assert_the_rest_is_asked(stopped, again, BATCH)


@pytest.mark.parametrize("name", ["collect", "correct"])
def test_what_an_engine_had_answered_before_it_failed_is_kept(stop, name) -> None:
    stopped = stop(name, FailureInStep(2, 1))
    assert (stopped.outcome.code, *stopped.run[1:]) == (1, "failed", 1), stopped.outcome.err
    assert "Error: The engine is gone." in stopped.outcome.err
    assert_the_rest_is_asked(stopped, stopped.resume()[0], BATCH)


def test_a_stop_among_the_questions_of_a_gate_keeps_their_answers(stop) -> None:
    in_questions = SignalAt("scrpo_cli.evaluation.runner:grade_groups", 2, "before", signal.SIGINT)
    stopped = stop("gated", in_questions)
    assert (stopped.outcome.code, *stopped.run[1:]) == (130, "interrupted", 1), stopped.outcome.err
    assert stopped.asked[-1].split()[1] == "eval:pool:verdict"
    assert stopped.resume()[0] == stopped.expected.asked[len(stopped.asked) :]


@pytest.mark.parametrize("name", ["collect", "correct", "unsure"])
def test_a_stop_before_a_step_is_stored_leaves_nothing_of_it_to_be_sampled(stop, name) -> None:
    stopped = stop(name, SignalAt(f"scrpo_cli.jobs.{COMMANDS[name][0]}:record_step", 2, "before", signal.SIGTERM))
    assert (stopped.outcome.code, *stopped.run[1:]) == (130, "interrupted", 1), stopped.outcome.err
    assert stopped.resume()[0] == stopped.expected.asked[len(stopped.asked) :]


def test_answers_of_a_file_that_is_damaged_are_sampled_again(stop) -> None:
    stopped = stop("collect", SignalInStep(2, 1))
    stopped.file.write_bytes(stopped.file.read_bytes()[:-1])
    again, outcome = stopped.resume()
    assert "goes on with" not in outcome.err
    assert again == [row for row in stopped.expected.asked if not row.startswith("1 ")]
