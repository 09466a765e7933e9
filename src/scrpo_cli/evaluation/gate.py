"""Gated reflection: decide from the first answer alone whether a second turn is worth asking.

Reflecting on everything breaks right answers too. A gate asks the second turn where the confidence in the first answer
is below a threshold; `never` and `always` are its two ends. All of this is ours [I]; docs/evaluation.md defines it.
Three parts: the confidence in an answer, the gate as pure functions of it, and a model that is gated.

Shapes: N problems, K samples. NaN confidence (nothing is known of the answer) lies below every threshold but `never`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import share
from scrpo_cli.evaluation.outcomes import VERDICT, Answers, padded
from scrpo_cli.evaluation.paired import compare
from scrpo_cli.evaluation.runner import Evaluation, Evaluator, Start, flat_groups, follow_ups
from scrpo_cli.recipe.models import GateConfig
from scrpo_cli.rollout.base import Sampling
from scrpo_cli.rollout.chat import assistant, user
from scrpo_cli.rollout.segments import tokens_covering
from scrpo_cli.types import Attempt, AttemptKind, PoolEntry, Problem, SampleRequest

NEVER, ALWAYS = -np.inf, np.inf
Spelled = float | Literal["never", "always"]
_ROUNDING = 12  # decimals; smaller differences of accuracies are rounding
VALIDATION = "validation"
"""The name under which the evaluation is stored that a threshold was fitted on."""
_BOX = re.compile(r"\\(?:boxed|fbox)")
_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


# --- confidence: higher is surer, NaN where nothing is known --------------------------------------------------------
# Log-probs are those of the sampled tokens, at the sampling temperature (and inside the nucleus, with `eval.top_p`).
# The entropy of the next-token distributions is not stored, so there is no entropy signal: `mean_logprob` is its kin.


def mean_logprob(logprobs: Sequence[float] | np.ndarray) -> float:
    """Mean log-probability of the sampled tokens, in nats: at most 0, higher is surer."""
    return float(np.mean(logprobs)) if len(logprobs) else float("nan")


def answer_logprob(attempt: Attempt, tokenizer: Any) -> float:
    """Mean log-prob of the tokens that write the final answer; of all tokens where the answer is not found."""
    completion = attempt.completion
    span = answer_span(completion.text, attempt.grade.extracted)
    if span is None or not len(completion.ids):
        return mean_logprob(completion.logprobs)
    first = tokens_covering(completion.ids, span[0] + 1, tokenizer) - 1  # the token with the answer's first character
    return mean_logprob(completion.logprobs[first : tokens_covering(completion.ids, span[1], tokenizer)])


def answer_span(text: str, answer: str | None) -> tuple[int, int] | None:
    """Where the extracted answer stands: inside the last box that holds it, else its last occurrence."""
    if not answer:
        return None
    found = [text.find(answer, box.end()) for box in reversed(list(_BOX.finditer(text)))]
    start = next((at for at in found if at >= 0), text.rfind(answer))
    return None if start < 0 else (start, start + len(answer))


def agreement(answers_K: Sequence[str | None]) -> list[float]:
    """For each sample of a problem the share of all its samples with the same final answer, itself included; 0 where
    there is no final answer. Answers are compared as extracted text, as in the majority vote.
    """
    votes = Counter(a for a in answers_K if a is not None)
    return [votes[a] / len(answers_K) if a is not None else 0.0 for a in answers_K]


def said(text: str) -> str | None:
    """`yes` or `no`: the first of the two words after the thinking; None without either, or when still thinking."""
    tail = text.rpartition("</think>")[2]
    word = None if "<think>" in tail else _WORD.search(tail)
    return word[0].lower() if word else None


def self_verdict(word: str | None) -> float:
    """1 for yes (it is right), 0 for no, 1/2 where the model said neither."""
    return {"yes": 1.0, "no": 0.0}.get(word or "", 0.5)


# --- the gate -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GateData:
    """Outcomes of first and second answers, the confidence in the first, and the tokens of each turn and of a question
    that the signal asked.
    """

    first_NK: np.ndarray
    second_NK: np.ndarray
    confidence_NK: np.ndarray
    first_tokens_NK: np.ndarray
    second_tokens_NK: np.ndarray
    signal_tokens_NK: np.ndarray

    @property
    def counted_NK(self) -> np.ndarray:
        """Pairs of which both answers were graded."""
        return ~np.isnan(self.first_NK + self.second_NK)


def reflects(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """True where the second turn is asked."""
    return np.nan_to_num(confidence, nan=-np.inf) < threshold if threshold < ALWAYS else np.ones_like(confidence, bool)


def fit_threshold(data: GateData) -> float:
    """The threshold that maximises gated accuracy; of equals the one with the least coverage.

    Candidates: never, every confidence that occurs (what lies below it is reflected on), always. Problems count
    equally, as in every accuracy here.
    """
    counted_NK = data.counted_NK
    share_NK = counted_NK / np.maximum(1, counted_NK.sum(axis=1, keepdims=True))
    gain_NK = np.where(counted_NK, data.second_NK - data.first_NK, 0.0) * share_NK
    known_NK = np.nan_to_num(data.confidence_NK, nan=-np.inf)
    levels_L, at = np.unique(known_NK[counted_NK], return_inverse=True)
    gain_L = np.bincount(at, weights=gain_NK[counted_NK], minlength=len(levels_L))
    gained_C = np.round(np.concatenate([[0.0], np.cumsum(gain_L)]), _ROUNDING)  # of reflecting on the lowest C levels
    return float([NEVER, *levels_L[1:], ALWAYS][int(gained_C.argmax())])


def gate_metrics(data: GateData, threshold: float) -> dict[str, Any]:
    """Coverage (share of answers that are reflected on), and accuracy gated against never and always reflecting.

    Accuracies with their interval; `against_*` are paired differences, gated minus the other. `tokens`: mean generated
    tokens of an answer under each policy. `auroc`: how well the confidence tells right first answers from wrong ones.
    """
    asked_NK = reflects(data.confidence_NK, threshold)
    never_NK, always_NK = (np.where(data.counted_NK, x, np.nan) for x in (data.first_NK, data.second_NK))
    gated_NK = np.where(asked_NK, always_NK, never_NK)
    return {
        "threshold": spelled(threshold),
        "coverage": share(np.where(data.counted_NK, asked_NK, np.nan)),
        "accuracy": share(gated_NK),
        "never": share(never_NK),
        "always": share(always_NK),
        "against_never": compare(never_NK, gated_NK),
        "against_always": compare(always_NK, gated_NK),
        "auroc": auroc(data.confidence_NK[data.counted_NK], data.first_NK[data.counted_NK]),
        "tokens": tokens(data, asked_NK),
    }


def tokens(data: GateData, asked_NK: np.ndarray) -> dict[str, float]:
    """Mean generated tokens of an answer when the second turn is asked never, where the gate says so, and always."""
    first_NK, second_NK = data.first_tokens_NK, data.second_tokens_NK
    policies = {
        "never": first_NK,
        "gated": first_NK + data.signal_tokens_NK + second_NK * asked_NK,
        "always": first_NK + second_NK,
    }
    return {name: float(tokens_NK[data.counted_NK].mean()) for name, tokens_NK in policies.items()}


def auroc(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """The chance that a right answer has the higher confidence than a wrong one, ties at half (Mann-Whitney): 0.5 says
    that the signal knows nothing. None without an answer of either kind.
    """
    rights, wrongs = int((right == 1).sum()), int((right == 0).sum())
    if not rights or not wrongs:
        return None
    from scipy.stats import rankdata  # slow to import, and only gates need it

    ranks = rankdata(np.nan_to_num(confidence, nan=-np.inf))
    return float((ranks[right == 1].sum() - rights * (rights + 1) / 2) / (rights * wrongs))


def spelled(threshold: float) -> Spelled:
    """JSON and YAML write the two ends as words."""
    return "never" if threshold == NEVER else "always" if threshold == ALWAYS else threshold


def threshold_of(word: Spelled) -> float:
    return {"never": NEVER, "always": ALWAYS}[word] if isinstance(word, str) else float(word)


# --- a model that is gated ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedGate:
    """A fitted threshold, what the gate does on the problems that it was fitted on, and the evaluation behind it."""

    threshold: float
    metrics: dict[str, Any]
    evaluation: Evaluation


def check_pool_gate(gate: GateConfig) -> None:
    """Refuse a signal that pooled errors do not have."""
    if gate.signal == "agreement":
        what = "Agreement needs all answers to a problem, and `correct` looks at single errors."
        raise UserError(what, "eval.gate.signal: agreement", "Use logprob, mean_logprob or verdict.")


def fit_gate(
    evaluator: Evaluator, validation: Sequence[Problem], held_out: Sequence[Sequence[Problem]], prefix: str
) -> FittedGate:
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
    metrics = {"signal": evaluator.protocol.gate.signal, "n": len(validation), **gate_metrics(data, threshold)}
    return FittedGate(threshold, metrics, Evaluation(evaluator.measure(answers) | {"gate": metrics}, answers))


def validation_problems(evaluator: Evaluator) -> Sequence[Problem]:
    """task.validation, cut at eval.limit; UserError without one."""
    validation = evaluator.protocol.task.validation
    if validation is None:
        fix = "Name a split there, or give the threshold with --gate-threshold."
        raise UserError("A gate is fitted on validation problems, and there are none.", "task.validation", fix)
    return evaluator.task.problems(validation)[: evaluator.protocol.limit]


def answer_gated(
    evaluator: Evaluator, problems: Sequence[Problem], prefix: str, name: str, start: Start | None = None
) -> list[Attempt]:
    """Everything that an evaluation samples, with what the gate's signal asks of the first answers."""
    start = start or Start()
    first, attempts = evaluator.answer(problems, prefix, name, start)
    if evaluator.protocol.gate.signal != "verdict":
        return attempts
    requests = follow_ups(first, evaluator.protocol.task.verdict_prompt, AttemptKind.SELF_VERDICT)
    before = start.problems * evaluator.protocol.samples
    return [*attempts, *self_verdicts(evaluator, requests, prefix, name, before)]


