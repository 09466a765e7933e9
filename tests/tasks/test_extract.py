"""Extraction: which text of a response is its final answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.tasks.grading.extract import Extracted, extract, last_box

FOUND = [
    (r"so \boxed{42}.", "42", "boxed"),
    (r"\boxed{41} no, \boxed{42}", "42", "boxed"),
    (r"\boxed{42} or \boxed{unfinished", "42", "boxed"),
    (r"\boxed{42} put it in \boxed{}", "42", "boxed"),
    (r"\fbox{7}", "7", "boxed"),
    (r"$\boxed 2$", "2", "boxed"),
    (r"\boxed 3.5.", "3.5", "boxed"),
    (r"\boxed  {5}", "5", "boxed"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}", "boxed"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right.", "boxed"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed"),
    (r"\boxed{\boxed{9}}", "9", "boxed"),
    ("\\boxed{a\nb}", "a\nb", "boxed"),
    (r"{ unbalanced before \boxed{6}", "6", "boxed"),
    (r"} unbalanced before \boxed{6}", "6", "boxed"),
    ("<think>\\boxed{1}</think>\\boxed{2}", "2", "boxed"),
    ("prefilled thinking \\boxed{1}</think>The answer is 2.", "2", "phrase"),
    ("work\n#### 1,234", "1,234", "####"),
    ("#### 5\n#### 6", "6", "####"),
    ("#### 5\nA: 6", "5", "####"),
    ("The answer is 9.\n#### 5", "5", "####"),
    (r"#### 5 but \boxed{6}", "6", "boxed"),
    ("so 2+2=4\nA: 26", "26", "A:"),
    ("A: $26.", "$26", "A:"),
    ("Q: one?\nA: 1\nQ: two?\nA: 2", "2", "A:"),
    ("The answer is 42.", "42", "phrase"),
    ("The answer is 3.5 dollars. Done", "3.5 dollars", "phrase"),
    ("the final answer is $\\frac{1}{2}$, as shown", r"\frac{1}{2}", "phrase"),
    (r"Final answer: \(x^2\)", "x^2", "phrase"),
    ("**Answer:** 42", "42", "phrase"),
    ("Answer:\n42", "42", "phrase"),
    ("The answer is 41. No: the answer is 42", "42", "phrase"),
    ("The answer is 41, no wait 42", "41, no wait 42", "phrase"),
]

NOTHING = [
    ("", "nothing"),
    ("I think it is 42", "nothing"),
    ("42", "nothing"),
    (r"\boxed{", "nothing"),
    (r"\boxed{unfinished \frac{1}{2}", "nothing"),
    (r"\boxed{}", "nothing"),
    (r"\boxedfoo{3}", "nothing"),
    ("The answer is", "nothing"),
    (r"The answer is $\boxed{}$.", "nothing"),
    ("####", "nothing"),
    (r"<think>so \boxed{42}", "thinking"),
    (r"<think>a</think>\boxed{1}<think>again \boxed{2}", "thinking"),
    (r"<think>\boxed{42}</think>", "nothing"),
]


@pytest.mark.parametrize(("response", "answer", "how"), FOUND)
def test_the_final_answer_is_found(response, answer, how):
    assert extract(response) == Extracted(answer, how)


@pytest.mark.parametrize(("response", "how"), NOTHING)
def test_no_answer_is_invented(response, how):
    assert extract(response) == Extracted(None, how)


balanced = st.recursive(
    st.text("ab1 +=^_", max_size=5),
    lambda inner: st.lists(inner, max_size=3).map("".join) | inner.map(lambda s: "{" + s + "}"),
    max_leaves=12,
)


@given(balanced, st.text(max_size=40), st.text("abc }", max_size=20))
def test_a_balanced_box_comes_back_whole(content, before, after):
    found = last_box(before.replace("\\", "").replace("<", "") + "\\boxed{" + content + "}" + after)
    assert found == (content.strip() or None)


@given(st.text("{}\\boxed<think>/#A: $\n1", max_size=200))
def test_no_text_breaks_it_and_an_answer_is_part_of_the_text(response):
    answer = extract(response).answer
    assert answer is None or (answer and answer in response)


def test_a_megabyte_of_braces_is_read_in_one_pass():
    assert extract("\\boxed{" * 150_000).answer is None
    assert extract("{" * 1_000_000 + "\\boxed{5}").answer == "5"
