"""Gated reflection with a model: the confidence in its first answers, the fit on the validation split, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.answers import VERDICT, Answers
from scrpo_cli.evaluation.confidence import agreement, answer_logprob, mean_logprob, said, self_verdict
from scrpo_cli.evaluation.gate import GateData, fit_threshold, gate_metrics
from scrpo_cli.evaluation.metrics import padded
from scrpo_cli.evaluation.runner import Evaluation, Evaluator, Start, flat_groups, follow_ups
from scrpo_cli.recipe.models import ProtocolConfig, Recipe
from scrpo_cli.rollout.base import Sampling
from scrpo_cli.rollout.chat import assistant, user
from scrpo_cli.types import Attempt, AttemptKind, PoolEntry, Problem, SampleRequest

VALIDATION = "validation"
"""The name under which the evaluation is stored that a threshold was fitted on."""


@dataclass(frozen=True)
class Fit:
    """A fitted threshold, what the gate does on the problems that it was fitted on, and the evaluation behind it."""

    threshold: float
    metrics: dict[str, Any]
    evaluation: Evaluation


def check_gate(recipe: Recipe, own: ProtocolConfig | None = None) -> None:
    """Refuse a gate that has nothing to decide or nothing to go by, under the benchmark's `own` protocol."""
    protocol = recipe.protocol(own)
    if recipe.eval.gate.signal != "none" and protocol.turns != 2:
        what = "A gate decides on the second turn, and there is none."
        if protocol.turns > 2:
            what = "A gate decides on the second turn alone, and there are more."
        raise UserError(what, f"eval.turns: {protocol.turns}", "Use --turns 2.")
    if recipe.eval.gate.signal == "agreement" and protocol.samples < 2:
        fix = "Ask for more with --samples, or use another signal."
        raise UserError("One answer to a problem always agrees with itself.", "eval.samples: 1", fix)


def check_pool_gate(recipe: Recipe) -> None:
    """Refuse a signal that pooled errors do not have."""
    if recipe.eval.gate.signal == "agreement":
        what = "Agreement needs all answers to a problem, and `correct` looks at single errors."
        raise UserError(what, "eval.gate.signal: agreement", "Use logprob, mean_logprob or verdict.")


def fit_gate(
    evaluator: Evaluator, validation: Sequence[Problem], held_out: Sequence[Sequence[Problem]], prefix: str
) -> Fit:
    """The threshold of `eval.gate` from `validation`; UserError where it shares a problem with what is held out."""
    texts = {p.text for problems in held_out for p in problems}
    if shared := sum(p.text in texts for p in validation):
        raise UserError(
            f"{shared} of {len(validation)} validation problems are benchmark problems as well.",
            "task.validation, on which the gate is fitted",
            "Name another validation split, or give the threshold with --gate-threshold.",
        )
    answers = Answers.of(answer_gated(evaluator, validation, prefix, VALIDATION))
    data = gate_data(evaluator, answers)
    threshold = fit_threshold(data)
    metrics = {"signal": evaluator.recipe.eval.gate.signal, "n": len(validation), **gate_metrics(data, threshold)}
    return Fit(threshold, metrics, Evaluation(evaluator.measure(answers) | {"gate": metrics}, answers))


def validation_problems(recipe: Recipe, evaluator: Evaluator) -> Sequence[Problem]:
    """task.validation, cut at eval.limit; UserError without one."""
    if recipe.task.validation is None:
        fix = "Name a split there, or give the threshold with --gate-threshold."
        raise UserError("A gate is fitted on validation problems, and there are none.", "task.validation", fix)
    return evaluator.task.problems(recipe.task.validation)[: recipe.eval.limit]


def answer_gated(
    evaluator: Evaluator, problems: Sequence[Problem], prefix: str, name: str, start: Start | None = None
) -> list[Attempt]:
    """Everything that an evaluation samples, with what the gate's signal asks of the first answers."""
    start = start or Start()
    first, attempts = evaluator.answer(problems, prefix, name, start)
    if evaluator.recipe.eval.gate.signal != "verdict":
        return attempts
    requests = follow_ups(first, evaluator.recipe.task.verdict_prompt, AttemptKind.SELF_VERDICT)
    before = start.problems * evaluator.protocol.samples
    return [*attempts, *self_verdicts(evaluator, requests, prefix, name, before)]


