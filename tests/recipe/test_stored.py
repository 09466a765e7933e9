"""Recipes in the database: those of earlier versions are read or refused in three lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import start_run
from scrpo_cli.recipe.load import load_recipe, recipe_json, shipped_recipes, stored_recipe
from scrpo_cli.recipe.models import Recipe

FIRST_COMMIT = (Path(__file__).parent / "first_commit.json").read_text()
"""What the first version of the program wrote for a run."""


def changed(**sections: dict[str, Any]) -> str:
    data = json.loads(recipe_json(Recipe(name="r")))
    for name, section in sections.items():
        data[name] |= section
    return json.dumps(data)


def test_a_recipe_of_the_first_commit_is_read() -> None:
    recipe = stored_recipe(FIRST_COMMIT, "run a")
    old = json.loads(FIRST_COMMIT)
    assert (recipe.name, recipe.optim.lr, recipe.method.name) == ("first", 1e-6, "scrpo")
    assert {**old["method"]["prompt"], **old["method"]["segments"]} == recipe.task.reflection.model_dump()


def test_what_is_written_now_is_read_back() -> None:
    for name in shipped_recipes():
        recipe = load_recipe(name)
        assert stored_recipe(recipe_json(recipe), "run a") == recipe


@pytest.mark.parametrize(
    ("sections", "read"),
    [
        ({"eval": {"gate": {"signal": "surprisal"}}}, lambda r: r.eval.gate.signal == "mean_logprob"),
        ({"method": {"gate": {"signal": "surprisal"}}}, lambda r: r.method.gate.signal == "mean_logprob"),
        (
            {"method": {"injection": {"kind": "foreign", "share": 0.5, "run": "x"}}},
            lambda r: r.method.injection.kind == "other_model",
        ),
        ({"rollout": {"top_p": 1.0, "engine": "transformers"}}, lambda r: r.rollout.temperature == 1.0),
        ({"method": {"trigger": {"mode": "every_n_steps", "n": 7}}}, lambda r: r.method.reflect_every == 7),
        ({"method": {"trigger": {"mode": "never", "n": 7}}}, lambda r: r.method.reflect_every == "never"),
        ({"method": {"trigger": {"mode": "ratio", "n": 7}}}, lambda r: r.method.reflect_every is None),
        (
            {"method": {"trigger": {"mode": "pool_size", "n": 7}, "reflect_every": 5}},
            lambda r: r.method.reflect_every == 5,
        ),
        (
            {"method": {"trigger": {"mode": "ratio", "n": 7}, "reflect_every": 5}},
            lambda r: (r.method.reflect_every, r.method.trigger.mode) == (5, "pool_size"),
        ),
    ],
)
def test_words_of_earlier_versions_are_read(sections, read) -> None:
    assert read(stored_recipe(changed(**sections), "run a"))


@pytest.mark.parametrize(
    ("sections", "key"),
    [({"optim": {"momentum": 0.9}}, "optim.momentum"), ({"rollout": {"top_p": 0.9}}, "rollout.top_p")],
)
def test_what_has_no_meaning_any_more_is_refused_in_three_lines(sections, key) -> None:
    with pytest.raises(UserError) as caught:
        stored_recipe(changed(**sections), "run a")
    what, where, fix = caught.value.lines()
    assert key in what
    assert (where, fix) == ("run a", "Go on with the version that wrote it, or start a new run.")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_recipe_at_all(text) -> None:
    with pytest.raises(UserError, match="stored recipe"):
        stored_recipe(text, "run a")


def test_overrides_are_checked_like_those_of_a_file() -> None:
    assert stored_recipe(FIRST_COMMIT, "run a", ["seed=3", "task.reflection.show=full"]).seed == 3
    with pytest.raises(UserError) as caught:
        stored_recipe(FIRST_COMMIT, "run a", ["optim.lrr=3"])
    assert "optim.lrr" in caught.value.what
    assert caught.value.where == "--set optim.lrr=3"


def test_a_run_of_another_version_is_resumed_or_refused_in_three_lines(tmp_path, scrpo_process) -> None:
    run = "20260101-000000-abcd"
    (directory := tmp_path / "runs" / run).mkdir(parents=True)
    with Database.open(str(tmp_path / "old.db")) as db:
        recipe = Recipe(name="r")
        start_run(db, command="collect", recipe=recipe, directory=str(directory), model="tiny", run_id=run)
        with db.write() as connection:
            text = changed(optim={"momentum": 0.9})
            connection.exec_driver_sql("UPDATE run SET recipe_json = ?", (text,))
    outcome = scrpo_process("collect", "--resume", run, "--db", "old.db")
    assert outcome.code == 2
    lines = [line for line in outcome.err.strip().splitlines() if not line.startswith("scrpo collect:")]
    assert len(lines) == 3
    assert "Unknown key 'optim.momentum'" in lines[0]
    assert f"run {run} (scrpo " in lines[1]


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of a document, as a path."""
    if not isinstance(value, dict):
        return [path]
    return [path, *(each for key, below in value.items() for each in places(below, (*path, key)))]


NOW = recipe_json(Recipe(name="r"))
STORED = {"first": FIRST_COMMIT, "now": NOW, "score": recipe_json(load_recipe("score-gsm8k"))}
WHERE = [(name, path) for name, text in STORED.items() for path in places(json.loads(text)) if path]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)


@example(("first", ("method",)), "scrpo", False)
@example(("now", ("method", "trigger")), "never", False)
@example(("first", ("task", "reflection")), [], False)
@given(st.sampled_from(WHERE), JSON | st.dictionaries(st.text(max_size=3), JSON, max_size=2), st.booleans())
def test_whatever_another_version_changed_is_read_or_refused_in_three_lines(place, value, dropped) -> None:
    name, path = place
    data = json.loads(STORED[name])
    section = data
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    if dropped:
        del section[path[-1]]
    try:
        stored_recipe(json.dumps(data), "run a (scrpo 0.1.0)")
    except UserError as error:
        what, where, fix = error.lines()
        assert (where, bool(what), bool(fix)) == ("run a (scrpo 0.1.0)", True, True)
