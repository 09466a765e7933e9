"""What was wanted of the update, its memory and the engines, beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from measuring import Grid

MODELS = {"update": "tiny", "update-25m": "25m", "update-vocabulary": "vocabulary"}
OF_GOALS = (*MODELS, "engines")
"""Sections that goals are about."""
PROPORTIONS = ("1:4", "1:1", "4:1", "16:1")
OVER_FLOOR, MEMORY, BARE = 1.15, 0.50, 0.97
OF_TRL = {"1:4": 0.70, "4:1": 0.30, "16:1": 0.20}
"""Wanted with signal in all groups; half of it with signal in half of them."""
Cell = Mapping[str, Any]


def goals(documents: Mapping[str, Mapping[str, Any]]) -> Grid:
    """One row a goal and proportion; a column of medians for each model that was measured."""
    measured = {name: documents[name]["cells"] for name in MODELS if name in documents}
    columns = ["goal", "prompt : completion", "wanted", *(MODELS[name] for name in measured)]
    rows = []

    def row(goal: str, proportion: str, wanted: str, of: Callable[[Cell], float | None], alive: float = 1.0) -> None:
        found = [value(cells, proportion, alive, of) for cells in measured.values()]
        rows.append([goal, proportion, wanted, *found])

    for proportion in PROPORTIONS:
        row("update / (floor x every row alone)", proportion, f"at most {OVER_FLOOR}", over_floor)
    for alive in (1.0, 0.5):
        for proportion, wanted in OF_TRL.items():
            signal = "all" if alive == 1 else "half"
            row(f"update / TRL's, signal in {signal}", proportion, f"at most {wanted * alive:.2f}", of_trl, alive)
    for proportion in PROPORTIONS:
        row("memory added / TRL's", proportion, f"at most {MEMORY:.2f} (vocabulary)", memory)
    return Grid("Goals, medians", columns, [*rows, *engine_rows(documents.get("engines"), len(measured))])


def value(cells: list[Cell], proportion: str, alive: float, of: Callable[[Cell], float | None]) -> str:
    for cell in cells:
        if simplified(cell) == proportion and cell["alive"] == alive and not cell["uneven"]:
            found = of(cell)
            return "" if found is None else f"{found:.2f}"
    return ""


def simplified(cell: Cell) -> str:
    prompt, completion = cell["prompt"], cell["completion"]
    return f"1:{completion // prompt}" if completion > prompt else f"{prompt // completion}:1"


def over_floor(cell: Cell) -> float:
    return float(cell["shared/alone"]["median"] / cell["floor"]["alone"])


def of_trl(cell: Cell) -> float:
    return float(cell["shared/TRL"]["median"])


def memory(cell: Cell) -> float | None:
    found = cell["memory_mib"]
    return found and found["shared"]["added"] / found["TRL"]["added"]


def engine_rows(document: Mapping[str, Any] | None, columns: int) -> list[list[str]]:
    found = []
    for load in document["loads"] if document else []:
        speeds = load["speeds"]
        if "vLLM" in speeds and columns:
            reached = median(a / b for a, b in zip(speeds["vLLM engine"], speeds["vLLM"]))
            name = ["vLLM engine / vLLM alone", f"{load['prompt']} : {load['tokens']}", f"at least {BARE}"]
            found.append([*name, f"{reached:.2f}", *[""] * (columns - 1)])
    return found


def read(directory: Path, newest: Callable[[Path, str], Path | None]) -> dict[str, Any]:
    paths = {name: newest(directory, name) for name in OF_GOALS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path}
