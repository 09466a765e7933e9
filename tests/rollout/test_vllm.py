"""vLLM for real, on its CPU build: `make test-vllm`. What it samples and scores is what the trainer computes, its
adapters are those of the last sync, and no process of it outlives us.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from training.tiny_policy import moved

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import RunError, UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import VllmConfig
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat, user
from scrpo_cli.rollout.engines import open_engine
from scrpo_cli.rollout.vllm_engine import Vllm, VllmEngine, rank_slot
from scrpo_cli.threads import in_a_thread
from scrpo_cli.training.packing import Packing, Seat
from scrpo_cli.training.policy import Policy, load_policy, source_of
from scrpo_cli.training.probe import Probe

pytestmark = pytest.mark.vllm
SETS = ["rollout.engine=vllm", "rollout.vllm.eager=true", "rollout.vllm.timeout=300"]
PROBLEMS = ["47+38=?", "12+39-5=?", "99-17=?", "5+5=?"] * 4
KEYS = [RowKey(0, 0, "test", i) for i in range(len(PROBLEMS))]


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = load_policy(load_recipe("tiny").model, 0)
    moved(policy, 0.05)
    return policy


@pytest.fixture(scope="module")
def engine(policy: Policy) -> Iterator[VllmEngine]:
    recipe = load_recipe("tiny", SETS)
    engine: Any = open_engine(recipe.rollout, policy, source_of(recipe.model))
    yield engine
    processes = engine.vllm.processes
    engine.close()
    gone(processes)


def gone(processes: list[psutil.Process], seconds: float = 30) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not alive


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[list[int]]:
    chat = Chat(policy.tokenizer)
    return [chat.ids([user(problem)]) for problem in PROBLEMS]


def trainers(policy: Policy, rows: Any, temperature: float) -> np.ndarray:
    """Full logits, one row at a time."""
    found = []
    for prompt, ids in rows:
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
        logp_TV = (logits / temperature).log_softmax(-1)
        found.append(logp_TV.gather(1, torch.tensor(ids)[:, None])[:, 0].numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_those_of_what_was_sampled_from(engine, policy, prompts, temperature) -> None:
    moved(policy, 0.02)
    engine.sync()
    sampled = engine.generate(prompts, Sampling(temperature, 64), KEYS)
    rows = [(c.prompt_ids, c.ids) for c in sampled]
    assert np.concatenate([c.logprobs for c in sampled]) == pytest.approx(trainers(policy, rows, temperature), abs=1e-4)
    scored = np.concatenate(engine.score(rows[:3]), axis=1)[0]
    assert scored == pytest.approx(trainers(policy, rows[:3], 1.0), abs=1e-4)
    assert {c.policy_version for c in sampled} == {policy.version}
    ends = engine.stop_ids
    for c in sampled:
        assert (c.finish == "stop") == (c.ids[-1] in ends)
        assert not set(ends) & set(c.ids[:-1])
        assert c.text == policy.tokenizer.decode(c.ids[:-1] if c.finish == "stop" else c.ids)


def test_a_row_draws_the_same_whatever_shares_its_batch(engine, prompts) -> None:
    whole = engine.generate(prompts, Sampling(1.0, 48), KEYS)
    backwards = engine.generate(prompts[::-1], Sampling(1.0, 48), KEYS[::-1])[::-1]
    alone = [engine.generate([p], Sampling(1.0, 48), [k])[0] for p, k in zip(prompts[:3], KEYS, strict=False)]
    assert [c.ids for c in backwards] == [c.ids for c in whole]
    assert [c.ids for c in alone] == [c.ids for c in whole[:3]]
    assert len({tuple(c.ids) for c in whole}) > 4


def test_each_row_is_told_of_when_it_is_finished(engine, prompts) -> None:
    told: list[Any] = []
    whole = engine.generate(prompts, Sampling(1.0, 48), KEYS, told.append)
    assert {len(found) for found in told} == {1}
    assert {row: c for found in told for row, c in found.items()} == dict(enumerate(whole))
    rows = [row for found in told for row in found]
    assert rows != sorted(rows), "in the order in which they end"


def test_nothing_asked_is_nothing_answered(engine) -> None:
    assert engine.generate([], Sampling(1.0, 8), []) == []


def test_greedy_and_cut_off(engine, policy, prompts) -> None:
    cut = engine.generate(prompts[:2], Sampling(0.0, 3), KEYS[:2])
    assert [c.finish for c in cut] == ["length", "length"]
    for c in cut:
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*c.prompt_ids, *c.ids]])).logits[0, len(c.prompt_ids) - 1 : -1]
        assert logits.argmax(-1).tolist() == c.ids


def test_answers_end_at_our_stop_ids_alone(engine, prompts, monkeypatch) -> None:
    """vLLM knows the end token of the model's own files too."""
    (end,) = engine.stop_ids
    usual = engine.generate(prompts, Sampling(1.0, 48), KEYS)
    assert "stop" in {c.finish for c in usual}
    monkeypatch.setattr(engine, "stop_ids", [])
    endless = engine.generate(prompts, Sampling(1.0, 48), KEYS)
    assert {(c.finish, len(c.ids)) for c in endless} == {("length", 48)}
    assert any(end in c.ids[:-1] for c in endless)
    assert [c.ids[: len(u.ids)] for c, u in zip(endless, usual, strict=True)] == [u.ids for u in usual]


