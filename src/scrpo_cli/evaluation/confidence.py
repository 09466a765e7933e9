"""How sure a model was of an answer, from what was stored of it: higher is surer, NaN where nothing is known.

Log-probs are those of the sampled tokens, at the sampling temperature (and inside the nucleus, with `eval.top_p`). The
entropy of the next-token distributions is not stored, so there is no entropy signal: `mean_logprob` is its sampled kin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scrpo_cli.rollout.segments import tokens_covering
from scrpo_cli.types import Attempt

_BOX = re.compile(r"\\(?:boxed|fbox)")
_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def mean_logprob(logprobs: Sequence[float] | np.ndarray) -> float:
    """Minus the mean surprisal of the sampled tokens, in nats."""
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
