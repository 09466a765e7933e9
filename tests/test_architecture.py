"""The promises of the layout: `--help` loads nothing heavy, imports run downwards, shipped recipes are valid."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scrpo_cli
from scrpo_cli.cli.app import COMMANDS
from scrpo_cli.recipe.load import load_recipe, shipped_recipes

PACKAGE = Path(scrpo_cli.__file__).parent
HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "sqlmodel", "scipy", "matplotlib", "wandb", "datasets")
LAYERS = (
    {"types", "errors", "rng", "files", "plugins", "section", "assets"},
    {"methods"},
    {"recipe"},
    {"pool"},
    {"rollout", "tasks", "tracking"},
    {"training", "evaluation"},
    {"jobs"},
    {"ablation", "report"},
    {"cli", "__main__"},
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports anywhere in it, as a dotted name; type-checking blocks count too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_graph() -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("scrpo_cli.")}
        graph.setdefault(room, set()).update(ours - {room})
    return graph


def test_every_room_has_a_layer() -> None:
    assert set(room_graph()) - {"__init__"} <= set().union(*LAYERS)


def test_imports_run_downwards() -> None:
    level = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}
    upwards = [f"{a} -> {b}" for a, rooms in room_graph().items() for b in rooms if level.get(b, 0) > level.get(a, 0)]
    assert not upwards


def test_no_circles_between_rooms() -> None:
    graphlib.TopologicalSorter(room_graph()).prepare()  # raises CycleError with the circle


def test_methods_see_no_engine_database_or_tracker() -> None:
    assert room_graph()["methods"] == {"types", "errors", "rng", "section", "plugins"}


@pytest.mark.parametrize("room", ["cli", "recipe"])
def test_nothing_heavy_at_the_top_of_light_modules(room: str) -> None:
    names = [p.stem for p in (PACKAGE / room).glob("*.py") if p.stem != "__init__"]
    code = f"import sys\nfor n in {names}: __import__('scrpo_cli.{room}.' + n)\n"
    loaded = python(code + f"print(*[m for m in {HEAVY} if m in sys.modules])")
    assert loaded.split() == []


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = """
import sys
from scrpo_cli.cli.app import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", *sys.modules)
"""
    shown, loaded = python(code).rsplit("loaded:", 1)
    assert "recipe" in shown
    assert not set(loaded.split()) & {*HEAVY, "numpy", "pydantic", "yaml"}
    commands = {f"scrpo_cli.cli.{target.split(':')[0]}" for target, _ in COMMANDS.values()}
    assert not set(loaded.split()) & commands


def test_shipped_recipes_show_and_check(tmp_path: Path) -> None:
    """Through the command line; what `show` prints is itself the same recipe."""
    scrpo = [sys.executable, "-m", "scrpo_cli", "recipe"]
    copies = []
    for name in shipped_recipes():
        shown = subprocess.run([*scrpo, "show", name], capture_output=True, text=True, check=True).stdout
        copies.append(tmp_path / f"{name}.yaml")
        copies[-1].parent.mkdir(exist_ok=True)
        copies[-1].write_text(shown)
        assert load_recipe(copies[-1]) == load_recipe(name)
    command = [*scrpo, "check", *shipped_recipes(), *map(str, copies), "--json"]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["ok"] for row in json.loads(checked.stdout)["files"]] == [True] * 2 * len(copies)
