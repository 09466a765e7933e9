"""`scrpo audit`: correct the same errors with their reflection, with another one, with less of it and without.

Batches are stored and taken up again as those of `scrpo advise`. Attempts of a condition have its name as their part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.audit import AGAIN, CONDITIONS, CUT, FOREIGN, OTHER, OWN, RETRY, WAIT, Condition, audit
from scrpo_cli.evaluation.outcomes import padded
from scrpo_cli.jobs.advise import Report, batches, chosen_problems, errors_to_show, first_requests, sample_all
from scrpo_cli.jobs.runs import ActiveRun, note_fingerprint
from scrpo_cli.methods.scrpo import corrections_of_an_error
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of
from scrpo_cli.rollout.prompts import reflection_request
from scrpo_cli.rollout.segments import solution_start
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.types import Attempt, Group, PoolEntry, SampleRequest

PHASE = "audit"
FIRST = "first"
"""The part of the first answers whose errors are corrected."""


@dataclass(frozen=True)
class Error:
    """An error, and the conversation in which it is corrected: N of them, one a problem."""

    entry: PoolEntry
    request: SampleRequest


def sample_and_audit(db: Database, run: ActiveRun, report: Report) -> dict[str, Any]:
    """What the run's `problems` ask for, for the run's summary."""
    with open_runtime(run.recipe, run.run_id) as runtime:
        note_fingerprint(db, run, runtime.chat)
        problems = chosen_problems(run, runtime, report)
        sampler = Sampler(db, run, runtime, report)
        firsts = sampler.groups(FIRST, "first answers", first_requests(runtime, problems))
        errors = shown_errors(runtime, firsts)
        own = sampler.groups(OWN, "with their own reflection", [error.request for error in errors])
        found = {OWN: sampler.condition(own)}
        for part, requests in conditions(runtime, errors, own).items():
            found[part] = sampler.condition(sampler.groups(part, CONDITIONS[part], requests))
    return {"run": run.run_id, "problems": len(problems), **audit(found)}


def shown_errors(runtime: Runtime, firsts: Sequence[Group]) -> list[Error]:
    """One error of each problem that has one. UserError for fewer than two: there is no other one to compare with."""
    samples = corrections_of_an_error(runtime.recipe.method, runtime.recipe.rollout.group_size)
    entries = [PoolEntry.of(error) for error, _ in errors_to_show(firsts, runtime.recipe).values()]
    if len(entries) < 2:
        what = f"An audit compares errors of several problems, and the model made {len(entries)} on {len(firsts)}."
        raise UserError(what, "--problems", "Ask more problems, or harder ones.")
    return [Error(entry, shown(runtime, entry, samples)) for entry in entries]


def shown(runtime: Runtime, entry: PoolEntry, samples: int) -> SampleRequest:
    return reflection_request(runtime.task, runtime.chat, runtime.recipe.task, entry, samples)


def conditions(runtime: Runtime, errors: Sequence[Error], own: Sequence[Group]) -> dict[str, list[SampleRequest]]:
    """The requests of every condition but `own`; each reflection that was sampled there is given once."""
    given = [[reflection(runtime, a) for a in group.attempts] for group in own]
    next_one = [*given[1:], given[0]]
    marker = runtime.recipe.task.reflection
    waiting = f"{marker.analysis}\nWait\n{marker.solution}"

    def begun(texts: Sequence[Sequence[str]]) -> list[SampleRequest]:
        return [
            replace(error.request, samples=1, begun=text)
            for error, each in zip(errors, texts, strict=True)
            for text in each
        ]

    def other(error: Error, its: Error) -> SampleRequest:
        entry = replace(error.entry, response=its.entry.response, extracted=its.entry.extracted)
        return shown(runtime, entry, error.request.samples)

    retries = first_requests(runtime, [error.entry.problem for error in errors])
    return {
        AGAIN: begun(given),
        FOREIGN: begun(next_one),
        CUT: begun([[half(text, marker.solution) for text in each] for each in given]),
        WAIT: [replace(error.request, begun=waiting) for error in errors],
        RETRY: [replace(r, samples=error.request.samples) for error, r in zip(errors, retries, strict=True)],
        OTHER: [*map(other, errors, [*errors[1:], errors[0]])],
    }


def reflection(runtime: Runtime, correction: Attempt) -> str:
    """A correction up to and with the solution marker; all of it with a marker where it has none."""
    cfg, text = runtime.recipe.task.reflection, correction.completion.text
    start = solution_start(runtime.chat.prefill + text, cfg)
    if start is None:
        return f"{text.rstrip()}\n{cfg.solution}"
    return text[: start - len(runtime.chat.prefill)]


def half(reflection: str, marker: str) -> str:
    """The first half of its lines before the marker, or of its words where it is one line, and the marker."""
    *lines, last = reflection.split("\n")
    body = [*lines, last.removesuffix(marker)] if last != marker else lines
    if len(body) > 1:
        return "\n".join([*body[: (len(body) + 1) // 2], marker])
    words = body[0].split(" ") if body else []
    return "\n".join(filter(None, [" ".join(words[: len(words) // 2]), marker]))


class Sampler:
    """Samples one part after the other; the steps of a run count on."""

    def __init__(self, db: Database, run: ActiveRun, runtime: Runtime, report: Report) -> None:
        self.db, self.run, self.runtime, self.report = db, run, runtime, report
        self.step = 1

    def groups(self, part: str, what: str, requests: Sequence[SampleRequest]) -> list[Group]:
        """A group for each problem, in the order in which they are asked."""
        recipe = self.runtime.recipe
        rows = recipe.optim.prompts_per_step * recipe.rollout.group_size
        size = max(1, rows // requests[0].samples)  # a given beginning has one answer, and a batch as many rows
        sample_all(self.db, self.run, self.runtime, requests, self.step, what, self.report, PHASE, part, size)
        self.step += batches(len(requests), recipe, size)
        asked: dict[tuple[str, str], tuple[SampleRequest, list[Attempt]]] = {}
        for request in requests:
            asked.setdefault((request.problem.source, request.problem.id), (request, []))
        for attempt in attempts_of(self.db, self.run.run_id, phase=PHASE, part=part):
            asked[attempt.problem.source, attempt.problem.id][1].append(attempt)
        return [Group(request, sorted(attempts, key=in_order)) for request, attempts in asked.values()]

    def condition(self, groups: Sequence[Group]) -> Condition:
        """What became of the corrections; a given reflection was generated once, and counts."""
        tokens = [self.tokens(group) for group in groups]
        return Condition(padded([[a.outcome for a in group.attempts] for group in groups]), padded(tokens))

    def tokens(self, group: Group) -> list[int]:
        asked = len(self.runtime.chat.prompt(replace(group.request, begun="")))
        return [len(a.completion.prompt_ids) - asked + len(a.completion.ids) for a in group.attempts]


def in_order(attempt: Attempt) -> tuple[int, ...]:
    """Ids end with step, part, group and sample; parts are named alike."""
    return tuple(int(word) for word in attempt.id.split(":")[1:] if word.isdigit())
