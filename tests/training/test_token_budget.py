"""The last step is cut so that the budget of generated tokens is met, by recorded metrics alone."""

from types import SimpleNamespace

import pytest
from methods.builders import problem

from scrpo_cli.methods.base import Plan
from scrpo_cli.pool.queries import StepMetrics
from scrpo_cli.training import loop
from scrpo_cli.training.budget import cut_to_fit, tokens_per_planned
from scrpo_cli.types import SampleRequest


def step(number: int, tokens: float, planned: float = 8, phase: str = "first") -> StepMetrics:
    return StepMetrics(number, phase, {"rollout/planned": planned, "rollout/tokens": tokens})


def plan(*problems: str, samples: int = 2, phase: str = "first") -> Plan:
    return Plan(phase, [SampleRequest(problem(name), (), samples) for name in problems])


LONGEST = 50


def kept(history: list[StepMetrics], left: float, *problems: str, **fields) -> list[str]:
    return [r.problem.id for r in cut_to_fit(plan(*(problems or "abcd"), **fields), history, left, LONGEST).requests]


TEN = [step(1, 80)]
"""Ten tokens a planned completion, so 20 a problem of two samples."""


@pytest.mark.parametrize(
    ("left", "expected"), [(1, "a"), (20, "a"), (21, "ac"), (40, "ac"), (41, "abc"), (61, "abcd"), (80, "abcd")]
)
def test_the_fewest_problems_that_reach_the_budget_are_kept(left, expected):
    assert kept(TEN, left) == [*expected]


def test_nothing_is_cut_without_a_budget_a_measured_step_or_anything_left():
    assert kept(TEN, float("inf")) == kept([], 1) == kept(TEN, 0) == [*"abcd"]
    older = [StepMetrics(1, "first", {"rollout/tokens": 80.0})]  # recorded before planned completions were
    assert kept(older, 1) == [*"abcd"]
    fit = Plan("fit")
    assert cut_to_fit(fit, TEN, 1, LONGEST) is fit


def test_the_requests_of_a_problem_stay_together():
    """Such as SCoRe's stored first answers, one request each, whose second turns share a baseline."""
    assert kept(TEN, 20, *"aabb", samples=1) == [*"aa"]
    assert kept(TEN, 21, *"abab", samples=1) == [*"aabb"]


def test_the_kinds_of_a_mixed_plan_keep_their_shares():
    assert kept(TEN, 60, *"tttttt") == [*"tttttt"]  # one problem six times
    assert kept(TEN, 60, *"123456") == [*"135"]
    assert kept(TEN, 120, *"uvwxyzRSTUVW") == [*"uwyRTV"]


def test_the_cost_is_that_of_the_last_steps_of_the_phase():
    """With all rounds: what a planned completion cost, however many completions that were."""
    history = [step(i, 8000) for i in range(1, 4)] + [step(i, 80) for i in range(4, 9)]
    assert tokens_per_planned("first", history, LONGEST) == 10
    reflected = [*history, step(9, 480, phase="reflect")]
    assert tokens_per_planned("reflect", reflected, LONGEST) == 60
    assert tokens_per_planned("first", reflected, LONGEST) == 10


def test_a_phase_without_a_step_is_taken_to_cost_the_most_it_can():
    """A correction is longer than a first answer: the first reflection step as the last one went 8% over the budget."""
    assert tokens_per_planned("reflect", TEN, LONGEST) == LONGEST
    assert tokens_per_planned("reflect", [], LONGEST) == 0
    assert kept(TEN, 3 * LONGEST, phase="reflect") == [*"ac"]


def validated(monkeypatch, totals: list[float], **cfg) -> list[str]:
    """The labels of the evaluations of a run that has generated so many tokens after its steps."""
    labels: list[str] = []
    monkeypatch.setattr(loop, "evaluate", lambda run, label: labels.append(label))
    history = [StepMetrics(i, "first", {"tokens/total": total}) for i, total in enumerate(totals, start=1)]
    for step in range(len(totals) + 1):
        progress = SimpleNamespace(step=step, generated_tokens=totals[step - 1] if step else 0)
        recipe = SimpleNamespace(eval=SimpleNamespace(**{"every": None, "every_tokens": None} | cfg))
        loop.validate_if_due(SimpleNamespace(progress=progress, recipe=recipe), history[:step])
    return labels


def test_validation_after_the_step_that_reaches_each_multiple(monkeypatch):
    totals = [40.0, 100.0, 130.0, 350.0, 350.0, 400.0]
    assert validated(monkeypatch, totals, every_tokens=100) == ["step2", "step4", "step6"]
    assert validated(monkeypatch, totals, every_tokens=30) == ["step1", "step2", "step3", "step4", "step6"]
    assert validated(monkeypatch, totals, every_tokens=100, every=3) == ["step2", "step3", "step4", "step6"]
    assert validated(monkeypatch, totals) == []