def test_each_sync_is_a_new_version_and_the_old_ones_go(engine, policy) -> None:
    for _ in range(4):
        moved(policy, 0.02)
        engine.sync()
    names = [version.name for version in engine.known]
    assert set(engine.vllm.engine.list_loras()) <= {version.number for version in engine.known[-2:]}
    assert sorted(path.name for path in engine.publisher.home.iterdir()) == sorted(names)
    assert len(names) == 3


def test_the_probe_lets_a_good_sync_through(engine, policy) -> None:
    probe = Probe(engine, policy)
    engine.sync()
    probe.check()
    moved(policy, 0.02)
    engine.sync()
    found = probe.check()
    assert found["sync/gap"] < 1e-4
    assert found["sync/moved"] == pytest.approx(found["sync/trainer_moved"], rel=0.05)


def test_a_stale_adapter_stops_the_run(engine, policy) -> None:
    probe = Probe(engine, policy)
    engine.sync()
    probe.check()
    moved(policy, 0.02)  # and no sync
    with pytest.raises(RunError, match="samples from old weights"):
        probe.check()


@pytest.mark.parametrize(
    "change", [lambda c: {**c, "lora_alpha": 2 * c["lora_alpha"]}, lambda c: {**c, "lora_alpha": 0}]
)
def test_an_adapter_that_is_scaled_otherwise_stops_the_run(engine, policy, monkeypatch, change: Callable) -> None:
    publish = engine.publisher.publish

    def scaled() -> Any:
        version = publish()
        config = version.directory / "adapter_config.json"
        config.write_text(json.dumps(change(json.loads(config.read_text()))))
        return version

    probe = Probe(engine, policy)
    with monkeypatch.context() as patch:
        patch.setattr(engine.publisher, "publish", scaled)
        moved(policy, 0.02)
        engine.sync()
    with pytest.raises(RunError, match="nats from the trainer's on average"):
        probe.check()
    engine.sync()
    Probe(engine, policy).check()


def test_an_answer_that_vllm_would_cut_off_is_refused(engine, prompts) -> None:
    with pytest.raises(RunError, match="has room for 2048"):
        engine.generate(prompts[:1], Sampling(1.0, 5000), KEYS[:1])


def test_a_crash_is_survived_once_with_the_same_draws(engine, prompts) -> None:
    before = engine.generate(prompts, Sampling(1.0, 48), KEYS)
    for process in engine.vllm.processes:
        process.kill()
    with pytest.warns(UserWarning, match="it is started again"):
        assert engine.generate(prompts, Sampling(1.0, 48), KEYS) == before
    assert engine.vllm.restarts == 1


def test_a_call_may_take_long_but_not_stand_still(engine, prompts, monkeypatch) -> None:
    engine.vllm.cfg = engine.vllm.cfg.model_copy(update={"timeout": 2})
    monkeypatch.setattr(engine, "stop_ids", [])
    asked, keys = prompts * 8, [RowKey(0, 0, "long", i) for i in range(8 * len(prompts))]
    began = time.monotonic()
    assert len(engine.generate(asked, Sampling(1.0, 200), keys)) == len(asked)
    assert time.monotonic() - began > 2.5
    for process in engine.vllm.processes:
        process.suspend()
    with pytest.raises(RunError, match="made no step in 2 s while sampling"):
        engine.generate(asked, Sampling(1.0, 200), keys)
    gone(engine.vllm.processes)


