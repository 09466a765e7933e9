"""The measurement takes a micro-step of everything by the code of a run, and leaves nothing behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from scrpo_cli.errors import UserError
from scrpo_cli.jobs import limits, measure, meter
from scrpo_cli.jobs.budget import Budget, estimate
from scrpo_cli.jobs.extrapolate import Measured
from scrpo_cli.jobs.forecast import forecast
from scrpo_cli.jobs.meter import Meter
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Around, Engine
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.session import Session
from scrpo_cli.types import Completion

SMALL = [
    "model.threads=1",
    "task.train.limit=20",
    "task.validation.limit=4",
    "task.test.limit=4",
    "rollout.max_tokens=24",
    "rollout.group_size=2",
    "rollout.batch_size=4",
    "optim.prompts_per_step=4",
    "optim.tokens_per_microbatch=64",
    "eval.samples=2",
]


def recipe(name: str, *sets: str) -> Recipe:
    return load_recipe(name, [*SMALL, *sets])


def measured(cfg: Recipe) -> tuple[Measured, Budget]:
    budget = estimate(cfg)
    return measure.measure(cfg, budget), budget


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRPO_DB", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Policy, str]]:
    """The policies that are opened, and the hashes of their adapters then."""
    found: list[tuple[Policy, str]] = []

    def opened(*args: object, **options: object) -> Session:
        session = open_session(*args, **options)  # type: ignore[arg-type]
        found.append((session.policy, session.policy.adapter_hash()))
        return session

    open_session = measure.open_session
    monkeypatch.setattr(measure, "open_session", opened)
    return found


def test_a_step_of_each_kind_and_an_evaluation(policies: list[tuple[Policy, str]]) -> None:
    cfg = recipe("tiny", "optim.max_generated_tokens=2000")
    found, budget = measured(cfg)
    first, reflect = found.phases
    assert (first.name, first.rows, first.whole) == ("first", 4, 2)  # of 4 problems x 2 answers
    assert (reflect.name, reflect.rows, reflect.whole) == ("reflect", 4, 2)
    assert reflect.prompt_tokens > first.prompt_tokens  # it shows the first answer
    assert set(first.seconds) == {"sampling", "grading", "update", "storing"}
    assert 1 <= first.length(24) <= 24
    assert found.evaluation is not None
    assert (found.evaluation.name, found.evaluation.whole) == ("task.test", 2)
    assert found.evaluation.rows >= 4  # repairs of wrong answers come after
    assert (found.long.rows, found.long.context) == (4, budget.context)
    assert min(found.long.prefill, found.update_token, found.checkpoint, found.start) > 0
    assert found.row_bytes > 4  # ids and packed log-probs are stored with the text
    assert set(found.peaks) == {"sampling", "evaluation", "update"}
    assert 100 * 2**20 < max(found.peaks.values()) < found.memory
    ((policy, before),) = policies
    assert (policy.adapter_hash(), policy.version) == (before, 0)
    run = forecast(cfg, budget, found)
    assert run.slowest.generated_tokens == 2000
    assert run.at_cap.all_seconds >= run.slowest.all_seconds > 0


class Queues(Around):
    """An engine that fills freed slots by itself, and takes a while to rest and to go on."""

    seconds = 0.2

    def __init__(self, inner: Engine, happened: list[str]) -> None:
        super().__init__(inner)
        self.has_own_weights, self.happened = True, happened

    def generate(self, *asked: Any) -> list[Completion]:
        self.happened.append(f"sampling {len(asked[0])}")
        return self.inner.generate(*asked)

    @contextmanager
    def resting(self) -> Iterator[None]:
        time.sleep(self.seconds)
        self.happened.append("resting")
        yield
        self.happened.append("awake")
        time.sleep(self.seconds)


def test_an_engine_with_a_queue_gets_all_rows_and_rests_during_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    open_session = measure.open_session

    @contextmanager
    def opened(*args: Any, **options: Any) -> Iterator[Session]:
        with open_session(*args, **options) as session:
            session.engine = Queues(session.engine, happened)
            update = session.updater.update
            monkeypatch.setattr(session.updater, "update", lambda *a: happened.append("update") or update(*a))
            yield session

    monkeypatch.setattr(measure, "open_session", opened)
    found, _ = measured(recipe("tiny", "optim.max_generated_tokens=2000"))
    first, reflect = found.phases
    assert (first.rows, first.whole, reflect.whole) == (8, 1, 1)  # the whole step: 4 problems x 2 answers
    assert "sampling 8" in happened
    resting, awake = happened.index("resting"), happened.index("awake")
    assert set(happened[resting:awake]) == {"resting", "update"}
    assert "update" not in happened[:resting] + happened[awake:]
    assert found.sync > 2 * Queues.seconds


def test_a_conversation_is_measured_with_its_turns() -> None:
    cfg = recipe("compare/score", "optim.max_generated_tokens=2000", "eval.turns=2")
    (turns,) = measured(cfg)[0].phases
    assert (turns.rows, turns.whole) == (8, 2)  # 4 first answers of 8, and a second one to each


@pytest.mark.parametrize(("name", "rows"), [("dpo", 4), ("star", 8)])  # star: with second answers
def test_a_method_that_fits_what_it_collected(name: str, rows: int) -> None:
    cfg = recipe(f"compare/{name}", "optim.max_generated_tokens=2000", "method.batch=8", "eval.limit=1")
    collect, fit = measured(cfg)[0].phases
    assert "update" not in collect.seconds
    assert fit.tokens == 0
    assert fit.rows == rows
    assert fit.whole == 8 / (rows / (2 if name == "dpo" else 1))
    assert fit.seconds["update"] > 0


def test_first_answers_and_reflections_of_one_step() -> None:
    cfg = recipe("tiny", "method.stage2.step=joint", "task.test=null", "task.validation=null")
    found = measured(cfg)[0]
    assert [part.name for part in found.phases] == ["first", "joint"]
    assert found.phases[1].whole == 4  # 8 first answers and 8 corrections, of which 4 were sampled
    assert found.evaluation is None


def test_what_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 1e-6)
    found = measured(recipe("tiny", "method.reflect_every=never"))[0]
    (first,) = found.phases
    assert first.limit == measure.SHORTEST == 16
    assert first.cut > 0
    assert first.length(24) > first.tokens / first.rows
    assert found.long.rows == 2  # one group


def test_recorded_runs_are_not_sampled_again() -> None:
    cfg = recipe("compare/dpo", "method.runs=[some]")
    with pytest.raises(UserError, match="learns from recorded runs") as refused:
        measure.measure(cfg, estimate(cfg))
    assert refused.value.where == "method.runs: some"


def test_too_little_memory_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: 10 * 2**20)
    monkeypatch.setattr(limits, "free_memory", lambda device: 10 * 2**20)
    cfg = recipe("tiny", "rollout.batch_size=1024", "optim.prompts_per_step=512")
    with pytest.raises(UserError, match="Nothing was measured") as refused:
        measure.measure(cfg, estimate(cfg))
    assert "--set rollout.batch_size=" in refused.value.fix


def test_a_cuda_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on after the call that started them: without a wait the seconds would be those of the launch."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: order.append("reset"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 250)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 230)
    ticks = iter([1.0, 3.5])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(ticks))
    gauge = Meter("cuda")
    assert gauge(lambda: order.append("work"), "update")[1] == 2.5
    assert order == ["wait", "reset", "work", "wait"]
    assert gauge.peaks == {"update": 150 + 230}  # 400 are taken, 250 of them ours
    assert gauge.memory == 1000
