"""A run of several processes is the run of one: the same rows, and the same weights but for the order of sums."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ENVIRONMENT, Hook, Outcome, SignalAt, SignalInStep, ended, run_scrpo, small, start_scrpo
from run_rows import all_rows, execute
from safetensors.torch import load_file

from scrpo_cli import launch
from scrpo_cli.errors import RunError, UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.fake import FakeEngine
from scrpo_cli.training import helping, team, update
from scrpo_cli.training.helping import SharedEngine
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.team import dealt, gathered

SIZES = {
    "task__train__limit": 50,
    "optim__steps": 3,
    "optim__prompts_per_step": 3,
    "optim__lr": 2e-4,
    "optim__grad_clip": 0.01,
    "rollout__max_tokens": 96,
    "eval__limit": 3,
    "eval__every": 2,
    "eval__repair": "false",
    "checkpoint__every": 1,
    "checkpoint__keep": 9,
}
RUN = "team-test"  # a name that is no part of a word in the rows
METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "grpo": (2, {"optim__minibatches": 2}),
    "scrpo": (2, {"method__reflect_every": 1, "method__kl__beta": 0.05, "method__filter__mode": "none"}),
    "score": (2, {"method__kl__reference": "stage1", "optim__steps": 4}),
    "rloo": (3, {"optim__prompts_per_step": 1, "method__kl__beta": 0.05, "optim__steps": 2, "eval__every": "null"}),
}
"""Name -> processes, sizes. RLOO reads log-ratios; two of its processes get no group."""


def train(method: str, **more: object) -> tuple[str, ...]:
    """The run's id is given, so that two runs number their answers alike."""
    sizes = SIZES | METHODS[method][1] | {"method__name": method} | more
    return ("train", "--json", "--run-id", RUN, *small(**sizes))


def run_team(
    args: Sequence[object], directory: Path, size: int = 2, hooks: Mapping[int, Sequence[Hook]] | None = None
) -> list[Outcome]:
    """`scrpo ARGS` in as many processes, with the environment that a launcher gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        start_scrpo(
            args,
            directory,
            (hooks or {}).get(rank, ()),
            common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            str(rank),
        )
        for rank in range(size)
    ]
    return [ended(*each) for each in started]


@dataclass(frozen=True)
class Left:
    """What a run left behind."""

    attempts: list[Any]
    logprobs: list[float]
    rows: dict[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]


def left(directory: Path) -> Left:
    rows = all_rows(directory)
    del rows["attempt"]
    attempts = attempts_of(Database.open(f"sqlite:///{directory / '.scrpo/scrpo.db'}"), RUN)
    last = sorted((directory / ".scrpo/runs" / RUN / "checkpoints").glob("step-*"))[-1]
    return Left(
        [(a.id, a.grade, a.kind, a.turn, a.parent, [*a.completion.prompt_ids], [*a.completion.ids]) for a in attempts],
        [logprob for a in attempts for logprob in a.completion.logprobs],
        rows,
        load_file(last / "adapter_model.safetensors"),
        torch.load(last / "optimizer.pt", weights_only=True),
    )


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every number and text of nested dictionaries and lists, by its path."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: each for key, below in items for name, each in flat(below, f"{path}/{key}").items()}


def assert_same(found: Left, expected: Left) -> None:
    assert found.attempts == expected.attempts
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    for table, there in expected.rows.items():
        mine, others = flat(found.rows[table]), flat(there)
        numbers = sorted(path for path, value in others.items() if isinstance(value, int | float))
        texts = others.keys() - numbers
        assert {path: mine[path] for path in mine.keys() - numbers} == {path: others[path] for path in texts}
        for path in numbers:  # drift is rounding and nothing else
            tolerance = 1e-4 if "drift" in path else 1e-5
            assert mine[path] == pytest.approx(others[path], rel=1e-3, abs=tolerance), path
    assert found.weights.keys() == expected.weights.keys()
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-6)
    assert found.optimizer["param_groups"] == expected.optimizer["param_groups"]


@pytest.fixture(scope="session")
def alone(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Left]:
    """What one process leaves of a method's run."""
    found: dict[str, Left] = {}

    def run(method: str) -> Left:
        if method not in found:
            directory = tmp_path_factory.mktemp(method)
            outcome = run_scrpo(train(method), directory)
            assert outcome.code == 0, outcome.err
            found[method] = left(directory)
        return found[method]

    return run