def measure_gated(evaluator: Evaluator, answers: Answers, threshold: float | None) -> dict[str, Any]:
    """The metrics of an evaluation, with the report of the gate under `gate` where there is one."""
    metrics = evaluator.measure(answers)
    if threshold is None:
        return metrics
    report = gate_metrics(gate_data(evaluator, answers), threshold)
    return metrics | {"gate": {"signal": evaluator.recipe.eval.gate.signal, **report}}


def evaluate_gated(
    evaluator: Evaluator, problems: Sequence[Problem], prefix: str, name: str, threshold: float | None
) -> Evaluation:
    """An evaluation in two turns with the report of the gate under `gate`."""
    answers = Answers.of(answer_gated(evaluator, problems, prefix, name))
    return Evaluation(measure_gated(evaluator, answers, threshold), answers)


def gate_data(evaluator: Evaluator, answers: Answers) -> GateData:
    """Outcomes of both turns, the confidence in the first, and what everything cost."""

    def lengths_NK(attempts: Sequence[Attempt]) -> np.ndarray:
        return padded(answers.nested([len(a.completion.ids) for a in attempts]))

    confidence_NK = confidences(evaluator, answers)
    return GateData(
        answers.outcomes(0),
        answers.outcomes(1),
        confidence_NK,
        lengths_NK(answers.turns[0]),
        np.sum([lengths_NK(turn) for turn in answers.later], axis=0),
        lengths_NK(answers.asked) if answers.asked else np.zeros_like(confidence_NK),
    )


def confidences(evaluator: Evaluator, answers: Answers) -> np.ndarray:
    """(N, K) confidence in the first answers by `eval.gate.signal`."""
    first = answers.turns[0]
    match evaluator.recipe.eval.gate.signal:
        case "logprob":
            values = [answer_logprob(a, evaluator.chat.tokenizer) for a in first]
        case "mean_logprob":
            values = [mean_logprob(a.completion.logprobs) for a in first]
        case "agreement":
            return padded([agreement([a.grade.extracted for a in row]) for row in answers.first])
        case "verdict":
            words = {a.parent: a.grade.extracted for a in answers.asked}
            values = [self_verdict(words[a.id]) for a in first]
        case signal:
            raise ValueError(f"eval.gate.signal: {signal} has no confidence")
    return padded(answers.nested(values))


def pooled_confidences(
    evaluator: Evaluator, entries: Sequence[PoolEntry], attempts: Mapping[str, Attempt], prefix: str
) -> tuple[np.ndarray, list[Attempt]]:
    """(E,) the same for pooled errors, of which only the attempt itself is at hand; NaN where nobody sampled it."""
    tokenizer = evaluator.chat.tokenizer
    sampled = [None if e.injected else attempts[e.attempt_id] for e in entries]
    match evaluator.recipe.eval.gate.signal:
        case "logprob":
            return np.array([np.nan if a is None else answer_logprob(a, tokenizer) for a in sampled]), []
        case "mean_logprob":
            return np.array([np.nan if a is None else mean_logprob(a.completion.logprobs) for a in sampled]), []
        case "verdict":
            requests = [verdict_request(evaluator, e) for e in entries]
            asked = self_verdicts(evaluator, requests, prefix, "pool")
            return np.array([self_verdict(a.grade.extracted) for a in asked]), asked
    raise ValueError(f"a pooled error has no {evaluator.recipe.eval.gate.signal}")


def verdict_request(evaluator: Evaluator, entry: PoolEntry) -> SampleRequest:
    """Is this pooled answer right?"""
    question = [assistant(entry.response), user(evaluator.recipe.task.verdict_prompt)]
    messages = [*evaluator.task.messages(entry.problem), *question]
    return SampleRequest(entry.problem, messages, 1, AttemptKind.SELF_VERDICT, entry)


def self_verdicts(
    evaluator: Evaluator, requests: Sequence[SampleRequest], prefix: str, name: str, before: int = 0
) -> list[Attempt]:
    """Greedy answers to the asks, with what each said, `yes` or `no`, as its extracted answer; they stay ungraded."""
    if not requests:
        return []
    sampling = Sampling(0.0, evaluator.sampling.max_tokens)
    asked = flat_groups(evaluator.sample(requests, prefix, name, VERDICT, before, sampling))
    words = [said(evaluator.chat.prefill + a.completion.text) for a in asked]
    return [replace(a, grade=replace(a.grade, extracted=word)) for a, word in zip(asked, words, strict=True)]
