"""`scrpo ablate --executor packed`: all runs in one process over one base model, each as it is alone."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from ablation_fakes import runs_in

from scrpo_cli.ablation.executors.base import Finished, Job
from scrpo_cli.ablation.executors.packed import PackedExecutor
from scrpo_cli.ablation.sweep import start_sweep
from scrpo_cli.cli.ablate import Varied
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, list_runs, steps_of
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.threads import Turn
from scrpo_cli.training.packing import Packing, Seat, _seat, own_time

ARMS = "--reflect-every 1,never --seeds 1"
SHORT = (
    "--set optim.max_generated_tokens=2500 --set optim.prompts_per_step=2 --set rollout.group_size=4 "
    "--set eval.limit=4 --set eval.samples=2 --set method.pool.per_prompt=2 --set checkpoint.every=1"
)


def drawn(database, run):
    """All that a run has sampled and learned, without what names the run or tells the time."""
    rows = [
        (
            a.id.removeprefix(run.id),
            a.completion.ids,
            a.completion.logprobs,
            a.completion.policy_version,
            a.grade.verdict,
        )
        for a in attempts_of(database, run.id)
    ]
    steps = [
        (s.step, s.phase, {k: v for k, v in s.metrics.items() if not k.startswith(("seconds", "memory"))})
        for s in steps_of(database, run.id)
    ]
    state = json.loads((max(Path(run.directory).glob("checkpoints/step-*")) / "state.json").read_text())
    return rows, steps, state["adapter_sha256"], state["generated_tokens"]


def test_packed_runs_are_those_that_run_alone(scrpo, tmp_path):
    code, packed, err = scrpo(f"ablate {ARMS} {SHORT} --executor packed")
    assert code == 0, err
    code, alone, err = scrpo(f"ablate {ARMS} {SHORT} --jobs 2")
    assert code == 0, err
    assert packed["arms"][0]["after"] == alone["arms"][0]["after"]
    logs = tmp_path / "sweeps" / packed["sweep"] / "logs"
    with Database.open(str(tmp_path / "scrpo.db")) as database:
        for arm in ("reflect_every=1", "reflect_every=never"):
            one, other = (
                next(run for run in runs_in(tmp_path, sweep=sweep["sweep"]) if run.arm == arm)
                for sweep in (packed, alone)
            )
            assert drawn(database, one) == drawn(database, other)
            assert drawn(database, one)[0]
            (result,) = [f for f in logs.glob("*.json") if json.loads(f.read_text())["run"] == one.id]
            said = result.with_suffix(".log").read_text()
            assert one.id in said
            assert "step 1/" in said
            assert not [r for r in runs_in(tmp_path) if r.arm and r.id != one.id and r.id in said]


def test_what_cannot_be_packed_is_refused_before_anything_runs(scrpo, tmp_path):
    for options, where in (
        ("--vary model.lora.r=4,8", "model.lora.r: 4 and 8"),
        ("--vary rollout.engine=transformers,vllm_server", "rollout.engine: "),
        ("--gpus-per-run 1", "--executor"),
        ("--match seconds --set optim.max_seconds=5", "--match seconds"),
    ):
        code, answer, _ = scrpo(f"ablate --executor packed --reflect-every 5,never {options}")
        assert (code, answer["error"]["exit_code"]) == (2, 2), options
        assert where in answer["error"]["where"], answer
    assert not [r for r in runs_in(tmp_path) if r.arm]


def sweeps_in(tmp_path):
    with Database.open(str(tmp_path / "scrpo.db")) as database:
        return [row.id for row in list_runs(database) if row.command == "ablate"]


def test_a_refused_sweep_leaves_nothing(scrpo, tmp_path):
    code, _, err = scrpo("ablate --executor packed --vary model.lora.r=4,8")
    assert code == 2, err
    assert sweeps_in(tmp_path) == []


def refused(scrpo, options):
    """Where a command line is refused, before it has started a run."""
    code, answer, err = scrpo(f"ablate {options} --executor packed")
    assert code == 2, err
    return answer["error"]["where"]


@pytest.fixture
def interrupted_sweep(tmp_path):
    """The id of a sweep that has started no run yet."""

    def make(*words):
        arms = Varied((), "5,never", (), words, matched="seconds" if words else "tokens")
        with Database.open(str(tmp_path / "scrpo.db")) as database:
            return start_sweep(database, arms.arms(None), 1, match=arms.match).id

    return make


def test_a_sweep_matched_by_seconds_is_not_packed_later_either(scrpo, interrupted_sweep, tmp_path):
    sweep = interrupted_sweep("optim.max_seconds=5")
    assert refused(scrpo, f"--resume {sweep}") == "--match seconds"
    assert not runs_in(tmp_path)


def test_what_is_added_to_a_packed_sweep_has_to_fit(scrpo, interrupted_sweep, tmp_path):
    sweep = interrupted_sweep()
    where = refused(scrpo, f"--extend {sweep} --recipe tiny --set rollout.engine=vllm_server --reflect-every 7")
    assert where == "rollout.engine: 'auto' and 'vllm_server'"
    assert not runs_in(tmp_path)


def job(tmp_path, name, *arguments):
    logs = tmp_path / "logs"
    return Job(name, arguments, logs / f"{name}.json", logs / f"{name}.log", tmp_path)


def train(tmp_path, name, *more):
    sets = [word for word in SHORT.split() if word != "--set"]
    words = [part for key in sets for part in ("--set", key)]
    db = str(tmp_path / "scrpo.db")
    return job(tmp_path, name, "train", "--recipe", "tiny", "--db", db, "--json", *words, *more)


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.mark.parametrize("forced", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_one_that_fails_fails_alone_also_where_logs_are_to_be_terminals(tmp_path, monkeypatch, forced):
    """With these variables set, as they are by many a CI, the process once wrote to itself for ever."""
    monkeypatch.setenv(forced, "1")
    jobs = [train(tmp_path, "good"), train(tmp_path, "bad", "--set", "task.train.path=/nowhere.jsonl")]
    ended = {e.job.name: e for e in PackedExecutor(tmp_path / "packed").run(jobs) if isinstance(e, Finished)}
    assert (ended["good"].exit_code, ended["bad"].exit_code) == (0, 2)
    assert "nowhere" in ended["bad"].error or "nowhere" in (tmp_path / "logs" / "bad.json").read_text()
    assert "\x1b" not in (tmp_path / "logs" / "good.log").read_text()
    assert json.loads((tmp_path / "logs" / "good.json").read_text())["status"] == "done"


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def has(file, text):
    return file.is_file() and text in file.read_text()


LONG = ("--set", "optim.max_generated_tokens=500000")


def test_stopped_runs_save_their_step_and_go_on(tmp_path):
    jobs = [train(tmp_path, f"run{seed}", *LONG, "--seed", str(seed)) for seed in (0, 1)]
    events = PackedExecutor(tmp_path / "packed").run(jobs)
    assert [next(events).name, next(events).name] == ["run0", "run1"]
    (process,) = [p for p in psutil.Process().children() if "--packed" in p.cmdline()]
    until(lambda: all(has(tmp_path / "logs" / f"run{seed}.log", "step 2/") for seed in (0, 1)))
    os.kill(process.pid, signal.SIGTERM)
    ended = list(events)
    assert [e.exit_code for e in ended] == [130, 130]
    assert all("Stopped" in e.error for e in ended)
    assert {run.status for run in runs_in(tmp_path)} == {"interrupted"}
    with Database.open(str(tmp_path / "scrpo.db")) as database:
        assert all(len(steps_of(database, run.id)) >= 2 for run in runs_in(tmp_path))


def test_a_killed_process_is_the_end_of_all_its_runs(tmp_path):
    events = PackedExecutor(tmp_path / "packed").run([train(tmp_path, "run", *LONG)])
    next(events)
    (process,) = [p for p in psutil.Process().children() if "--packed" in p.cmdline()]
    until(lambda: has(tmp_path / "logs" / "run.log", "step 1/"))
    process.kill()
    (ended,) = list(events)
    assert ended.exit_code == -signal.SIGKILL
    assert "packed.log" in ended.error


def test_who_asked_first_has_the_turn_next():
    turn, order = Turn(), []
    turn.take()

    def work(name):
        turn.take()
        order.append(name)
        turn.give()

    threads = []
    for name in range(5):
        threads.append(threading.Thread(target=work, args=(name,)))
        threads[-1].start()
        until(lambda: turn.waiting == len(threads))
    turn.give()
    for thread in threads:
        thread.join()
    assert order == list(range(5))


@pytest.fixture
def engines():
    """Two runs' engines over one base model, with a count of what was sampled."""
    recipe, packing, made = load_recipe("tiny"), Packing(2), []
    for seat in (Seat(packing), Seat(packing)):
        with seat.working():
            policy = seat.policy(recipe)
            made.append(seat.engine(recipe.rollout, policy, {}))
    _seat.set(None)
    return made