QUICK = "scrpo"  # has steps of both kinds, and a pool


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m != QUICK)) for m in METHODS])
def test_several_processes_record_and_learn_what_one_does(alone, tmp_path, method) -> None:
    expected = alone(method)
    first, *others = run_team(train(method), tmp_path, METHODS[method][0])
    assert first.code == 0, first.err
    assert first.json["status"] == "done"
    assert [(o.code, o.out, o.err) for o in others] == [(0, "", "")] * len(others)
    assert_same(left(tmp_path), expected)
    steps = [row["metrics_json"] for row in expected.rows["step"]]
    assert any(step.get("train/grad_norm", 0) > SIZES["optim__grad_clip"] for step in steps), "the clip bites"


UPDATE = "scrpo_cli.training.update:Updater.step"


@pytest.mark.slow
def test_a_killed_first_process_ends_the_other_and_the_run_goes_on_in_several(alone, tmp_path) -> None:
    killed, other = run_team(train("scrpo"), tmp_path, hooks={0: [SignalAt(UPDATE, 3, "after")]})
    assert (killed.code, other.code) == (-signal.SIGKILL, 1)
    assert other.err.splitlines()[0] == "Error: Process 0 of this run has gone, and so the others end."
    resumed, other = run_team(("train", "--resume", RUN), tmp_path)
    assert (resumed.code, other.code, other.err) == (0, 0, ""), resumed.err
    assert_same(left(tmp_path), alone("scrpo"))


@pytest.mark.slow
def test_another_process_that_dies_ends_the_run_and_one_alone_can_go_on(alone, tmp_path) -> None:
    first, killed = run_team(train("score"), tmp_path, hooks={1: [SignalAt(UPDATE, 3)]})
    assert (first.code, killed.code) == (1, -signal.SIGKILL)
    assert "Process 1 has gone while stepping." in first.err
    assert execute(tmp_path, "SELECT status FROM run") == [("failed",)]
    assert run_scrpo(("train", "--resume", RUN), tmp_path).code == 0
    assert_same(left(tmp_path), alone("score"))


@dataclass(frozen=True)
class Patience:
    seconds: float

    def __call__(self) -> None:
        team.DEADLINE_S = self.seconds


@dataclass(frozen=True)
class Hanging:
    """The process sleeps in its first update."""

    seconds: float

    def __call__(self) -> None:
        update.Updater.accumulate = lambda *_: time.sleep(self.seconds)  # type: ignore[method-assign]


@dataclass(frozen=True)
class Failing:
    """The process fails in its first optimizer step."""

    def __call__(self) -> None:
        def step(self: Any, step: int) -> float:
            raise ValueError("planted")

        update.Updater.step = step  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_process_that_hangs_meets_a_deadline_with_a_name(scrpo_server, tmp_path) -> None:
    hooks = {0: [Patience(4.0)], 1: [Hanging(9)]}
    first, other = run_team(train("grpo"), tmp_path, hooks=hooks)
    assert first.code == 1
    assert "Process 1 did not end training within 4 s after process 0." in first.err
    assert other.code == 1


@pytest.mark.slow
def test_an_error_of_another_process_is_said_by_the_first(scrpo_server, tmp_path) -> None:
    first, other = run_team(train("grpo"), tmp_path, hooks={1: [Failing()]})
    assert (first.code, other.code, other.err) == (1, 0, "")
    assert "Error: Process 1, stepping: ValueError: planted" in first.err


class Warned:
    """A helper whose engine is started again, and whose libraries talk."""

    def sync(self) -> str:
        warnings.warn("started again", stacklevel=2)
        warnings.warn_explicit("of a library", UserWarning, "peft.py", 1, "peft")
        return "synced"


