"""A run's evaluations as logs of Inspect, which `inspect view` shows: a log for each evaluation, a sample for each
first answer (the epochs of a problem), later turns and repairs as further messages, and our numbers with their
intervals as metadata (docs/exports.md). Needs inspect-ai, which nothing else imports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import CORRECT, INCORRECT, Score

from scrpo_cli.evaluation.outcomes import REPAIR, Answers, flat, read_answers
from scrpo_cli.files import file_stem, write_atomically
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StoredEvaluation
from scrpo_cli.recipe.benchmark import EvalPlan
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.types import Attempt, AttemptKind, FinishReason, Message, Problem

STOPS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "max_tokens", FinishReason.UNKNOWN: "unknown"}
FOLLOW_UPS = {
    AttemptKind.CHECK: "check_prompt",
    AttemptKind.RETRY: "retry_prompt",
    AttemptKind.FEEDBACK: "feedback_prompt",
    AttemptKind.REFINE: "refine_prompt",
    AttemptKind.SELF_VERDICT: "verdict_prompt",
}
"""The key of `task` that asks for an attempt after an earlier answer."""
OF_TURNS = {"t2": "accuracy"} | {key: key for key in ("delta", "i2c", "c2i", "fix_rate", "changed")}
"""Our estimates of a second turn, and what they are called among its metrics."""


@dataclass(frozen=True)
class Asked:
    """What a model was asked, problem by problem, as the recipe phrases it."""

    first: Mapping[tuple[str, str], Sequence[Message]]
    cfg: TaskConfig | None
    """None for external responses: nobody knows how those were asked for."""
    prefill: str = ""

    @classmethod
    def of(cls, run: RunRow, evaluation: StoredEvaluation, problems: Sequence[Problem]) -> Asked:
        cfg = task_of(run, evaluation)
        if cfg is None:
            return cls({key_of(p): [{"role": "user", "content": p.text}] for p in problems}, None)
        with closing(make_task(cfg)) as task:
            first = {key_of(p): task.messages(p) for p in problems}
        return cls(first, cfg, (evaluation.metrics.get("protocol") or {}).get("prefill", ""))

    def again(self, attempt: Attempt) -> str:
        """What stands between an answer and the attempt that follows it."""
        if self.cfg is None:
            return f"({attempt.kind.value})"
        if attempt.kind in FOLLOW_UPS:
            return getattr(self.cfg, FOLLOW_UPS[attempt.kind])
        return self.cfg.reflection_request(attempt.problem.answer)


def task_of(run: RunRow, evaluation: StoredEvaluation) -> TaskConfig | None:
    """How the problems were phrased: as the benchmark says, or a training run's recipe."""
    if run.command != "eval":
        return stored_recipe(run.recipe_json, run.origin).task
    if planned := json.loads(run.summary_json).get("options", {}).get("plan"):
        benchmarks = EvalPlan.read(planned).benchmarks
        if evaluation.benchmark in benchmarks:
            return benchmarks[evaluation.benchmark].task
        return stored_recipe(run.recipe_json, run.origin).task  # the fit of a gate, on task.validation
    return None


def write_logs(db: Database, run: RunRow, evaluations: Sequence[StoredEvaluation], folder: Path) -> tuple[int, int]:
    """A file of `folder` for each evaluation; how many logs and samples."""
    samples = 0
    for evaluation in evaluations:
        log = log_of(run, evaluation, read_answers(db, run.id, evaluation.phase))
        with write_atomically(folder / f"{run.id}_{file_stem(evaluation.name)}.eval") as path:
            write_eval_log(log, str(path), format="eval")
        samples += len(log.samples or [])
    return len(evaluations), samples


