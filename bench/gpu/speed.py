"""On a GPU: the update and its share of the matrix ceiling, the whole step, the engines, the tiny world beside a CPU.

Models of Qwen2.5's shapes with random weights, in bfloat16. TRL and vLLM take part where they are installed. Without a
GPU the same path runs on a tiny model in seconds, and its numbers mean nothing.

    python bench/gpu/speed.py [--models qwen2.5-0.5b,qwen2.5-1.5b] [--seconds N] [--out DIR]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from smoke import train

sys.path.insert(0, str(Path(__file__).parents[1]))
import engines
from measuring import MIB, Grid, machine, report, shown, spread, timed
from models import SHAPES, build
from sides import Batch, Cell, Ours, cells, our_policy, ratio, recipe_of, rounds

from scrpo_cli.training.policy import Policy

HAS_TRL = importlib.util.find_spec("trl") is not None
WAYS = ("shared", "alone", *(["TRL"] if HAS_TRL else []))


@dataclass(frozen=True)
class Scale:
    """What is measured on a GPU, and the same in small where there is none."""

    models: tuple[str, ...]
    dtype: torch.dtype
    lengths: tuple[tuple[int, int], ...]
    groups: int
    microbatch: int
    step: tuple[int, int]
    """Prompt and completion tokens of the whole step; the completion is sampled token by token."""
    loads: tuple[tuple[int, int, int], ...]
    """Of engines: groups, prompt, tokens."""
    matrix: int
    world_steps: int
    seconds: float
    """For the measurements of each model; the least that is measured may take longer."""


GPU = Scale(
    models=("qwen2.5-0.5b", "qwen2.5-1.5b"),
    dtype=torch.bfloat16,
    lengths=((256, 1024), (512, 512), (1024, 256), (2048, 128)),
    groups=4,
    microbatch=16_384,
    step=(512, 128),
    loads=((8, 256, 64),),
    matrix=8192,
    world_steps=20,
    seconds=60,
)
CPU = Scale(("tiny",), torch.float32, ((16, 64), (64, 4)), 2, 512, (32, 8), ((2, 16, 8),), 512, 2, 0)


def ceiling(size: int, dtype: torch.dtype) -> dict[str, float | int]:
    """TFLOP/s of a square matrix product, ten in a row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def products() -> None:
        for _ in range(10):
            a @ b

    products()
    return spread(10 * 2 * size**3 / timed(products) / 1e12 for _ in range(5))


def flops(policy: Policy, cell: Cell, shared: bool) -> float:
    """Of an update: a forward pass and the gradient of what it passed on, 4 for each weight and computed token. The
    weights are frozen and have no gradient; attention between tokens, the adapter's own products and what the output
    layer computes twice to save memory are not counted.
    """
    base = policy.model.get_base_model()
    body = sum(p.numel() for p in base.get_decoder().parameters()) - base.get_input_embeddings().weight.numel()
    head = base.get_output_embeddings().weight.numel()
    prompts = cell.alive * (cell.groups if shared else cell.rows) * cell.prompt
    completions = cell.alive * cell.rows * cell.completion
    return 4.0 * (body * (prompts + completions) + head * completions)