class Sleeper:
    """An LLM that has one sleep in it; this machine's vLLM has none (sleep mode is CUDA's)."""

    def __init__(self, told: list[Any], wakes: bool = True, dies: bool = False) -> None:
        self.told, self.wakes, self.dies = told, wakes, dies

    def sleep(self, level: int) -> None:
        self.told.append(("sleep", level))
        if self.dies:
            from vllm.v1.engine.exceptions import EngineDeadError

            raise EngineDeadError

    def release_kv_cache_memory(self) -> None:
        self.told.append("release")

    def wake_up(self, tags: list[str]) -> None:
        self.told.append(("wake", *tags))
        if not self.wakes:
            threading.Event().wait(60)


class Bed(Vllm):
    def __init__(self, *sleepers: Sleeper) -> None:
        self.cfg, self.restarts, self.restarting, self.stepped = VllmConfig(timeout=1.5), 0, threading.Lock(), 0.0
        self.sleepers, self.killed = list(sleepers), 0
        self.start()

    def start(self) -> None:
        self.llm, self.processes = self.sleepers.pop(0), []

    def kill(self) -> None:
        self.killed += 1


def test_it_sleeps_through_the_update() -> None:
    told: list[Any] = []
    with Bed(Sleeper(told)).asleep():
        told.append("update")
    assert told == [("sleep", 0), "release", "update", ("wake", "kv_cache", "scheduling")]


def test_one_that_does_not_wake_is_given_up() -> None:
    bed = Bed(Sleeper([], wakes=False))
    with pytest.raises(RunError, match="while waking up"), bed.asleep():
        pass
    assert bed.killed == 1


def test_one_that_dies_going_to_sleep_is_started_again() -> None:
    told: list[Any] = []
    bed = Bed(Sleeper(told, dies=True), Sleeper(told))
    with pytest.warns(UserWarning, match="died while going to sleep"), bed.asleep():
        assert bed.restarts == 1
    assert told == [("sleep", 0), ("sleep", 0), "release", ("wake", "kv_cache", "scheduling")]


def test_a_start_has_a_deadline(policy, monkeypatch) -> None:
    def slow(**_: Any) -> None:
        raise TimeoutError("Timed out waiting for engine core processes to start.")

    monkeypatch.setattr("vllm.LLM", slow)
    recipe = load_recipe("tiny", SETS)
    with pytest.raises(RunError, match="vLLM did not start in") as error:
        open_engine(recipe.rollout, policy, source_of(recipe.model))
    assert error.value.where == "rollout.vllm.timeout"


@pytest.mark.parametrize(("rank", "slot"), [(1, 1), (4, 8), (16, 16), (65, 128)])
def test_slots_of_ranks(rank: int, slot: int) -> None:
    assert rank_slot(rank) == slot


def test_a_rank_above_all_slots_is_refused() -> None:
    with pytest.raises(UserError, match="up to rank 512"):
        rank_slot(513)


# -- servers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """A real one, as docs/engines.md starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(embedded_model_dir("tiny"))]
    options = "--enable-lora --max-lora-rank 8 --logprobs-mode processed_logprobs --enforce-eager --dtype float32"
    options += f" --port {port} --no-enable-chunked-prefill --max-cpu-loras 2 --enable-scale-out"
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options.split()], stdout=out, stderr=out, env=environment, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=1).is_success:
                    break
            time.sleep(1)
        yield url
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()


@pytest.fixture
def servers(server: str, policy: Policy) -> Iterator[Any]:
    recipe = load_recipe("tiny", ["rollout.engine=vllm_server", f"rollout.vllm.urls=[{server}]"])
    engine = open_engine(recipe.rollout, policy, source_of(recipe.model))
    yield engine
    engine.close()


def test_servers_sample_what_the_trainer_computes(servers, policy, prompts) -> None:
    moved(policy, 0.02)
    servers.sync()
    sampled = servers.generate(prompts, Sampling(0.7, 48), KEYS)
    rows = [(c.prompt_ids, c.ids) for c in sampled]
    assert np.concatenate([c.logprobs for c in sampled]) == pytest.approx(trainers(policy, rows, 0.7), abs=1e-4)
    scored = np.concatenate(servers.score(rows[:2]), axis=1)[0]
    assert scored == pytest.approx(trainers(policy, rows[:2], 1.0), abs=1e-4)
    assert servers.generate(prompts[::-1], Sampling(0.7, 48), KEYS[::-1])[::-1] == sampled


def test_servers_follow_every_sync_and_forget_the_old_versions(servers, server, policy) -> None:
    probe = Probe(servers, policy, 0.7)
    servers.sync()
    probe.check()
    for _ in range(3):
        moved(policy, 0.02)
        servers.sync()
        assert probe.check()["sync/gap"] < 1e-4
    loaded = {model["id"] for model in httpx.get(f"{server}/v1/models").json()["data"]}
    assert {v.name for v in servers.known[-2:]} <= loaded
    assert not {v.name for v in servers.known[:-2]} & loaded


