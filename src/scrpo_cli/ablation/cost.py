"""What a sweep will cost, before anything runs: tokens and disk by arithmetic, hours and database by a measurement."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrpo_cli.ablation.grid import Arm
from scrpo_cli.jobs import forecast
from scrpo_cli.jobs.budget import ARITHMETIC, duration, estimate, size
from scrpo_cli.layout import Prose, Table
from scrpo_cli.numbers import NOTHING
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class ArmCost:
    """Of one run of an arm, at most. `checkpoints` in bytes, None where the model is not here; `seconds` (of the
    fastest and of the slowest run) and `database` (bytes) only where they were measured.
    """

    arm: str
    generated_tokens: int
    evaluation_tokens: int
    checkpoints: int | None
    seconds: tuple[float, float] | None = None
    database: int | None = None


@dataclass(frozen=True)
class SweepCost:
    """`seeds`: fewest and most runs of an arm; `jobs`: runs at a time."""

    arms: Sequence[ArmCost]
    seeds: tuple[int, int]
    jobs: int

    def most(self, amounts: Sequence[int | None]) -> int | None:
        """Of all runs, at most; None where one is not known."""
        known = [amount for amount in amounts if amount is not None]
        return self.seeds[1] * sum(known) if len(known) == len(amounts) else None

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of the whole sweep, as if its runs filled all places to the end; runs side by side slow each other down, of
        which this knows nothing.
        """
        taken = [arm.seconds for arm in self.arms if arm.seconds is not None]
        if len(taken) < len(self.arms):
            return None
        fastest, slowest = (sum(times) for times in zip(*taken, strict=True))
        return self.seeds[0] * fastest / self.jobs, self.seeds[1] * slowest / self.jobs

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return asdict(self) | {
            "generated_tokens": self.most([arm.generated_tokens for arm in self.arms]),
            "evaluation_tokens": self.most([arm.evaluation_tokens for arm in self.arms]),
            "checkpoints": self.most([arm.checkpoints for arm in self.arms]),
            "database": self.most([arm.database for arm in self.arms]),
            "seconds": self.seconds,
        }


def cost_of(arms: Sequence[Arm], seeds: tuple[int, int], jobs: int = 1, measured: bool = False) -> SweepCost:
    """Of all arms; `measured`: a micro-step of each is taken on this machine."""
    return SweepCost([*_costs(arms, measured)], seeds, jobs)


def _costs(arms: Sequence[Arm], measured: bool) -> Iterator[ArmCost]:
    for arm in arms:
        with now().doing(f"arm {arm.name}"):
            budget = estimate(arm.recipe)
            evaluation = budget.evaluation.generated_tokens if budget.evaluation else 0
            checkpoints = budget.sizes.disk if budget.sizes else None
            cost = ArmCost(arm.name, budget.generated_tokens, evaluation, checkpoints)
            if measured:
                taken = forecast.measured(arm.recipe, budget)
                seconds = taken.fastest.all_seconds, taken.slowest.all_seconds
                cost = replace(cost, seconds=seconds, database=taken.slowest.database)
            yield cost


def render(cost: SweepCost) -> list[RenderableType]:
    """A row for each arm, and what all runs come to."""
    table = Table("arm", "generated tokens", "of evaluations", "checkpoints", "time", "database")
    for arm in cost.arms:
        disk, database = (NOTHING if n is None else size(n) for n in (arm.checkpoints, arm.database))
        tokens, evaluated = f"{arm.generated_tokens:,}", f"{arm.evaluation_tokens:,}"
        table.add_row(arm.arm, tokens, evaluated, disk, between(arm.seconds), database)
    lines = [f"Of one run, at most. {whole(cost)}"]
    if cost.seconds:
        beside = f"with {cost.jobs} at a time, each as fast as alone" if cost.jobs > 1 else "one after the other"
        lines.append(f"Time of all, {beside}: {between(cost.seconds)}.")
    else:
        lines.append(ARITHMETIC)
    return [table, *map(Prose, lines)]


DISK = ("checkpoints", "database")


def whole(cost: SweepCost) -> str:
    """What all runs come to, in a sentence."""
    fewest, most = (len(cost.arms) * seeds for seeds in cost.seeds)
    runs = f"{most}" if fewest == most else f"{fewest} to {most}"
    found = cost.as_dict()
    parts = [f"{found['generated_tokens']:,} generated tokens", f"{found['evaluation_tokens']:,} of evaluations"]
    parts += [f"{size(found[what])} of {what}" for what in DISK if found[what] is not None]
    return f"All {runs} runs, at most: {', '.join(parts)}."


def over_the_disk(cost: SweepCost, folder: Path) -> str:
    """A sentence where all checkpoints may take more than is free; empty otherwise."""
    needed, free = cost.as_dict()["checkpoints"] or 0, shutil.disk_usage(folder).free
    if needed <= free:
        return ""
    fix = "Lower checkpoint.keep, or put the database (--db) where there is more"
    return f"Over the disk there is: {size(free)} are free in {folder}, and checkpoints may take {size(needed)}. {fix}."


def between(seconds: tuple[float, float] | None) -> str:
    return forecast.between(*map(duration, seconds)) if seconds else NOTHING