def log_of(run: RunRow, evaluation: StoredEvaluation, answers: Answers) -> EvalLog:
    """One evaluation, whole."""
    asked = Asked.of(run, evaluation, [row[0].problem for row in answers.first])
    samples = list(samples_of(answers, asked, names_of(answers), run.model))
    problems, epochs = len(answers.first), max((s.epoch for s in samples), default=1)
    protocol = evaluation.metrics.get("protocol") or {}
    spec = EvalSpec(
        created=run.created_at,
        task=evaluation.name,
        task_id=f"{run.id}-{file_stem(evaluation.name)}",
        run_id=run.id,
        dataset=EvalDataset(name=evaluation.benchmark, samples=problems, sample_ids=[*{s.id: 0 for s in samples}]),
        model=run.model or "unknown",
        model_generate_config=GenerateConfig(**{k: protocol.get(k) for k in ("temperature", "top_p", "max_tokens")}),
        config=EvalConfig(epochs=epochs, epochs_reducer=["mean"]),
        packages={"scrpo-cli": run.scrpo_version},
        metadata=about(run, evaluation),
        tags=[tag for tag in (run.recipe_name, run.arm) if tag],
    )
    results = EvalResults(
        total_samples=len(samples),
        completed_samples=len(samples),
        scores=list(scores_of(answers, evaluation.metrics)),
    )
    stats = EvalStats(started_at=run.created_at, completed_at=run.finished_at or "")
    return EvalLog(status="success", eval=spec, results=results, stats=stats, samples=samples)


def about(run: RunRow, evaluation: StoredEvaluation) -> dict[str, Any]:
    """All that was measured, with its intervals and the protocol, and where it is from."""
    known = {key: getattr(run, key) for key in ("recipe_name", "seed", "sweep", "arm", "git_commit")}
    return {"run": run.id, **known, "step": evaluation.step, "label": evaluation.label, "metrics": evaluation.metrics}


# --- samples ------------------------------------------------------------------------------------------------------


def key_of(problem: Problem) -> tuple[str, str]:
    return problem.source, problem.id


def names_of(answers: Answers) -> dict[tuple[str, str], str]:
    """The problems' ids; with their source where two of them have the same."""
    problems = [row[0].problem for row in answers.first]
    unique = len({p.id for p in problems}) == len(problems)
    return {key_of(p): p.id if unique else f"{p.source}/{p.id}" for p in problems}


def samples_of(
    answers: Answers, asked: Asked, names: Mapping[tuple[str, str], str], model: str
) -> Iterator[EvalSample]:
    """A sample for each first answer, with what followed it."""
    extra: dict[str | None, list[Attempt]] = {}
    for attempt in (*answers.repairs, *answers.asked):
        extra.setdefault(attempt.parent, []).append(attempt)
    later = zip(*answers.later, strict=True) if answers.later else ((),) * len(flat(answers.first))
    for first, turns in zip(flat(answers.first), later, strict=True):
        yield sample_of(names[key_of(first.problem)], [first, *turns, *extra.get(first.id, [])], asked, model)


def sample_of(name: str, attempts: Sequence[Attempt], asked: Asked, model: str) -> EvalSample:
    """`output` is the first answer, which our accuracy is about; the messages go on to the last one."""
    first = attempts[0]
    messages = [as_message(m) for m in asked.first[key_of(first.problem)]]
    for attempt in attempts:
        if attempt is not first:
            messages.append(ChatMessageUser(content=asked.again(attempt), id=f"{attempt.id}:asked"))
        messages.append(answer_of(attempt, asked.prefill, model))
    sampled = [len(a.completion.ids) for a in attempts]
    usage = ModelUsage(output_tokens=sum(sampled), input_tokens=sum(len(a.completion.prompt_ids) for a in attempts))
    return EvalSample(
        id=name,
        epoch=first.sample + 1,
        input=first.problem.text,
        target=first.problem.answer,
        messages=messages,
        output=output_of(first, asked.prefill, model),
        scores={a.part: score_of(a) for a in attempts if a.kind.answers},
        metadata={"source": first.problem.source, **json.loads(json.dumps(dict(first.problem.meta), default=str))},
        model_usage={model or "unknown": usage},
        uuid=first.id,
    )


