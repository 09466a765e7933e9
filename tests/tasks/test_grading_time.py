"""No text makes extraction or the exact pass slow: what a worker's deadline does not bound is linear, or short."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrpo_cli.tasks.grading.extract import extract
from scrpo_cli.tasks.grading.workers import MAX_ANSWER, Question, judge_cheaply

PIECES = [
    "\\boxed{",
    "\\boxed{1}",
    "\\boxed{1} or ",
    "\\boxed ",
    "}",
    "$",
    "$x$ or ",
    "\\(",
    "\\[",
    "#### ",
    "#### 1\n",
    "A: 1\n",
    "answer",
    "the answer is ",
    "the answer is $1",
    "answer: **",
    "final answer\n",
    "1,234,",
    "1 234 ",
    "1,",
    "2 abc ",
    "12.",
    " ",
    "\n",
    "\t",
    "*",
    "\\text{",
    "\\text{or}",
    "\\frac{1}{2}",
    "\\mathbf{1 2",
    "{,}",
    "^{\\circ}",
    "a=",
    "f(x)=",
    "(1,",
    "([{",
    "7:30 ",
    "-",
    "\\",
    "\\!",
    "<think>",
    "</think>",
    "and ",
    "√",
    "per cent ",
    "\\begin{pmatrix}1 & ",
]


def seconds(work, text):
    start = time.process_time()
    work(text)
    return time.process_time() - start


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("end", ["", "!", "}"])
def test_extraction_is_linear_in_a_repeated_piece(piece, end):
    """200,000 characters in at most two seconds; what is quadratic takes minutes."""
    assert seconds(extract, piece * (200_000 // len(piece)) + end) < 2


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("gold", ["42", "1,-2", "\\{1,2\\}", "\\text{(C)}", "x^2+1"])
def test_the_exact_pass_is_quick_on_the_longest_answer_it_sees(piece, gold):
    assert seconds(judge_cheaply, Question(gold, piece * (MAX_ANSWER // len(piece)))) < 0.3


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4), st.sampled_from(PIECES))
def test_any_few_pieces_repeated_are_quick(pieces, end):
    text = "".join(pieces)
    assert seconds(extract, text * (40_000 // len(text)) + end) < 2
    assert seconds(judge_cheaply, Question("1,-2", (text * MAX_ANSWER)[: MAX_ANSWER - len(end)] + end)) < 0.5
