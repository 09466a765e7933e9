"""When does reflecting on errors pay? Train arms in every cell of a plan, and draw the map.

    python tools/reflection_map run PLAN.yaml --db map.db --minutes 60      # again and again, until nothing is left
    python tools/reflection_map show PLAN.yaml --db map.db -o PAGE.md --figure map.svg

A plan names arms (recipes), and cells: every model at every difficulty.

    name: think
    recipes: [race/grpo, race/scrpo-best]      # the others are compared with the first
    seeds: 4
    problems: 128                               # of `scrpo advise`, which measures each cell before training
    set: {optim.max_generated_tokens: 60000, tracking.wandb.mode: "off"}
    models: {checks: models/checks, seldom: models/seldom}
    difficulties:
      l4c3: {task.think.lines: 4, task.think.carries: 3}
      l2c0: {task.think.lines: 2, task.think.carries: 0}

`run` starts no further command once --minutes are over, and takes up what was interrupted. `show` fills the tables
`map`, `regions` and `rule` between `<!-- begin table NAME -->` and `<!-- end table NAME -->` of a page, from the
database alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from map_page import draw, tables
from map_plan import Cell, Plan, read_plan, to_do
from map_points import read_points

sys.path.append(str(Path(__file__).resolve().parents[1]))
from results_page import fill, read_page
from sittings import Part, parser, place_of, reported, sit

from scrpo_cli.ablation.executors.base import Executor
from scrpo_cli.ablation.executors.local import LocalExecutor
from scrpo_cli.errors import RunError
from scrpo_cli.files import file_stem
from scrpo_cli.pool.db import Database
from scrpo_cli.signals import interrupting


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)

    def work() -> None:
        plan = read_plan(options.plan)
        if options.action == "run":
            with interrupting():
                run(plan, options.db, place_of(options), options.minutes, LocalExecutor(say=print))
        else:
            show(plan, options.db, options.output, options.prefix, options.figure)

    return reported(work)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    whole, actions = parser("reflection_map", __doc__, "command")
    showing = actions.choices["show"]
    showing.add_argument("--prefix", default="", help="of the tables' names, where a page has several maps")
    showing.add_argument("--figure", metavar="FILE", type=Path, help="also draw the map, .png or .svg")
    for action in actions.choices.values():
        action.add_argument("plan", type=Path, help="a YAML file")
    return whole.parse_args(arguments)


def run(plan: Plan, db: str, place: Sequence[str], minutes: float, executor: Executor) -> None:
    with Database.open(db) as database:
        logs = database.home / "maps" / file_stem(plan.name)
    parts = [Part(cell.name, partial(of_cell, db, plan, cell, place)) for cell in plan.cells]
    sit(parts, ("cell", "cells"), logs, db, minutes, executor)


def of_cell(db: str, plan: Plan, cell: Cell, place: Sequence[str]) -> list[list[str]]:
    """The commands that complete it."""
    with Database.open(db) as database:
        return to_do(database, plan, cell, place)


def show(plan: Plan, db: str, output: Path, prefix: str, figure: Path | None) -> None:
    with Database.open(db, create=False) as database:
        points, missing = read_points(database, plan)
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    if not points:
        raise RunError("No cell has a result yet", plan.name, "`run` it first, against the same database.")
    text, written = fill(read_page(output), tables(points), prefix)
    output.write_text(text, encoding="utf-8")
    if figure:
        draw(points, figure)
    print(f"{output}: {', '.join(written)} of {len(points)} points")


if __name__ == "__main__":
    sys.exit(main())