class Model:
    """One shape with its policy, and TRL's own where TRL is."""

    def __init__(self, shape: str, scale: Scale, directory: Path) -> None:
        self.shape, self.scale, self.directory = shape, scale, directory
        path = build(shape, directory / shape, scale.dtype)
        sets = [f"model.dtype={str(scale.dtype).removeprefix('torch.')}", "model.device=auto", "model.threads="]
        self.recipes = [recipe_of(path, scale.microbatch, share, sets) for share in (True, False)]
        self.policy = our_policy(self.recipes[0])
        self.ours = [Ours(self.policy, recipe) for recipe in self.recipes]

    def ways(self, cell: Cell) -> dict[str, Callable[[], float]]:
        batch = self.batch(cell)
        found: dict[str, Callable[[], float]] = {w: partial(o.update, batch) for w, o in zip(WAYS, self.ours)}
        if HAS_TRL:
            trl = self.opponent(batch, samples=False)
            found["TRL"] = lambda: trl.step()["train"]
        return found

    def batch(self, cell: Cell) -> Batch:
        return Batch(cell, SHAPES[self.shape].vocab_size)

    @cached_property
    def theirs(self) -> Policy:
        return our_policy(self.recipes[0])

    def opponent(self, batch: Batch, samples: bool) -> Any:
        from trl_side import Opponent

        rows = batch.cell.rows_within(self.scale.microbatch)
        return Opponent(self.theirs, batch, rows, self.directory / "trl", samples)

    def update(self, cell: Cell, seconds: float, peak_tflops: float) -> dict[str, Any]:
        memory: dict[str, float] = {}
        work = {way: partial(watching_memory, way, one, memory) for way, one in self.ways(cell).items()}
        times = rounds(work, seconds, least=2)
        found: dict[str, Any] = {"model": self.shape, "name": cell.name, "alive": cell.alive, "floor": cell.floor}
        found |= {"seconds": {w: spread(t) for w, t in times.items()}, "peak_mib": memory, "rounds": times}
        found |= {f"shared/{way}": ratio(times["shared"], times[way]) for way in WAYS[1:]}
        for way, shared in (("shared", True), ("alone", False)):
            done = flops(self.policy, cell, shared) / found["seconds"][way]["median"] / 1e12
            found[f"mfu_{way}"] = done / peak_tflops
        return found

    def step(self) -> dict[str, Any]:
        batch = self.batch(Cell(*self.scale.step, self.scale.groups))
        sides = {"ours": partial(self.ours[0].step, batch)}
        if HAS_TRL:
            sides["TRL"] = self.opponent(batch, samples=True).step
        times = rounds(sides, 0, least=2)
        phases = {s: {p: spread(e[p] for e in each) for p in each[0]} for s, each in times.items()}
        return {"model": self.shape, "name": batch.cell.name, "rows": batch.cell.rows, "sides": phases}


def watching_memory(way: str, work: Callable[[], float], memory: dict[str, float]) -> float:
    """`work`, and the largest peak of the accelerator's memory in `memory`; of a CPU's it says nothing."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = work()
    if torch.cuda.is_available():
        memory[way] = max(memory.get(way, 0.0), torch.cuda.max_memory_allocated() / MIB)
    return seconds


def world(steps: int, directory: Path) -> dict[str, Any]:
    """The tiny world trained on the CPU and on this machine's accelerator, with the same draws."""
    found = {}
    for device in ("cpu", "auto"):
        (directory / device).mkdir()
        sets = [f"model.device={device}", "model.dtype=float32", f"optim.steps={steps}", "tracking.wandb.mode=off"]
        sets += ["task.validation=", "task.test=", "optim.max_generated_tokens=", "rollout.engine=transformers"]
        start = time.perf_counter()
        found[device] = {"steps": train("tiny-grpo", directory / device, sets), "seconds": time.perf_counter() - start}
    return found


def world_grid(found: dict[str, Any]) -> Grid:
    """The same draws give the same answers until a rounding turns a token; from there on, rewards compare."""
    cpu, here = (found[device]["steps"] for device in ("cpu", "auto"))
    same = sum(a["rollout/tokens"] == b["rollout/tokens"] for a, b in zip(cpu, here, strict=True))
    rows = [
        [
            device,
            f"{found[device]['seconds']:.0f}",
            f"{steps[0]['first/reward']:.3f}",
            f"{np.mean([s['first/reward'] for s in steps[-5:]]):.3f}",
            f"{steps[0]['train/loss']:.6f}",
            f"{max(s['train/drift'] for s in steps):.1e}",
        ]
        for device, steps in (("cpu", cpu), ("auto", here))
    ]
    columns = ["device", "seconds", "reward of step 1", "of the last 5", "loss of step 1", "largest drift"]
    return Grid(f"tiny world, {len(cpu)} steps of GRPO in float32; {same} with as many tokens", columns, rows)