def test_a_server_that_is_not_there_is_named(policy) -> None:
    recipe = load_recipe("tiny", ["rollout.engine=vllm_server", "rollout.vllm.urls=[http://127.0.0.1:9]"])
    with pytest.raises(RunError, match="cannot be reached") as caught:
        open_engine(recipe.rollout, policy, source_of(recipe.model))
    assert "127.0.0.1:9" in caught.value.where


# -- the commands ------------------------------------------------------------------------------------------------------


def scrpo(*args: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scrpo_cli", *args, *(word for item in SETS for word in ("--set", item))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, start_new_session=True, **pipes, **options)


SMALL = ("--recipe", "tiny", "--set", "eval.limit=12", "--set", "tracking.wandb.mode=off")
STEPS = ("--set", "optim.steps=3", "--set", "optim.prompts_per_step=4", "--set", "method.reflect_every=2")


def test_a_run_trains_and_says_its_answer_alone_on_stdout(tmp_path: Path) -> None:
    process = scrpo("train", *SMALL, *STEPS, "--json", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in Path(tmp_path, json.loads(out)["metrics"]).read_text().splitlines()]
    steps = [row for row in rows if "train/drift" in row]
    assert len(steps) == 3
    assert all(row["train/drift_max"] < 1e-4 and row["sync/gap"] < 1e-4 and row["sync/moved"] > 0 for row in steps)
    assert all(row["correction/min"] > 0.999 and row["correction/max"] < 1.001 for row in steps)


@pytest.fixture(scope="module")
def packing() -> Iterator[Packing]:
    packing = Packing(2)
    yield packing
    processes = packing.vllm(None, {}, VllmConfig()).processes
    packing.close()
    gone(processes)


@pytest.fixture(scope="module")
def packed(packing: Packing) -> list[Any]:
    """The engines of two runs with other adapters over one vLLM."""
    recipe, made = load_recipe("tiny", SETS), []
    for shift in (0.05, -0.04):
        seat = Seat(packing)
        with seat.working():
            policy = seat.policy(recipe)
            moved(policy, shift)
            made.append(seat.engine(recipe.rollout, policy, source_of(recipe.model)))
            made[-1].sync()
    return made


def in_its_turn(engine: Any, prompts: Any, keys: Any = KEYS) -> Any:
    with engine.seat.working():
        return engine.generate(prompts, Sampling(1.0, 48), keys)


def together(engines: list[Any], prompts: Any) -> list[Any]:
    asked = [in_a_thread(partial(in_its_turn, engine, prompts)) for engine in engines]
    return [each.result(300) for each in asked]


def test_packed_runs_share_one_vllm(packed, prompts) -> None:
    one, other = packed
    assert one.inner.vllm is other.inner.vllm
    apart = [in_its_turn(engine, prompts) for engine in packed]
    assert [c.ids for c in apart[0]] != [c.ids for c in apart[1]]
    vllm, seen = one.inner.vllm, []
    step = vllm.engine.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm.engine, "step", lambda: [seen.append(out) or out for out in step()])
        assert [[c.ids for c in rows] for rows in together(packed, prompts)] == [
            [c.ids for c in rows] for rows in apart
        ]
    names = [out.lora_request.lora_name for out in seen if out.finished]
    assert len(names) == 2 * len(prompts)
    assert sum(a != b for a, b in pairwise(names)) > 1, "they worked at the same time"
    for engine, rows in zip(packed, apart, strict=True):
        found = np.concatenate([c.logprobs for c in rows])
        assert found == pytest.approx(trainers(engine.policy, [(c.prompt_ids, c.ids) for c in rows], 1.0), abs=1e-4)


def test_where_it_dies_all_packed_runs_go_on(packed, prompts) -> None:
    apart = [in_its_turn(engine, prompts) for engine in packed]
    vllm = packed[0].inner.vllm
    for process in vllm.processes:
        process.kill()
    with pytest.warns(UserWarning, match="it is started again"):
        assert together(packed, prompts) == apart
    assert vllm.restarts == 1


def test_its_processes_die_with_ours(tmp_path: Path) -> None:
    process = scrpo("train", *SMALL, cwd=tmp_path)
    found: list[psutil.Process] = []
    end = time.monotonic() + 180
    while time.monotonic() < end and not list(tmp_path.rglob("metrics.jsonl")):
        time.sleep(0.5)
    found = psutil.Process(process.pid).children(recursive=True)
    assert found
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    gone(found, 60)
