"""The last step is cut to fit the budget of generated tokens, so that runs of different methods spend the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scrpo_cli.methods.base import Plan
from scrpo_cli.pool.queries import StepMetrics
from scrpo_cli.types import SampleRequest

RECENT = 5
"""Steps whose cost is taken as that of the next one: answers get longer or shorter while a run learns."""
PLANNED, TOKENS = "rollout/planned", "rollout/tokens"


def cut_to_fit(plan: Plan, history: Sequence[StepMetrics], left: float, longest: int) -> Plan:
    """`plan` with as few of its problems as are expected to generate the `left` tokens, at least one. Completions have
    at most `longest` tokens.

    A problem keeps all of its requests, so that no group loses its baseline, and those kept are spread evenly over the
    plan, so that a plan of several kinds keeps their shares. What a problem costs is what the last steps of the same
    phase cost, with their later rounds (second turns, retries, resampled groups): a function of recorded metrics alone,
    so that a resumed run cuts the same. The first step of a phase is cut as if its completions were the longest there
    are (a correction is several times as long as a first answer); the step after it takes what is left. Nothing is cut
    where no step has been measured, or where the method goes on after the budget is spent.
    """
    cost = tokens_per_planned(plan.phase, history, longest)
    if not plan.requests or not cost or left <= 0:
        return plan
    problems = by_problem(plan.requests)
    share = left / (cost * sum(request.samples for request in plan.requests))
    if share >= 1:
        return plan
    count = math.ceil(share * len(problems))
    kept = [problems[i * len(problems) // count] for i in range(count)]
    return replace(plan, requests=[request for requests in kept for request in requests])


def tokens_per_planned(phase: str, history: Sequence[StepMetrics], longest: int) -> float:
    """What a completion that a plan asks for comes to, with what the method asks on top of it: the mean of the last
    steps of the phase, `longest` where only others are known, 0 where nothing is.
    """
    known = [step for step in history if step.metrics.get(PLANNED)]
    recent = [step.metrics for step in known if step.phase == phase][-RECENT:]
    if not recent:
        return float(longest) if known else 0.0
    planned = sum(metrics[PLANNED] or 0.0 for metrics in recent)
    return sum(metrics[TOKENS] or 0.0 for metrics in recent) / planned


def by_problem(requests: Sequence[SampleRequest]) -> list[list[SampleRequest]]:
    found: dict[tuple[str, str], list[SampleRequest]] = {}
    for request in requests:
        found.setdefault((request.problem.source, request.problem.id), []).append(request)
    return [*found.values()]