def update_grid(found: Sequence[dict[str, Any]], peak_tflops: float) -> Grid:
    columns = ["model", "prompt : completion", "groups with signal", *(f"{way}, s" for way in WAYS)]
    columns += [f"shared / {way}" for way in WAYS[1:]] + ["floor, to alone", "peak MiB", "MFU shared", "MFU alone"]
    rows = [
        [
            row["model"],
            row["name"],
            f"{row['alive']:.0%}",
            *(shown(row["seconds"][way], 2) for way in WAYS),
            *(shown(row[f"shared/{way}"], 2) for way in WAYS[1:]),
            f"{row['floor']:.2f}",
            ", ".join(f"{way} {row['peak_mib'][way]:,.0f}" for way in WAYS if way in row["peak_mib"]),
            f"{row['mfu_shared']:.0%}",
            f"{row['mfu_alone']:.0%}",
        ]
        for row in found
    ]
    return Grid(f"the update, medians (quartiles); matrix products reach {peak_tflops:,.1f} TFLOP/s", columns, rows)


def step_grid(found: Sequence[dict[str, Any]]) -> Grid:
    rows = [
        [row["model"], row["name"], str(row["rows"]), side, *(shown(times[p], 2) for p in ("sample", "train", "step"))]
        for row in found
        for side, times in row["sides"].items()
    ]
    columns = ["model", "prompt : completion", "rows", "side", "sampling, s", "training, s", "step, s"]
    return Grid("the whole step, medians (quartiles)", columns, rows)


def measured(
    shapes: Sequence[str], scale: Scale, seconds: float, console: Console
) -> tuple[list[Grid], dict[str, Any]]:
    """The tables, that of the update last, and what is in them."""
    highest = ceiling(scale.matrix, scale.dtype)
    peak = float(highest["median"])
    console.print(f"matrix products of {scale.matrix}: {shown(highest, 1)} TFLOP/s")
    updates, steps, sampled, grids = [], [], [], []
    table = cells(scale.lengths, scale.groups)
    for shape in shapes:
        with tempfile.TemporaryDirectory() as directory:
            model = Model(shape, scale, Path(directory))
            console.print(f"{shape} is built")
            updates += [model.update(cell, seconds / len(table) / 2, peak) for cell in table]
            console.print(f"{shape}: updates are measured")
            steps.append(model.step())
            vocabulary = SHAPES[shape].vocab_size
            recipe = model.recipes[0]
            del model
            found = engines.measured(recipe, Path(directory), vocabulary, seconds / 4, scale.loads)
            console.print(f"{shape}: steps and engines are measured")
            sampled.append({"model": shape, "loads": found})
            grids.append(engines.grid(found, f"{shape}, sampling, medians (quartiles)"))
    with tempfile.TemporaryDirectory() as directory:
        both = world(scale.world_steps, Path(directory))
    tables = [*grids, step_grid(steps), world_grid(both), update_grid(updates, peak)]
    data = {"microbatch_tokens": scale.microbatch, "ceiling_tflops": highest, "updates": updates}
    data |= {"steps": steps, "engines": sampled, "world": both}
    return tables, data


def main() -> None:
    scale = GPU if torch.cuda.is_available() else CPU
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(scale.models), help=f"some of: {', '.join(SHAPES)}")
    parser.add_argument("--seconds", type=float, default=scale.seconds, help="for the measurements of each model")
    parser.add_argument("--microbatch", type=int, default=scale.microbatch, help="tokens (less for a small GPU)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    args = parser.parse_args()
    console, before, scale = Console(), machine(), replace(scale, microbatch=args.microbatch)
    if not torch.cuda.is_available():
        console.print("No CUDA here: the same path on a tiny model. Its numbers mean nothing.")
    grids, data = measured(args.models.split(","), scale, args.seconds, console)
    report("gpu-speed", grids, {"before": before} | data, args.out)


if __name__ == "__main__":
    main()
