"""`scrpo recipe`: list, show and check recipes, and print their schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption, SetOption, as_yaml, write_json
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe, recipe_schema, shipped_recipes
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.recipe.references import is_plugin

app = typer.Typer(help="List, show and check recipes.", context_settings={"help_option_names": ["-h", "--help"]})


@app.command("ls")
def ls(db: DbOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False) -> None:
    """The shipped recipes."""
    from scrpo_cli.layout import Column, Table

    rows = [_row(name, load_recipe(path), str(path)) for name, path in shipped_recipes().items()]
    table = Table("name", "task", "method", Column("model and purpose", "words"), records=True)
    for row in rows:
        about = f"{row['model']['name']}\n{row['description']}"
        table.add_row(row["name"], row["task"]["name"], row["method"]["name"], about)
    Output(json, quiet).result({"recipes": rows}, table)


def _row(name: str, recipe: Recipe, path: str) -> dict[str, Any]:
    """What `recipe show` says of it, in the same places, and its file."""
    sections = {key: {"name": getattr(recipe, key).name} for key in ("model", "task", "method")}
    return {"name": name, "description": recipe.description, **sections, "path": path}


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(autocompletion=completion.recipes, help="A shipped recipe or a YAML file.")],
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The resolved recipe, every default included, as YAML that is itself a recipe."""
    data = load_recipe(name, set_ or ()).model_dump(mode="json")
    Output(json, quiet).result(data, as_yaml(data))


@app.command("check")
def check(
    files: Annotated[
        list[str], typer.Argument(autocompletion=completion.recipes, help="Recipe files or shipped names.")
    ],
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Whether recipes are valid. Exit code 2 when one is not."""
    rows = [_checked(file, set_ or ()) for file in files]
    lines = [
        f"ok    {row['file']}{_code(row)}" if row["ok"] else "\n".join([f"wrong {row['file']}", *row["lines"]])
        for row in rows
    ]
    Output(json, quiet).result({"files": rows}, "\n".join(lines))
    if not all(row["ok"] for row in rows):
        raise typer.Exit(2)


def _checked(file: str, sets: Sequence[str]) -> dict[str, Any]:
    try:
        task = load_recipe(file, sets).task
    except UserError as error:
        lines = [f"      {line}" for text in error.lines() for line in text.splitlines()]
        return {"file": file, "ok": False, "what": error.what, "where": error.where, "fix": error.fix, "lines": lines}
    named = [task.name] * is_plugin(task.name) + [task.grader] * is_plugin(task.grader, "task.grader")
    return {"file": file, "ok": True} | ({"plugins": named} if named else {})


def _code(row: Mapping[str, Any]) -> str:
    """What of a recipe was not looked at."""
    plugins = ", ".join(row.get("plugins", ()))
    return f"\n      not imported: {plugins} (`scrpo doctor -r {row['file']}` runs it)" if plugins else ""


@app.command("schema")
def schema(
    db: DbOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False
) -> None:
    """The JSON schema of a recipe: every key with its type, default and meaning. Editors can use it."""
    write_json(recipe_schema())
