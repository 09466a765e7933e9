"""Extraction: which text of a response is its final answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.tasks.grading.extract import Extracted, extract, last_box
from scrpo_cli.tasks.grading.numbers import Rules
from scrpo_cli.tasks.grading.symbolic import equal

TABLE = yaml.safe_load(Path(__file__).with_name("responses.yaml").read_text())
RULES = {"boxes that are one statement": "boxed"}
ROWS = [
    pytest.param(response, answer[0] if answer else None, RULES.get(rule, rule), id=f"{rule}-{i}")
    for rule, rows in TABLE.items()
    for i, (response, *answer) in enumerate(rows)
]


@pytest.mark.parametrize(("response", "answer", "how"), ROWS)
def test_the_final_answer_is_found_and_none_is_invented(response, answer, how):
    assert extract(response) == Extracted(answer, how)


def test_the_table_is_large_and_has_no_row_twice():
    responses = [response for rows in TABLE.values() for response, *_ in rows]
    assert len(set(responses)) == len(responses) >= 240


@pytest.mark.parametrize(
    ("response", "gold", "same"),
    [
        ("\\boxed{3} or \\boxed{4}", "3", False),
        ("\\boxed{3} or \\boxed{4}", "4", False),
        ("\\boxed{3} or \\boxed{4}", "4, 3", True),
        ("\\boxed{x+11} or \\boxed{11+x}", "x+11", True),
        ("$x = \\boxed{3}$ and $y = \\boxed{4}$", "(3,4)", True),
        ("\\boxed{41}, no. \\boxed{42}", "42", True),
        ("\\boxed{41}, no. \\boxed{42}", "41", False),
    ],
)
def test_a_hedge_is_right_for_neither_and_the_last_statement_counts(response, gold, same):
    assert equal(gold, extract(response).answer, Rules(unordered=True)) is same


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
    assert answer is None or (answer and all(part in response for part in re.split(" or |, ", answer)))


def test_a_megabyte_of_braces_is_read_in_one_pass():
    assert extract("\\boxed{" * 150_000).answer is None
    assert extract("{" * 1_000_000 + "\\boxed{5}").answer == "5"
