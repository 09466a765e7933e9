"""The whole GRPO step, sampling and training, against TRL's GRPOTrainer on the same model, prompts and lengths.

Each side samples its own completions, all of the full length, and trains on them. What answers earn is given, so no
grader is timed: bench/world.py races the tiny world with its grader and its own lengths.

    python bench/step.py [--model tiny|25m|vocabulary] [--seconds N] [--trl-rows N] [--quick]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Grid, machine, options, report, shown, spread
from sides import Cell, cells, ratio, rounds
from update import GROUPS, LENGTHS, MICROBATCH, Race

PHASES = ("sample", "train", "step")


def measured(race: Race, table: Sequence[Cell], seconds: float) -> list[dict[str, Any]]:
    end, found = time.monotonic() + seconds, []
    for left, cell in zip(range(len(table), 0, -1), table):
        batch = race.batch(cell)
        work = {"ours": partial(race.ours["shared"].step, batch), "TRL": race.opponent(batch, samples=True).step}
        times = rounds(work, (end - time.monotonic()) / left, least=1)
        found.append(vars(cell) | {"name": cell.name, "alive": cell.alive} | summary(times))
        medians = ", ".join(f"{side} {found[-1]['step'][side]['median']:.2f} s" for side in ("ours", "TRL"))
        print(f"{cell.name}, signal in {cell.alive:.0%}: {medians}", flush=True)
    return found


def summary(times: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"rounds": times}
    for phase in PHASES:
        ours, trl = ([each[phase] for each in times[side]] for side in ("ours", "TRL"))
        found[phase] = {"ours": spread(ours), "TRL": spread(trl), "ratio": ratio(ours, trl)}
    return found


def grids(shape: str, found: Sequence[dict[str, Any]]) -> list[Grid]:
    heads = {"sample": "sampling", "train": "training", "step": "whole step"}
    columns = ["prompt : completion", "groups with signal", "ours, s", "TRL, s"]
    columns += [f"{head}, ours / TRL" for head in heads.values()]
    rows = [
        [
            row["name"],
            f"{row['alive']:.0%}",
            *(shown(row["step"][side], 2) for side in ("ours", "TRL")),
            *(shown(row[phase]["ratio"], 2) for phase in PHASES),
            str(row["step"]["ratio"]["n"]),
        ]
        for row in found
    ]
    return [Grid(f"{shape}, the whole step, medians (quartiles)", [*columns, "rounds"], rows)]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", choices=LENGTHS, default="tiny")
    parser.add_argument("--seconds", type=float, default=230, help="for the measurements (default 230)")
    parser.add_argument("--trl-rows", type=int, help="TRL's rows a micro-batch (default: as many tokens as ours)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape, before = args.model, machine()
    table = cells(LENGTHS[shape][:1] if args.quick else LENGTHS[shape], GROUPS[shape])
    with tempfile.TemporaryDirectory() as directory:
        race = Race(shape, Path(directory), MICROBATCH[shape], args.trl_rows)
        found = measured(race, table, 0 if args.quick else args.seconds)
    data = {"before": before, "model": shape, "microbatch_tokens": MICROBATCH[shape], "cells": found}
    name = "step" if shape == "tiny" else f"step-{shape}"
    report(name, grids(shape, found), data | {"trl_rows": args.trl_rows}, args.out)


if __name__ == "__main__":
    main()
