"""The promises of the layout: `--help` loads nothing heavy, imports run downwards, shipped recipes are valid.

All imports count: also those inside of functions, which hide a circle, and those for type checkers.
"""

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
from scrpo_cli.cli.app import COMMANDS, main
from scrpo_cli.methods.registry import NAMES, method_class
from scrpo_cli.recipe.load import load_recipe, shipped_recipes

PACKAGE = Path(scrpo_cli.__file__).parent
HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "sqlmodel", "scipy", "matplotlib", "wandb", "datasets")
BASE = "types errors rng numbers plugins section assets hub files streams signals threads layout launch"
LAYERS = (
    set(BASE.split()),
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
    """Every name that a file imports anywhere in it, as a dotted name."""
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


def file_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """File -> the other files of the package that it imports, as dotted names. That a module's package is imported
    with it does not count.
    """
    paths = {name_of(path, package): path for path in package.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        nearest = ((n if n in paths else n.rpartition(".")[0]) for n in imports(path))
        graph[name] = {n for n in nearest if n in paths} - {name}
    return graph


def name_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, the first one again at the end; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_a_layer() -> None:
    assert set(room_graph()) - {"__init__"} <= set().union(*LAYERS)


def test_imports_run_downwards() -> None:
    level = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}
    upwards = [f"{a} -> {b}" for a, rooms in room_graph().items() for b in rooms if level.get(b, 0) > level.get(a, 0)]
    assert not upwards


def test_no_circles_between_rooms() -> None:
    assert not circle(room_graph())


def test_no_circles_between_files() -> None:
    assert not circle(file_graph())


@pytest.mark.parametrize(
    ("lazy", "found"),
    [
        ("def f():\n    from scrpo_cli.a import one", True),
        ("def f():\n    import scrpo_cli.a", True),
        ("if TYPE_CHECKING:\n    from scrpo_cli import a", True),
        ("def f():\n    from scrpo_cli.c import one", False),
    ],
)
def test_a_hidden_circle_is_seen(tmp_path: Path, lazy: str, found: bool) -> None:
    files = {"__init__": "", "a": "from scrpo_cli.b import two", "b": lazy, "c": ""}
    package = tmp_path / "scrpo_cli"
    package.mkdir()
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    assert sorted(set(circle(file_graph(package)))) == (["scrpo_cli.a", "scrpo_cli.b"] if found else [])


def test_a_report_reads_a_sweep_and_not_the_reverse() -> None:
    graph = room_graph()
    assert "ablation" in graph["report"]
    assert not any("report" in rooms for room, rooms in graph.items() if room != "cli")


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


def test_shipped_recipes_show_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line; what `show` prints is itself the same recipe."""

    def scrpo(*args: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["recipe", *map(str, args)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    copies = []
    for name in shipped_recipes():
        copies.append(tmp_path / f"{name}.yaml")
        copies[-1].parent.mkdir(exist_ok=True)
        copies[-1].write_text(scrpo("show", name))
        assert load_recipe(copies[-1]) == load_recipe(name)
    checked = json.loads(scrpo("check", *shipped_recipes(), *copies, "--json"))
    assert [row["ok"] for row in checked["files"]] == [True] * 2 * len(copies)


def test_nothing_outside_the_methods_asks_which_method_it_is() -> None:
    """What the rest has to know of a method is asked of its needs."""
    names = {config.__name__ for name in NAMES for config in method_class(name).Config.__mro__} - {"object"}
    names -= {"BaseModel", "ABC", "Section", "MethodConfig", "Generic"}
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "methods"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and names & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    ]
    assert found == []
