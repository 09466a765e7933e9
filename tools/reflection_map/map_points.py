"""The points of a map, from the database alone: what `scrpo advise` measured in a cell, and what its sweep found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from map_plan import ABLATE, ADVISE, Cell, Plan, newest

from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.ablation.table import read_result
from scrpo_cli.evaluation.advice import LIKELY, UNLIKELY
from scrpo_cli.pool.db import Database


@dataclass(frozen=True)
class Point:
    """One arm of a cell against the first: their accuracies after training ({"value", "ci95"}) and the paired
    `difference` (`ablation.table`), beside what `measured` says of the start (`evaluation.worth`).
    """

    cell: str
    arm: str
    against: str
    measured: Mapping[str, Any]
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    difference: Mapping[str, Any]

    @property
    def ci95(self) -> Sequence[float]:
        """Over problems and seeds; over problems alone where there are too few seeds for the other."""
        return self.difference["ci95_seeds"] or self.difference["ci95"]

    @property
    def truth(self) -> str | None:
        """What the rule should have said: whether the arm is ahead or behind; None where the cell cannot tell."""
        low, high = self.ci95
        return LIKELY if low > 0 else UNLIKELY if high < 0 else None


def read_points(db: Database, plan: Plan) -> tuple[list[Point], list[str]]:
    """The points of all cells that have any, and a line for what is missing of each other cell."""
    points, missing = [], []
    for cell in plan.cells:
        found, why = points_of(db, cell, plan)
        points += found
        missing += [f"{cell.name}: {why}"] if why else []
    return points, missing


def points_of(db: Database, cell: Cell, plan: Plan) -> tuple[list[Point], str]:
    advised, swept = newest(db, ADVISE, cell.mark), newest(db, ABLATE, cell.mark)
    if advised is None or advised.status != "done":
        return [], "not measured yet"
    if swept is None:
        return [], "not trained yet"
    result, _ = read_result(db, [find_sweep(db, swept.id)])
    arms = result.arms if result else []
    pairs = [arm for arm in arms if arm.difference]
    if not pairs:
        return [], "no seed is done in two arms"
    seeds = min(len(arm.difference["seeds"]) for arm in pairs)
    unfinished = len(pairs) < len(plan.recipes) - 1 or seeds < plan.seeds
    measured, first = json.loads(advised.summary_json), arms[0]
    points = [
        Point(cell.name, arm.arm, first.arm, measured, arm.after.first, first.after.first, arm.difference)
        for arm in pairs
    ]
    return points, f"{seeds} of {plan.seeds} seeds are done in all arms" if unfinished else ""
