"""ScRPO's gate: which pooled errors a reflection step may draw."""

from dataclasses import replace

from methods.builders import context, entry
from methods.test_methods import FakePrompts

from scrpo_cli.methods.parts.pool import PoolGateConfig, worth_reflecting
from scrpo_cli.methods.scrpo import Scrpo, ScrpoConfig

GATE = {"signal": "mean_logprob", "threshold": -0.5}
SURE, UNSURE, UNKNOWN = (replace(entry(n), confidence=c) for n, c in (("s", -0.1), ("u", -0.9), ("k", None)))


def test_sure_errors_are_kept_out_and_unknown_ones_are_not():
    gate = PoolGateConfig(**GATE)
    assert [worth_reflecting(e, gate) for e in (SURE, UNSURE, UNKNOWN)] == [False, True, True]
    assert worth_reflecting(replace(SURE, confidence=-0.5), gate) is False  # below, not at
    assert all(worth_reflecting(e, PoolGateConfig()) for e in (SURE, UNSURE, UNKNOWN))


def test_reflection_steps_draw_what_the_gate_lets_through():
    cfg = ScrpoConfig(trigger={"mode": "pool_size", "size": 2}, gate=GATE)
    method = Scrpo(cfg, context(FakePrompts(), group_size=2))
    plan = method.plan(1, [SURE, UNSURE, UNKNOWN])
    assert plan.phase == "reflect"
    assert {a.parent.attempt_id for a in plan.requests} == {UNSURE.attempt_id, UNKNOWN.attempt_id}
    assert method.plan(1, [SURE, UNSURE]).phase == "first"  # one usable error does not fire a trigger of two
