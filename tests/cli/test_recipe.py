"""`scrpo recipe ls | show | check | schema`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from scrpo_cli.recipe.load import load_recipe, shipped_recipes


def test_ls_names_what_is_shipped(scrpo: Callable) -> None:
    rows = scrpo("recipe", "ls", "--json").json["recipes"]
    assert [row["name"] for row in rows] == list(shipped_recipes())
    tiny = next(row for row in rows if row["name"] == "tiny")
    assert [tiny[key]["name"] for key in ("model", "task", "method")] == ["tiny", "tiny", "scrpo"]
    shown = scrpo("recipe", "ls").out
    assert all(name in shown for name in shipped_recipes())


def test_show_resolves(scrpo: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: tiny\noptim: {lr: 0.5}")
    outcome = scrpo("recipe", "show", "mine.yaml", "--set", "seed=3", "--set", "method.name=grpo")
    data = yaml.safe_load(outcome.out)
    assert (data["optim"]["lr"], data["seed"], data["method"]["name"], data["model"]["name"]) == (
        0.5,
        3,
        "grpo",
        "tiny",
    )
    assert scrpo("recipe", "show", "mine.yaml", "--json").json["optim"]["lr"] == 0.5


def test_show_does_not_break_long_lines(scrpo: Callable) -> None:
    shown = scrpo("recipe", "show", "scrpo-base").out
    assert yaml.safe_load(shown) == load_recipe("scrpo-base").model_dump(mode="json")


def test_show_of_a_wrong_recipe(scrpo: Callable) -> None:
    outcome = scrpo("recipe", "show", "tiny", "--set", "optim.lrr=1")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "Error: Unknown key 'optim.lrr'",
        "  where: --set optim.lrr=1",
        "  fix: Did you mean 'optim.lr'?",
    ]


def test_check_tells_all_files_apart(scrpo: Callable, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("extends: tiny\noptim:\n  stepz: 3")
    outcome = scrpo("recipe", "check", "tiny", "bad.yaml", "gone.yaml")
    assert outcome.code == 2
    assert outcome.out.splitlines()[0] == "ok    tiny"
    assert "bad.yaml:3" in outcome.out
    assert "No such recipe file" in outcome.out
    rows = scrpo("recipe", "check", "tiny", "bad.yaml", "--json").json["files"]
    assert [row["ok"] for row in rows] == [True, False]
    assert rows[1]["where"] == "bad.yaml:3"
    assert rows[1]["fix"] == "Did you mean 'optim.steps'?"
    assert scrpo("recipe", "check", *shipped_recipes()).code == 0


def test_schema_is_json(scrpo: Callable) -> None:
    schema = scrpo("recipe", "schema").json
    assert schema == scrpo("recipe", "schema", "--json").json
    assert "extends" in schema["properties"]