def output_of(first: Attempt, prefill: str, model: str) -> ModelOutput:
    message = answer_of(first, prefill, model)
    return ModelOutput(
        model=model, choices=[ChatCompletionChoice(message=message, stop_reason=STOPS[first.completion.finish])]
    )


def as_message(message: Message) -> ChatMessage:
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return kinds[message["role"]](content=message["content"])


def answer_of(attempt: Attempt, prefill: str, model: str) -> ChatMessageAssistant:
    facts: dict[str, Any] = {
        "part": attempt.part,
        "kind": attempt.kind.value,
        "verdict": attempt.grade.verdict.value,
    }
    facts |= {"tokens": len(attempt.completion.ids), "finish": attempt.completion.finish.value}
    content = prefill + attempt.completion.text
    return ChatMessageAssistant(content=content, source="generate", model=model, id=attempt.id, metadata=facts)


def score_of(attempt: Attempt) -> Score:
    """Correct or incorrect; what no average of ours counts is not scored there either."""
    grade = attempt.grade
    facts = {"verdict": grade.verdict.value, "grader": grade.grader}
    if isnan(attempt.outcome):
        reason = grade.verdict.value
        return Score.unscored(reason=reason, answer=grade.extracted, explanation=grade.reason, metadata=facts)
    value = CORRECT if attempt.outcome else INCORRECT
    return Score(value=value, answer=grade.extracted, explanation=grade.reason, metadata=facts)


# --- numbers ------------------------------------------------------------------------------------------------------


def scores_of(answers: Answers, metrics: Mapping[str, Any]) -> Iterator[EvalScore]:
    """The numbers of each part that answers the problems, under the name that its scores have."""
    first, *later = answers.turns
    yield score(first, first_numbers(metrics))
    for turn, attempts in enumerate(later, start=1):
        numbers = [estimated(name, metrics.get(key)) for key, name in OF_TURNS.items()] if turn == 1 else []
        if turn > 1:
            numbers = [estimated("accuracy", metrics["turns"]["accuracy"][turn])]
        if turn == 1 and not answers.repairs:  # the second turn was the repair
            numbers.append(estimated("repair_rate", metrics.get("repair_rate")))
        yield score(attempts, numbers)
    if answers.repairs:
        yield score(answers.repairs, [estimated("repair_rate", metrics.get("repair_rate"))])


def first_numbers(metrics: Mapping[str, Any]) -> list[EvalMetric | None]:
    found = [numbered("accuracy", metrics["avg"], metrics.get("ci95"))]
    for key, name in (("pass_at", "pass"), ("maj_at", "maj")):
        ends = metrics.get(f"{key}_ci95") or {}
        found += [numbered(f"{name}@{k}", v, ends.get(k)) for k, v in (metrics.get(key) or {}).items() if int(k) > 1]
    return [*found, numbered("truncated", metrics.get("truncated"), metrics.get("truncated_ci95"))]


def estimated(name: str, number: Mapping[str, Any] | None) -> EvalMetric | None:
    """A {"value", "ci95"} of ours."""
    return numbered(name, number["value"], number.get("ci95")) if number else None


def numbered(name: str, value: float | None, ci95: Sequence[float] | None) -> EvalMetric | None:
    """A number with its 95% interval, clustered by problem; None where it is not defined."""
    if value is None:
        return None
    return EvalMetric(name=name, value=value, metadata={"ci95": [*ci95]} if ci95 else None)


def score(attempts: Sequence[Attempt], numbers: Sequence[EvalMetric | None]) -> EvalScore:
    counted = sum(not isnan(a.outcome) for a in attempts)
    part = attempts[0].part if attempts else REPAIR
    return EvalScore(
        name=part,
        scorer=part,
        scored_samples=counted,
        unscored_samples=len(attempts) - counted,
        metrics={number.name: number for number in numbers if number},
    )
