"""An engine with weights of its own that samples from wrong ones is found out at the sync, and not in the reward."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from training.tiny_policy import moved, random_policy

from scrpo_cli.errors import RunError
from scrpo_cli.rollout.base import Synced
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.probe import Probe


class Copy(TransformersEngine):
    """Samples from a copy of the policy, which `sync` brings up to date, as far as `scale` and `works` let it."""

    has_own_weights = True

    def __init__(self, policy: Policy) -> None:
        self.original, self.works, self.scale = policy, True, 1.0
        super().__init__(Policy(copy.deepcopy(policy.model), policy.tokenizer))

    def sync(self) -> Synced:
        names = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, p in self.original.model.named_parameters():
                if p.requires_grad and self.works:
                    names[name].copy_(self.scale * p if "lora_B" in name else p)
        return Synced()


@pytest.fixture
def policy() -> Policy:
    return random_policy(3)


def synced(engine: Any, probe: Probe) -> dict[str, float]:
    engine.sync()
    return probe.check()


def test_an_engine_that_follows_is_let_through(policy: Policy) -> None:
    engine = Copy(policy)
    probe = Probe(engine, policy)
    assert synced(engine, probe).keys() == {"sync/gap"}
    moved(policy)
    found = synced(engine, probe)
    assert found["sync/gap"] < 1e-5
    assert found["sync/moved"] == pytest.approx(found["sync/trainer_moved"], rel=1e-3)
    assert found["sync/moved"] > 1e-3


def test_a_stale_adapter_stops(policy: Policy) -> None:
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    engine.works = False
    moved(policy)
    with pytest.raises(RunError, match="samples from old weights"):
        synced(engine, probe)


def test_an_update_too_small_to_be_seen_stops_nothing(policy: Policy) -> None:
    """A bfloat16 engine may round all of it away."""
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    engine.works = False
    moved(policy, 1e-7)
    assert synced(engine, probe)["sync/moved"] == 0


def test_updates_too_small_to_be_seen_are_seen_together(policy: Policy) -> None:
    """Each moves less than the tolerance; an engine that missed all of them is found out when their sum does."""
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    engine.works = False
    for _ in range(3):
        moved(policy, 1e-5)
        synced(engine, probe)

    def onwards() -> None:
        for _ in range(50):
            moved(policy, 1e-5)
            synced(engine, probe)

    with pytest.raises(RunError, match="samples from old weights"):
        onwards()


def test_what_an_engine_follows_does_not_add_up(policy: Policy) -> None:
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    for _ in range(20):
        moved(policy, 1e-3)
        assert synced(engine, probe)["sync/moved"] > 0


@pytest.mark.parametrize("scale", [2.0, 0.0, 0.5])
def test_an_adapter_that_is_scaled_twice_or_is_not_there_stops(policy: Policy, scale: float) -> None:
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    engine.scale = scale
    with pytest.raises(RunError, match="nats from the trainer's on average"):
        synced(engine, probe)


def test_another_adapter_stops(policy: Policy) -> None:
    engine = Copy(policy)
    probe = Probe(engine, policy)
    synced(engine, probe)
    engine.original = random_policy(4)
    moved(policy)
    with pytest.raises(RunError, match="nats from the trainer's on average"):
        synced(engine, probe)


def test_the_score_of_an_engine_is_the_trainers(policy: Policy) -> None:
    probe = Probe(TransformersEngine(policy), policy)
    scores_N = np.concatenate(probe.engine.score(probe.rows), axis=1)[0]
    assert scores_N == pytest.approx(probe.trainer(probe.rows, 1.0), abs=1e-5)


class Raw(Copy):
    """Samples at a temperature, and reports the log-probs at 1, as a server does that is not told otherwise."""

    def generate(self, prompts: Any, sampling: Any, keys: Any) -> Any:
        sampled = super().generate(prompts, sampling, keys)
        scores = self.score([(c.prompt_ids, c.ids) for c in sampled])
        return [dataclasses.replace(c, logprobs=list(own)) for c, (own,) in zip(sampled, scores, strict=True)]


def test_log_probs_of_another_distribution_stop(policy: Policy) -> None:
    engine = Raw(policy)
    assert synced(engine, Probe(engine, policy, 1.0))
    with pytest.raises(RunError, match="log-probs of its own samples are"):
        synced(engine, Probe(engine, policy, 0.5))
