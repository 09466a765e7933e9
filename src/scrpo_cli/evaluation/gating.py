"""Gated reflection with a model: the confidence in its first answers, the fit on the validation split, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.confidence import agreement, answer_logprob, mean_logprob, said, self_verdict
from scrpo_cli.evaluation.gate import GateData, fit_threshold, gate_metrics
from scrpo_cli.evaluation.runner import Evaluation, Evaluator, count_tokens, flat, follow_ups, like, outcomes
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Sampling
from scrpo_cli.rollout.chat import assistant, user
from scrpo_cli.types import Ask, Attempt, AttemptKind, Group, PoolEntry, Problem

VALIDATION = "validation"
"""The name under which the evaluation is stored that a threshold was fitted on."""


@dataclass(frozen=True)
class Fit:
    """A fitted threshold, what the gate does on the problems that it was fitted on, and the evaluation behind it."""

    threshold: float
    metrics: dict[str, Any]
    evaluation: Evaluation


def check_gate(recipe: Recipe) -> None:
    """Refuse a gate that has nothing to decide or nothing to go by."""
    cfg = recipe.eval
    if cfg.gate.signal != "none" and cfg.turns != 2:
        raise UserError("A gate decides on the second turn, and there is none.", "eval.turns: 1", "Add --turns 2.")
    if cfg.gate.signal == "agreement" and cfg.samples < 2:
        fix = "Ask for more with --samples, or use another signal."
        raise UserError("One answer to a problem always agrees with itself.", "eval.samples: 1", fix)


def check_pool_gate(recipe: Recipe) -> None:
    """Refuse a signal that pooled errors do not have."""
    if recipe.eval.gate.signal == "agreement":
        what = "Agreement needs all answers to a problem, and `correct` looks at single errors."
        raise UserError(what, "eval.gate.signal: agreement", "Use logprob, surprisal or verdict.")


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
    evaluation, data = gate_data(evaluator, validation, prefix, VALIDATION)
    threshold = fit_threshold(data)
    metrics = {"signal": evaluator.recipe.eval.gate.signal, "n": len(validation), **gate_metrics(data, threshold)}
    stored = replace(evaluation, metrics=evaluation.metrics | {"gate": metrics})
    return Fit(threshold, metrics, stored)


def validation_problems(recipe: Recipe, evaluator: Evaluator) -> Sequence[Problem]:
    """task.validation, cut at eval.limit; UserError without one."""
    if recipe.task.validation is None:
        fix = "Name a split there, or give the threshold with --gate-threshold."
        raise UserError("A gate is fitted on validation problems, and there are none.", "task.validation", fix)
    return evaluator.task.problems(recipe.task.validation)[: recipe.eval.limit]


def evaluate_gated(
    evaluator: Evaluator, problems: Sequence[Problem], prefix: str, name: str, threshold: float
) -> Evaluation:
    """An evaluation in two turns with the report of the gate under `gate`."""
    evaluation, data = gate_data(evaluator, problems, prefix, name)
    report = {"signal": evaluator.recipe.eval.gate.signal, **gate_metrics(data, threshold)}
    return replace(evaluation, metrics=evaluation.metrics | {"gate": report})


def gate_data(evaluator: Evaluator, problems: Sequence[Problem], prefix: str, name: str) -> tuple[Evaluation, GateData]:
    """Both turns of every answer, and the confidence in the first."""
    evaluation = evaluator.run(problems, prefix, name)
    confidence_NK, asked = confidences(evaluator, evaluation.first, prefix, name)
    first, later = evaluation.first, evaluation.later

    def lengths_NK(attempts: Sequence[Attempt]) -> np.ndarray:
        return like(first, [len(a.completion.ids) for a in attempts])

    data = GateData(
        outcomes(first),
        like(first, [a.outcome for a in later[-1]]),
        confidence_NK,
        lengths_NK(flat(first)),
        np.sum([lengths_NK(turn) for turn in later], axis=0),
        lengths_NK(asked) if asked else np.zeros_like(confidence_NK),
    )
    attempts = [*evaluation.attempts, *asked]
    return replace(evaluation, attempts=attempts, metrics=evaluation.metrics | {"tokens": count_tokens(attempts)}), data


def confidences(
    evaluator: Evaluator, first: Sequence[Group], prefix: str, name: str
) -> tuple[np.ndarray, list[Attempt]]:
    """(N, K) confidence in the first answers by `eval.gate.signal`, and the attempts that were sampled for it."""
    match evaluator.recipe.eval.gate.signal:
        case "logprob":
            return like(first, [answer_logprob(a, evaluator.chat.tokenizer) for a in flat(first)]), []
        case "surprisal":
            return like(first, [mean_logprob(a.completion.logprobs) for a in flat(first)]), []
        case "agreement":
            return np.array([agreement([a.grade.extracted for a in g.attempts]) for g in first]), []
        case "verdict":
            asks = follow_ups(first, evaluator.recipe.task.verdict_prompt, AttemptKind.SELF_VERDICT)
            asked = self_verdicts(evaluator, asks, prefix, name)
            return like(first, [self_verdict(a.grade.extracted) for a in asked]), asked
    raise ValueError("eval.gate.signal: none has no confidence")


def pooled_confidences(
    evaluator: Evaluator, entries: Sequence[PoolEntry], attempts: Mapping[str, Attempt], prefix: str
) -> tuple[np.ndarray, list[Attempt]]:
    """(E,) the same for pooled errors, of which only the attempt itself is at hand; NaN where nobody sampled it."""
    tokenizer = evaluator.chat.tokenizer
    sampled = [None if e.planted else attempts[e.attempt_id] for e in entries]
    match evaluator.recipe.eval.gate.signal:
        case "logprob":
            return np.array([np.nan if a is None else answer_logprob(a, tokenizer) for a in sampled]), []
        case "surprisal":
            return np.array([np.nan if a is None else mean_logprob(a.completion.logprobs) for a in sampled]), []
        case "verdict":
            asks = [verdict_ask(evaluator, e) for e in entries]
            asked = self_verdicts(evaluator, asks, prefix, "pool")
            return np.array([self_verdict(a.grade.extracted) for a in asked]), asked
    raise ValueError(f"a pooled error has no {evaluator.recipe.eval.gate.signal}")


def verdict_ask(evaluator: Evaluator, entry: PoolEntry) -> Ask:
    """Is this pooled answer right?"""
    question = [assistant(entry.response), user(evaluator.recipe.task.verdict_prompt)]
    messages = [*evaluator.task.messages(entry.problem), *question]
    return Ask(entry.problem, messages, 1, AttemptKind.SELF_VERDICT, entry)


def self_verdicts(evaluator: Evaluator, asks: Sequence[Ask], prefix: str, name: str) -> list[Attempt]:
    """Greedy answers to the asks, with what each said, `yes` or `no`, as its extracted answer; they stay ungraded."""
    if not asks:
        return []
    sampling = Sampling(0.0, evaluator.sampling.max_tokens)
    asked = flat(evaluator.sample(asks, prefix, name, "verdict", sampling))
    words = [said(evaluator.chat.prefill + a.completion.text) for a in asked]
    return [replace(a, grade=replace(a.grade, extracted=word)) for a, word in zip(asked, words, strict=True)]
