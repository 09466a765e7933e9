"""Every key of a recipe under values that nobody means: it is taken as what it is, or refused in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from scrpo_cli.errors import UserError
from scrpo_cli.methods.registry import NAMES
from scrpo_cli.recipe.document import Document
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.mistakes import explain
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.section import HIGHEST, MOST_TOKENS

WRONG = (True, None, -1, 0, math.nan, math.inf, 1e300, 1e-320, 10**30, "", "x" * 5000, [], [0.9], [[[]]], {"a": 1})
SETS = ("optim.max_generated_tokens=1000", "task.grader=json:loads")


def leaves(data: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        yield (*path, key)
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))


def put(data: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = put(data[path[0]], path[1:], value) if len(path) > 1 else value
    return {**data, path[0]: inner}


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("method", NAMES)
def test_every_key_under_every_wrong_value(method: str) -> None:
    whole = load_recipe("tiny", [f"method.name={method}", *SETS]).model_dump(mode="json")
    paths = [path for path in leaves(whole) if path[0] == "method" or method == NAMES[0]]
    assert len(paths) > 5
    for path in paths:
        for value in WRONG:
            data = put(whole, path, value)
            try:
                found: Any = Recipe.model_validate(data).model_dump(mode="json")
            except ValidationError as error:
                told = explain(error, Document(data, {(): "mine.yaml"}), "mine.yaml")
                assert told.where, (path, value)
                assert all(len(line) < 500 for line in told.what.splitlines()), (path, value)
                continue
            except UserError as told:  # the name of a method
                assert path == ("method", "name"), (path, value)
                continue
            assert all(abs(n) <= (MOST_TOKENS if n == int(n) else HIGHEST) for n in numbers(found)), (path, value)
            for key in path:
                found = found[key]
            assert value is not True or found is True, path


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ("optim.betas=[0.9]", "'optim.betas' has the wrong number of values: [0.9]"),
        ("optim.betas=[0.9, 0.9, 0.9]", "'optim.betas' has the wrong number of values"),
        ("optim.betas=[0.9, 1]", "'optim.betas.1' should be less than 1, got 1"),
        ("optim.betas=[0.9, true]", "'optim.betas' should be a number"),
        ("optim.steps=true", "'optim.steps' should be a number, got True"),
        ("eval.gate.threshold=true", "'eval.gate.threshold' should be a number"),
        ("seed=18446744073709551616", "'seed' should be less than or equal to 2147483647"),
        ("seed=-1", "'seed' should be greater than or equal to 0"),
        ("optim.lr=1e30", "'optim.lr' should be less than or equal to 1000000"),
        ("rollout.temperature=1e-30", "'rollout.temperature' should be greater than or equal to 0.001"),
        ("eval.temperature=1e-30", "'eval.temperature' should be 0 (greedy) or at least 0.001"),
        ("model.lora.r=10000000", "'model.lora.r' should be less than or equal to 65536"),
        ("optim.prompts_per_step=1000000", "a step would sample"),
        ("method.reward.wrong=2", "give reward.right more than reward.wrong"),
        ("method.name=null", "'method.name' should be the name of a method, got nothing"),
        ("model.name=' '", "'model.name' should be a text that is not empty"),
        ("task.reflection.solution=''", "'task.reflection.solution' should be a text that is not empty"),
    ],
)
def test_what_is_said(item: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("tiny", [item])
    assert what in caught.value.what
    assert caught.value.where == f"--set {item}" or "a step would" in what  # which is about several keys


@pytest.mark.parametrize(
    "item", ["optim.lr=1e-6", "optim.lr='1e-6'", "optim.max_generated_tokens=4e5", "seed=2147483647", "method={}"]
)
def test_what_holds_as_before(item: str) -> None:
    load_recipe("tiny", [item])
