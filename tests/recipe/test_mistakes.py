"""What a reader is told about a wrong recipe: which key, where, and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.mistakes import SHOWN, sections


def mistake(path: Path, *sets: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load_recipe(path, sets)
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "what", "fix"),
    [
        ("optim:\n  lrr: 1", 2, "Unknown key 'optim.lrr'", "Did you mean 'optim.lr'?"),
        ("seed: 1\noptimizer: {lr: 1}", 2, "Unknown key 'optimizer'", "Did you mean 'optim'?"),
        ("lr: 1", 1, "Unknown key 'lr'", "'lr' is a key of optim."),
        ("optim:\n\n  reflect_every: 5", 3, "Unknown key 'optim.reflect_every'", "method (name: scrpo)"),
        ("method: {name: grpo, reflect_every: 5}", 1, "Unknown key 'method.reflect_every'", "method (name: scrpo)"),
        ("method:\n  temperature: 1", 2, "Unknown key 'method.temperature'", "a key of rollout, eval."),
        ("eval: {top_k: 5}", 1, "Unknown key 'eval.top_k'", "Did you mean 'eval.top_p'?"),
        ("checkpoint:\n  zzz: 5", 2, "Unknown key 'checkpoint.zzz'", "Legal here: every, keep."),
        ("optim:\n  steps: many", 2, "'optim.steps' should be a valid integer, got 'many'", "schema"),
        ("optim: {steps: 1.5}", 1, "got 1.5", "schema"),
        ("optim: {lr: -1}", 1, "'optim.lr' should be greater than 0, got -1", "schema"),
        ("optim: {lr: .inf}", 1, "'optim.lr' should be a valid number", "schema"),
        ("optim: {lr: inf}", 1, "'optim.lr' should be a finite number", "schema"),
        ("method:\n  pool:\n    consume: onse", 3, "'once', 'until_solved' or 'keep', got 'onse'", "mean 'once'?"),
        ("method: {pool: {per_prompt: al}}", 1, "a valid integer or 'all', got 'al'", "Did you mean 'all'?"),
        ("method: {name: scrop}", 1, "method.name: there is no 'scrop'", "Did you mean 'scrpo'?"),
        ("method: grpo", 1, "'method' is a section of keys, got 'grpo'", "schema"),
        ("optim:\n  ", 1, "'optim' is a section of keys, got nothing", "schema"),
        ("task:\n  train:\n    split: x", 2, "'task.train.source' is missing", "Add it"),
        ("rollout:\n  top_p: 0.9", 2, "Unknown key 'rollout.top_p'", "'top_p' is a key of eval."),
        ("task:\n  prompt: '{problm}'", 2, "task.prompt must contain {problem}", "schema"),
        ("method:\n  filter: {band: [0.9, 0.1]}", 2, "[low, high]", "schema"),
        ("eval:\n  benchmarks: [a, {b: 1}]", 2, "'eval.benchmarks.1' should be a valid string", "schema"),
        ("model: {trust_remote_code: maybe}", 1, "should be a valid boolean", "schema"),
        ("1: 2", 1, "Unknown key '1'", "Legal here"),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, line: int, what: str, fix: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    error = mistake(path)
    assert what in error.what
    assert error.where == f"{path}:{line}"
    assert fix in error.fix
    assert "\n" not in error.what


def test_an_option_is_named_as_it_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny")
    assert mistake(path, "optim.lr=fast").where == "--set optim.lr=fast"
    assert mistake(path, "optm.lr=1").where == "--set optm.lr=1"


def test_an_inherited_mistake_is_shown_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 1\noptim:\n  lrr: 3\n  steps: 0")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\noptim:\n  steps: -1")
    what = mistake(child).what
    assert f"{tmp_path / 'base.yaml'}:3: Unknown key 'optim.lrr'" in what
    assert f"{child}:3: 'optim.steps' should be" in what


def test_several_mistakes_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("zeta: 1\n" + "\n" * 8 + "alpha: 2\nseed: x")
    lines = mistake(path).what.splitlines()
    assert lines[0] == "The recipe has 3 mistakes:"
    assert [line.strip().split(": ")[0] for line in lines[1:]] == [f"{path}:{n}" for n in (1, 10, 11)]


def test_a_hopeless_file_does_not_fill_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"key{i}: 1" for i in range(50)))
    lines = mistake(path).what.splitlines()
    assert len(lines) == SHOWN + 2
    assert lines[-1].strip() == "and 40 more"


def test_every_section_is_found_once_for_each_method() -> None:
    places = [str(place) for place in sections()]
    assert len(set(places)) == len(places)
    assert {
        "the top level",
        "optim",
        "method (name: grpo)",
        "method.clip (name: grpo)",
        "method.pool (name: scrpo)",
    } <= set(places)