def test_what_another_process_warns_of_is_said_by_the_first(monkeypatch) -> None:
    asked, sent = iter([("sync", ()), None]), []
    monkeypatch.setattr(helping, "receive", lambda rank: next(asked))
    monkeypatch.setattr(helping, "send", lambda message, rank: sent.append(message))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as help_out does
        helping.serve(Warned())
    assert sent == [("synced", ["started again"])]
    monkeypatch.setattr(team, "receive", lambda rank: sent[0])
    with pytest.warns(UserWarning, match="process 1: started again"):
        assert team.Team(2).answer(1, "giving the engines the adapter") == "synced"


def test_processes_with_other_base_models_do_not_begin(monkeypatch) -> None:
    """Their adapters would be the same, and their gradients of two models."""
    updater = SimpleNamespace(team=team.Team(2), policy=Policy(None, None, base="one"))
    monkeypatch.setattr(team, "receive", lambda rank: ("other", []))
    with pytest.raises(RunError, match="Process 1 has loaded other weights of the base model"):
        helping.SharedUpdater.announce(updater)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_stop_signal_to_all_ends_all_after_the_same_step(alone, tmp_path) -> None:
    """A terminal sends it to every process of its group; only the first one's counts."""
    hooks = {rank: [SignalAt(UPDATE, 2, "after", signal.SIGINT)] for rank in range(2)}
    first, other = run_team(train("scrpo"), tmp_path, hooks=hooks)
    assert (first.code, other.code, other.err) == (130, 0, "")
    assert "Stopped after step 2" in first.err
    assert run_team(("train", "--resume", RUN), tmp_path)[0].code == 0
    assert_same(left(tmp_path), alone("scrpo"))


@pytest.mark.slow
def test_a_stop_while_a_step_samples_keeps_the_answers_of_process_0(alone, tmp_path) -> None:
    stopped = run_team(train("scrpo"), tmp_path, hooks={0: [SignalInStep(3, 1)]})[0]
    assert stopped.code == 130, stopped.err
    assert "Stopped in step 3: 4 finished answers of it are kept" in stopped.err  # a group of three
    resumed = run_team(("train", "--resume", RUN), tmp_path)[0]
    assert resumed.code == 0
    assert "Step 3 goes on with the 4 answers" in resumed.err
    assert_same(left(tmp_path), alone("scrpo"))


def test_mistakes_are_said_once(scrpo_server, tmp_path) -> None:
    dry, other = run_team((*train("grpo"), "--dry-run"), tmp_path)
    assert (dry.code, dry.json["recipe"]["method"]["name"]) == (0, "grpo")
    assert (other.code, other.out, other.err) == (0, "", "")
    refused, other = run_team(("eval", "--recipe", "tiny"), tmp_path)
    assert (refused.code, other.code, other.err) == (2, 0, "")
    assert "Only `scrpo train` runs in several processes." in refused.err
    long, other = run_team(train("grpo", task__max_prompt_tokens=1), tmp_path)
    assert (long.code, other.code, other.err) == (2, 0, ""), other.err
    assert "Error: " in long.err


def test_an_engine_that_is_not_there_is_said_before_anybody_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    recipe = Recipe.model_validate({"model": {"device": "cpu"}, "rollout": {"engine": "vllm"}})
    with pytest.raises(UserError, match="vLLM is not installed"), gathered(recipe):
        pass


