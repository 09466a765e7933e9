"""The traces that the thinking model is made of: what a student writes is what the task reads."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2] / "tools" / "think_model"))
from think_traces import (
    ASKED,
    DENSE,
    RETRY,
    TOLD_WRONG,
    OutOfRange,
    World,
    attempt,
    check,
    conversation,
    draw_conversation,
    second_turn,
    solution,
)
from transformers import AutoModelForCausalLM

from scrpo_cli.tasks.think import ThinkErrorKind, error_kind
from scrpo_cli.tasks.tiny import Step, draw_chain, parse_chain
from scrpo_cli.types import Problem

TOOL = Path(__file__).parents[2] / "tools" / "think_model"
SEEDS = st.integers(0, 10**9)


def test_a_deeper_model_begins_as_the_same_function() -> None:
    spec = importlib.util.spec_from_file_location("think_build", TOOL / "build.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    model = AutoModelForCausalLM.from_pretrained(tool.TINY, dtype=torch.float32)
    ids = torch.arange(2, 22)[None]
    before, parameters = model(ids).logits, model.num_parameters()
    tool.deepen(model, 14)
    after = model(ids).logits
    assert torch.equal(after, before)
    assert model.num_parameters() > 3 * parameters
    after.sum().backward()
    assert all(layer.mlp.down_proj.weight.grad.any() for layer in model.model.layers)
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 22)  # every layer has a cache of its own
    with pytest.raises(SystemExit, match="14 layers already"):
        tool.deepen(model, 4)


def chain_of(seed: int):
    return draw_chain(random.Random(seed), 1, 6)


@pytest.mark.parametrize(
    ("step", "quick", "found", "text"),
    [
        (Step(47, "+", 38), 84, 85, "Check 7+8=15 4+3+1=8 85 not"),
        (Step(47, "+", 38), 85, 85, "Check 7+8=15 4+3+1=8 85 ok"),
        (Step(47, "+", 38), 84, 84, "Check 7+8=14 4+3+1=8 84 ok"),
        (Step(43, "-", 28), 14, 15, "Check 13-8=5 4-2-1=1 15 not"),
        (Step(48, "-", 23), 25, 25, "Check 8-3=5 4-2=2 25 ok"),
    ],
)
def test_a_check_by_hand(step, quick, found, text):
    assert check(step, quick, found) == text


@given(SEEDS)
def test_every_attempt_is_read_and_its_first_error_is_of_a_known_kind(seed):
    chain, rng = chain_of(seed), random.Random(seed)
    try:
        lines = attempt(chain, World(), 0.5, rng)
    except OutOfRange:
        return
    kind = error_kind(Problem("p", "think", chain.text, str(chain.answer)), solution(lines))
    wrong = next((line for line in lines if line.result != line.step.result), None)
    if wrong is None:
        assert kind is None
    elif wrong.checked is None:
        assert kind is ThinkErrorKind.UNCHECKED
    else:
        assert kind is (ThinkErrorKind.MISLED if wrong.quick == wrong.step.result else ThinkErrorKind.MISSED)


@given(SEEDS)
def test_errors_have_one_sign_so_that_none_are_cancelled(seed):
    """Where nothing is checked, the answer is as much too small as lines are wrong."""
    chain = chain_of(seed)
    try:
        lines = attempt(chain, World(), 0.0, random.Random(seed))
    except OutOfRange:
        return
    assert chain.answer - lines[-1].result == sum(line.quick != line.step.result for line in lines)


@given(SEEDS)
def test_a_reflection_that_misses_nothing_copies_until_a_mistake_and_repairs_it(seed):
    chain, rng = chain_of(seed), random.Random(seed)
    sure = World(check_told=1.0, miss=0.0, false=0.0)
    try:
        first = attempt(chain, sure, sure.check_first, rng)
        text = second_turn(chain, first, True, sure, rng)
    except OutOfRange:
        return
    analysis, solved = text.removeprefix("Analysis:\n").split("\nCorrected Solution:\n")
    assert solved.endswith(f"\\boxed{{{chain.answer}}}")
    mistakes = [line for line in first if line.result != line.step.result]
    if mistakes:
        assert analysis.splitlines()[-1].endswith(f" {mistakes[0].step.result} not")
    before = first[: first.index(mistakes[0]) + 1] if mistakes else first
    written = [line for line in analysis.splitlines() if not line.startswith("Check ")]
    assert written == [line.text().splitlines()[0] for line in before]


@given(SEEDS)
def test_conversations_ask_what_the_recipe_asks(seed):
    turns = draw_conversation(World(), random.Random(seed))
    problem = turns[0][0]
    request = next((request for request in DENSE if request in problem), None)
    chain = parse_chain(problem.replace(request, "").strip() if request else problem)
    assert len(turns) == (1 if request else 2)
    if not request:
        follow_up, answer = turns[1]
        wrong = not turns[0][1].endswith(f"\\boxed{{{chain.answer}}}")
        assert follow_up in ((TOLD_WRONG, ASKED, RETRY) if wrong else (ASKED,))
        assert answer.startswith("Analysis:\n") == (follow_up != RETRY)


def test_the_same_seed_draws_the_same_conversation():
    drawn = [draw_conversation(World(), random.Random(5)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    chain = chain_of(1)
    assert conversation(chain, World(dense=1.0), random.Random(1))[0][0] != chain.text
