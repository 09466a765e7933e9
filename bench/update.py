"""The update: an optimizer step with shared prefixes, with every row alone, and by TRL's GRPOTrainer, on the same rows.

All three have the same model, LoRA and rows, and as many tokens a micro-batch. The seconds are those of forward,
backward and optimizer, in turn in one process; the memory is of one step in a process of its own.

    python bench/update.py [--model tiny|25m|vocabulary] [--seconds N] [--trl-rows N] [--quick]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Grid, machine, options, peak, report, shown, spread
from models import SHAPES, build
from sides import Batch, Cell, Ours, cells, our_policy, ratio, recipe_of, rounds
from trl_side import Opponent

LENGTHS = {
    "tiny": ((64, 256), (128, 128), (256, 64), (512, 32)),
    "25m": ((32, 128), (64, 64), (128, 32), (256, 16)),
    "vocabulary": ((16, 64), (32, 32), (64, 16), (128, 8)),  # its output layer alone takes seconds
}
"""Prompt and completion tokens at 1:4, 1:1, 4:1 and 16:1, by model."""
GROUPS = {"tiny": 4, "25m": 2, "vocabulary": 2}
MICROBATCH = {"tiny": 2560, "25m": 1280, "vocabulary": 640}
"""Tokens of a micro-batch: eight rows of 320, 160 or 80 tokens."""
WAYS = ("shared", "alone", "TRL")


class Race:
    """The three ways of one model: ours on one policy and TRL's on another one like it."""

    def __init__(self, shape: str, directory: Path, microbatch: int, trl_rows: int | None = None) -> None:
        model = build(shape, directory / "model")
        recipes = [recipe_of(model, microbatch, share) for share in (True, False)]
        policy, self.theirs = our_policy(recipes[0]), our_policy(recipes[0])
        self.ours = dict(zip(WAYS, (Ours(policy, recipe) for recipe in recipes)))
        self.vocabulary, self.directory = SHAPES[shape].vocab_size, directory
        self.microbatch, self.trl_rows = microbatch, trl_rows

    def batch(self, cell: Cell) -> Batch:
        return Batch(cell, self.vocabulary)

    def opponent(self, batch: Batch, samples: bool) -> Opponent:
        rows = self.trl_rows or batch.cell.rows_within(self.microbatch)
        return Opponent(self.theirs, batch, rows, self.directory / "trl", samples)

    def updates(self, cell: Cell) -> dict[str, Callable[[], float]]:
        batch = self.batch(cell)
        batch.recorded()  # the rows are drawn before anything is measured
        trl = self.opponent(batch, samples=False)
        ours = {way: partial(side.update, batch) for way, side in self.ours.items()}
        return {**ours, "TRL": lambda: trl.step()["train"]}

    def memory(self, cell: Cell) -> dict[str, dict[str, float]]:
        return {way: peak(lambda way=way: self.updates(cell)[way]) for way in WAYS}


def measured(race: Race, table: Sequence[Cell], seconds: float) -> list[dict[str, Any]]:
    """Memory first, while nothing has worked in this process; what is left of the time is shared by the cells."""
    end, memory, found = time.monotonic() + seconds, {}, []
    for cell in table:
        if not (cell.silent or cell.uneven):
            memory[cell] = race.memory(cell)
            print(f"{cell.name}: memory is measured", flush=True)
    for left, cell in zip(range(len(table), 0, -1), table):
        times = rounds(race.updates(cell), (end - time.monotonic()) / left, least=1)
        found.append(vars(cell) | summary(cell, times) | {"memory_mib": memory.get(cell)})
        medians = ", ".join(f"{way} {found[-1]['seconds'][way]['median']:.2f} s" for way in WAYS)
        print(f"{cell.name}, signal in {cell.alive:.0%}: {medians}", flush=True)
    return found


def summary(cell: Cell, times: dict[str, list[float]]) -> dict[str, Any]:
    """Floors are of tokens: of what every row alone computes, and of what TRL does, which knows no silent groups."""
    return {
        "name": cell.name,
        "alive": cell.alive,
        "seconds": {way: spread(times[way]) for way in WAYS},
        "shared/alone": ratio(times["shared"], times["alone"]),
        "shared/TRL": ratio(times["shared"], times["TRL"]),
        "floor": {"alone": cell.floor, "TRL": cell.floor * cell.alive},
        "rounds": times,
    }


def grids(shape: str, found: Sequence[dict[str, Any]]) -> list[Grid]:
    title = f"{shape}, seconds of an optimizer step, medians (quartiles)"
    columns = ["prompt : completion", "groups with signal", *WAYS, "shared / alone", "floor", "shared / TRL", "floor"]
    rows = []
    for row in found:
        times = [shown(row["seconds"][way], 2) for way in WAYS]
        ratios = [[shown(row[f"shared/{way}"], 2), f"{row['floor'][way]:.2f}"] for way in WAYS[1:]]
        rows.append([row["name"], f"{row['alive']:.0%}", *times, *ratios[0], *ratios[1]])
        rows[-1].append(str(row["shared/TRL"]["n"]))
    return [Grid(title, [*columns, "rounds"], rows), memory_grid(shape, found)]


def memory_grid(shape: str, found: Sequence[dict[str, Any]]) -> Grid:
    """Peaks of one step: what it adds to what a process with the model has, and the process as a whole."""
    rows = []
    for row in found:
        if memory := row["memory_mib"]:
            cells = [f"{memory[way]['added']:,.0f} ({memory[way]['peak']:,.0f})" for way in WAYS]
            added = [memory["shared"]["added"] / memory[way]["added"] for way in WAYS[1:]]
            whole = memory["shared"]["peak"] / memory["TRL"]["peak"]
            rows.append([row["name"], *cells, *(f"{each:.2f}" for each in added), f"{whole:.2f}"])
    ways = [f"{way}, MiB added (whole process)" for way in WAYS]
    columns = ["prompt : completion", *ways, "shared / alone, added", "shared / TRL, added", "shared / TRL, whole"]
    return Grid(f"{shape}, peak memory of an optimizer step", columns, rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", choices=LENGTHS, default="tiny")
    parser.add_argument("--seconds", type=float, default=230, help="for the measurements (default 230)")
    parser.add_argument("--trl-rows", type=int, help="TRL's rows a micro-batch (default: as many tokens as ours)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape, before = args.model, machine()
    lengths = LENGTHS[shape][:1] if args.quick else LENGTHS[shape]
    table = cells(lengths, GROUPS[shape], uneven=shape == "tiny")
    with tempfile.TemporaryDirectory() as directory:
        race = Race(shape, Path(directory), MICROBATCH[shape], args.trl_rows)
        found = measured(race, table, 0 if args.quick else args.seconds)
    data = {"before": before, "model": shape, "microbatch_tokens": MICROBATCH[shape], "cells": found}
    name = "update" if shape == "tiny" else f"update-{shape}"
    report(name, grids(shape, found), data | {"trl_rows": args.trl_rows}, args.out)


if __name__ == "__main__":
    main()