@pytest.mark.parametrize(("visible", "own"), [(None, "1"), ("", "1"), ("4,6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_what_an_engine_starts_sees_the_gpu_of_its_process_and_no_launcher(monkeypatch, visible, own) -> None:
    given = dict.fromkeys(launch.NAMES, "2") | {"LOCAL_RANK": "1", "RANK": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if visible is None:
        monkeypatch.delenv(launch.VISIBLE, raising=False)
    else:
        monkeypatch.setenv(launch.VISIBLE, visible)
    with launch.alone():
        assert os.environ[launch.VISIBLE] == own
        assert not os.environ.keys() & {*launch.NAMES}
    assert {name: os.environ.get(name) for name in launch.NAMES} == given
    assert os.environ.get(launch.VISIBLE) == visible


def test_without_a_launcher_nothing_is_hidden(monkeypatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(launch.VISIBLE, "0,1")
    with launch.alone():
        assert os.environ[launch.VISIBLE] == "0,1"


class Rests(FakeEngine):
    """An engine that says when it rests."""

    name, has_own_weights = "vllm", True

    def __init__(self, told: list[str]) -> None:
        self.told = told

    @contextmanager
    def resting(self) -> Iterator[None]:
        self.told.append("lies down")
        try:
            yield
        finally:
            self.told.append("gets up")


class Written(team.Team):
    """Process 0 of two, whose other is asked on paper."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(2)
        self.told = told

    def everywhere(self, what: str, shares: Any, mine: Any, task: str = "") -> Any:
        self.told.append(task)
        return [mine(*shares[0])]


def test_all_engines_rest_during_an_update_and_wake_after_it_and_after_an_error() -> None:
    told: list[str] = []
    engine = SharedEngine(Rests(told), Policy(None, None), Written(told))
    with engine.resting():
        told.append("update")
    assert told == ["rest", "lies down", "update", "wake", "gets up"]
    del told[:]
    with pytest.raises(ZeroDivisionError), engine.resting():
        raise ZeroDivisionError
    assert told == ["rest", "lies down", "wake", "gets up"]


VLLM = {"rollout__engine": "vllm", "rollout__vllm__eager": "true", "rollout__vllm__timeout": 300}


@pytest.mark.vllm
def test_each_process_samples_with_a_vllm_of_its_own(scrpo_server, tmp_path) -> None:
    """As one process does; the adapter goes to both engines, and the probe asks both."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    outcome = run_scrpo(train(QUICK, **VLLM), one)
    assert outcome.code == 0, outcome.err
    first, other = run_team(train(QUICK, **VLLM), two)
    assert (first.code, other.code) == (0, 0), first.err + other.err
    found, expected = left(two), left(one)
    assert found.attempts == expected.attempts
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-5)
    alone, together = (lines(directory) for directory in (one, two))
    assert [line["sync/bytes"] for line in together] == [2 * line["sync/bytes"] for line in alone]
    assert all(0 < line["sync/gap"] < 1e-4 for line in together)
    assert max(line["sync/moved"] for line in together) > 1e-3


def lines(directory: Path) -> list[dict[str, Any]]:
    """The metrics of the steps."""
    file = directory / ".scrpo/runs" / RUN / "metrics.jsonl"
    return [found for text in file.read_text().splitlines() if "sync/bytes" in (found := json.loads(text))]


@given(
    st.lists(st.integers(1, 5), max_size=12).flatmap(
        lambda sizes: st.tuples(st.just(sizes), st.lists(st.floats(0.1, 9), min_size=sum(sizes), max_size=sum(sizes)))
    ),
    st.integers(1, 5),
)
def test_shares_are_whole_groups_in_order(groups: tuple[list[int], list[float]], parts: int) -> None:
    sizes, costs = groups
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    shares = dealt(costs, firsts, parts)
    assert len(shares) == parts
    assert [i for share in shares for i in share] == list(range(len(costs)))
    assert {share.start for share in shares if share} <= {*firsts}
    largest = max((sum(costs[a : a + n]) for a, n in zip(firsts, sizes, strict=True)), default=0)
    assert all(sum(costs[i] for i in share) <= sum(costs) / parts + largest + 1e-6 for share in shares)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_a_run_and_say_mistakes_once(scrpo_server, tmp_path, launcher) -> None:
    def launched(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "scrpo_cli", *args]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | ENVIRONMENT, capture_output=True, text=True)

    done = launched(*train("rloo"))
    assert done.returncode == 0, done.stderr
    assert Outcome(0, done.stdout, "").json["status"] == "done"
    refused = launched(*train("rloo"), "--set", "optim.lr=none")
    assert refused.returncode == 1
    assert [line for line in refused.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: 'optim.lr' should be a valid number, got 'none'"
    ], refused.stderr