def measure_gated(evaluator: Evaluator, answers: Answers, threshold: float | None) -> dict[str, Any]:
    """The metrics of an evaluation, with the report of the gate under `gate` where there is one."""
    metrics = evaluator.measure(answers)
    if threshold is None:
        return metrics
    report = gate_metrics(gate_data(evaluator, answers), threshold)
    return metrics | {"gate": {"signal": evaluator.protocol.gate.signal, **report}}


def gate_data(evaluator: Evaluator, answers: Answers) -> GateData:
    """Outcomes of both turns, the confidence in the first, and what everything cost."""

    def lengths_NK(attempts: Sequence[Attempt]) -> np.ndarray:
        return padded(answers.nested([len(a.completion.ids) for a in attempts]))

    confidence_NK = confidences(evaluator, answers)
    return GateData(
        answers.outcomes.first_NK,
        answers.outcomes.second_NK,
        confidence_NK,
        lengths_NK(answers.turns[0]),
        np.sum([lengths_NK(turn) for turn in answers.later], axis=0),
        lengths_NK(answers.asked) if answers.asked else np.zeros_like(confidence_NK),
    )


def confidences(evaluator: Evaluator, answers: Answers) -> np.ndarray:
    """(N, K) confidence in the first answers by `eval.gate.signal`."""
    first = answers.turns[0]
    match evaluator.protocol.gate.signal:
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
    match evaluator.protocol.gate.signal:
        case "logprob":
            return np.array([np.nan if a is None else answer_logprob(a, tokenizer) for a in sampled]), []
        case "mean_logprob":
            return np.array([np.nan if a is None else mean_logprob(a.completion.logprobs) for a in sampled]), []
        case "verdict":
            requests = [verdict_request(evaluator, e) for e in entries]
            asked = self_verdicts(evaluator, requests, prefix, "pool")
            return np.array([self_verdict(a.grade.extracted) for a in asked]), asked
    raise ValueError(f"a pooled error has no {evaluator.protocol.gate.signal}")


def verdict_request(evaluator: Evaluator, entry: PoolEntry) -> SampleRequest:
    """Is this pooled answer right?"""
    question = [assistant(entry.response), user(evaluator.protocol.task.verdict_prompt)]
    messages = [*evaluator.task.messages(entry.problem), *question]
    return SampleRequest(entry.problem, messages, 1, AttemptKind.SELF_VERDICT, entry)


def self_verdicts(
    evaluator: Evaluator, requests: Sequence[SampleRequest], prefix: str, name: str, before: int = 0
) -> list[Attempt]:
    """Greedy answers, with what each said, `yes` or `no`, as its extracted answer; they stay ungraded."""
    if not requests:
        return []
    sampling = Sampling(0.0, evaluator.protocol.sampling.max_tokens)
    asked = flat_groups(evaluator.sample(requests, prefix, name, VERDICT, before, sampling))
    words = [said(evaluator.chat.prefill + a.completion.text) for a in asked]
    return [replace(a, grade=replace(a.grade, extracted=word)) for a, word in zip(asked, words, strict=True)]
