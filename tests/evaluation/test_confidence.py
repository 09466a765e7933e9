"""Signals of a gate, from one stored attempt or the samples of one problem."""

import numpy as np
import pytest
from tests_tokenizer import TOKENIZER

from scrpo_cli.evaluation.gate import (
    agreement,
    answer_logprob,
    answer_span,
    mean_logprob,
    said,
    self_verdict,
)
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Problem, Verdict


def attempt(text: str, extracted: str | None, answer_logprobs: dict[str, float]) -> Attempt:
    """Every token has log-prob -1, but those single characters that `answer_logprobs` names."""
    ids = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
    logprobs = [answer_logprobs.get(TOKENIZER.decode([i]), -1.0) for i in ids]
    grade = Grade(Verdict.WRONG, extracted)
    return Attempt("a", Problem("p", "test", "?", "1"), Completion([1], ids, logprobs, text, FinishReason.STOP), grade)


def test_the_answer_span_is_inside_the_last_box_that_holds_it():
    text = "so 85 = 85\n\\boxed{80} no, \\boxed{85} and 85 \\boxed{"
    start, end = answer_span(text, "85")
    assert text[:start].endswith("no, \\boxed{")
    assert text[start:end] == "85"
    assert answer_span("the answer is 12, yes 12", "12") == (22, 24)
    assert answer_span("nothing", "12") is None
    assert answer_span("nothing", None) is None


def test_the_mean_log_prob_of_the_answer_counts_its_tokens_alone():
    """Digits are tokens of their own in this tokenizer: 8 and 5 stand only in the box."""
    found = attempt("47+32=79\n\\boxed{85}", "85", {"8": -0.5, "5": -0.1})
    assert answer_logprob(found, TOKENIZER) == pytest.approx(-0.3)


def test_without_an_answer_all_tokens_count():
    found = attempt("47+38", None, {"8": -4.0})
    n = len(found.completion.ids)
    assert answer_logprob(found, TOKENIZER) == pytest.approx((-4.0 - (n - 1)) / n)
    assert np.isnan(mean_logprob([]))


def test_agreement_is_the_share_of_samples_with_the_same_answer():
    assert agreement(["7", "7", "8", None]) == [0.5, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("text", "word", "confidence"),
    [
        ("Yes, it is.", "yes", 1.0),
        ("No. Yes would be wrong.", "no", 0.0),
        ("I know nothing", None, 0.5),
        ("<think>no</think> yes", "yes", 1.0),
        ("<think>no, wait", None, 0.5),
    ],
)
def test_a_self_verdict_is_the_first_yes_or_no_after_the_thinking(text, word, confidence):
    assert said(text) == word
    assert self_verdict(said(text)) == confidence
