"""What a run draws from its pool is what the third schema's program drew: a seed means the same for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scrpo_cli.methods.base import MethodContext, Setting
from scrpo_cli.methods.scrpo import Scrpo, ScrpoConfig
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import living_entries, record_step
from scrpo_cli.pool.records import StepRecord, injected_model
from scrpo_cli.types import AttemptKind

POOLS = ("one", "two")
# What the program of the third schema drew in steps 9 and 10, and the living entries of a pool at a step.
DRAWN = {
    ("one", "none"): ["7:2:1 2:1:0 7:2:0 8:1:0", "8:1:0 2:2:0 2:1:0 6:2:1"],
    ("one", "problem"): ["2:1:0 7:2:1 7:0:0 8:1:0", "3:0:0 8:1:0 2:2:0 6:0:1"],
    ("one", "answer"): ["6:2:0 6:0:1 3:1:0 7:1:1", "5:1:1 2:2:0 8:1:1 3:0:0"],
    ("two", "none"): ["7:2:1 2:1:1 7:2:0 8:1:0", "8:1:0 3:0:0 2:1:1 6:2:1"],
    ("two", "problem"): ["2:1:1 7:2:1 7:0:0 8:1:0", "6:2:1 8:1:0 3:0:0 3:2:1"],
    ("two", "answer"): ["3:1:1 3:0:1 5:0:1 4:2:1", "6:0:1 3:0:0 4:2:1 3:2:1"],
}
ENTRIES = {
    ("one", None): (41, "b38cefad82ad6600"),
    ("one", 3): (16, "807f4058ebcde833"),
    ("one", 8): (41, "b38cefad82ad6600"),
    ("two", None): (41, "d6f0a69e902fb274"),
    ("two", 3): (16, "211dd9351bef929d"),
    ("two", 8): (41, "d6f0a69e902fb274"),
}


@pytest.fixture
def filled(db: Database, new_run: Callable[..., str], attempt: Callable[..., Any]) -> Database:
    """Two runs with a pool each: errors that wait, some tried, repaired, asked about, retired or injected."""
    rng = np.random.default_rng(5)

    def made(*place: Any, **fields: Any) -> Any:
        found = attempt(*place, **fields)
        length = int(rng.integers(1, 300))
        ids, logprobs = rng.integers(0, 151_936, length), -rng.exponential(1.0, length)
        return replace(found, completion=replace(found.completion, ids=ids.tolist(), logprobs=logprobs.tolist()))

    for pool in POOLS:
        run, waiting = new_run(db, run_id=pool), []
        for step in range(1, 9):
            firsts = [made(run, step, g, s, extracted=str(rng.integers(4))) for g in range(3) for s in range(2)]
            tries = [
                made(run, step, 9 + i, s, verdict, parent=parent, kind=AttemptKind.CORRECTION)
                for i, parent in enumerate(rng.choice(waiting, 3, replace=False) if waiting else ())
                for s, verdict in enumerate(rng.choice(["correct", "wrong", "ungraded"], 4))
            ]
            retired = [(str(rng.choice(waiting)), "evicted")] if waiting else []
            waiting = [a for a in waiting if (a, "evicted") not in retired] + [a.id for a in firsts]
            models = {firsts[0].id: injected_model("early")}
            kept = {a.id: "kept" for a in firsts}
            record_step(db, run, StepRecord(step, "first", [*firsts, *tries], kept, pool, retired, {}, models))
    return db


@pytest.mark.parametrize("diversity", ["none", "problem", "answer"])
@pytest.mark.parametrize("pool", POOLS)
def test_draws_are_those_that_were_recorded(filled: Database, pool: str, diversity: str) -> None:
    numbers = {"prompts_per_step": 4, "group_size": 2, "max_tokens": 8, "max_prompt_tokens": 16, "shown_tokens": 8}
    texts = {"reflect_prompt": "", "check_prompt": "", "steps": 9, "token_budget": None, "minibatches": 1}
    prompts = SimpleNamespace(
        reflection=lambda entry, samples: entry.attempt_id, error_kinds=False, opens_thought=False
    )
    context = MethodContext(Setting(**numbers, **texts, seed=3, count_tokens=len), prompts, None, lambda cfg: None)
    method = Scrpo(ScrpoConfig(pool={"diversity": diversity}), context)
    drawn = [method.reflection_plan(step, living_entries(filled, pool)).requests for step in (9, 10)]
    assert [" ".join(each.removeprefix(f"{pool}:") for each in names) for names in drawn] == DRAWN[pool, diversity]


def test_entries_are_those_that_were_recorded(filled: Database) -> None:
    for (pool, step), (count, digest) in ENTRIES.items():
        found = living_entries(filled, pool, step)
        said = [(e.attempt_id, e.uses, e.repairs, e.injected, e.extracted, mean(e.confidence)) for e in found]
        assert (len(found), hashlib.sha256(repr(said).encode()).hexdigest()[:16]) == (count, digest)


def mean(confidence: float | None) -> str:
    """To the digits that do not depend on the order of a sum."""
    return "" if confidence is None else f"{confidence:.4f}"