SAMPLING = Sampling(1.0, 8)
KEYS = [RowKey(0, 1, "rollout", i) for i in range(4)]


def asked(engine, keys=KEYS, stop=False):
    """What a run gets that has the turn, and how many answers were sampled for it."""
    sampled = []
    engine.seat.stop.asked = stop
    real = engine.inner.generate
    engine.inner.generate = lambda prompts, *rest: sampled.extend(prompts) or real(prompts, *rest)
    try:
        with engine.seat.working():
            return engine.generate([[5, 6, 7 + i] for i in range(4)], SAMPLING, keys), len(sampled)
    finally:
        engine.inner.generate = real
        _seat.set(None)


def test_the_same_question_is_sampled_once(engines):
    one, other = engines
    first, sampled = asked(one)
    assert sampled == 4
    assert asked(other) == (first, 0)
    assert asked(other, [RowKey(0, 2, "rollout", i) for i in range(4)])[1] == 4


def test_another_adapter_is_another_question(engines):
    one, other = engines
    first, _ = asked(one)
    with torch.no_grad():
        other.policy.trainable()[-1].add_(1.0)
    again, sampled = asked(other)
    assert sampled == 4
    assert again != first
    assert asked(one)[0] == first  # its own weights are as they were


def test_the_base_model_is_there_once(engines):
    one, other = (dict(engine.policy.model.named_parameters()) for engine in engines)
    assert one.keys() == other.keys()
    for name, p in one.items():
        assert (p.data_ptr() == other[name].data_ptr()) == (not p.requires_grad), name


def test_a_run_that_is_stopped_samples_no_more(engines):
    with pytest.raises(KeyboardInterrupt):
        asked(engines[0], stop=True)


def test_waiting_is_not_a_runs_own_time():
    packing = Packing(2)
    one, other = Seat(packing), Seat(packing)
    packing.turn.take()
    threading.Timer(0.3, packing.turn.give).start()
    began = own_time()
    with one.working():
        assert own_time() - began < 0.1 < one.waited
    _seat.set(None)
    assert other.waited == 0
