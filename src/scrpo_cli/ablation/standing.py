"""How a sweep stands while it runs, by the database: whoever runs the runs, here or elsewhere, they write there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from scrpo_cli.ablation.sweep import Sweep, runs_by_cell
from scrpo_cli.ablation.tuning import accuracy_after
from scrpo_cli.errors import ScrpoError
from scrpo_cli.layout import Table
from scrpo_cli.numbers import NOTHING, percent
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import seconds_of, steps_of
from scrpo_cli.tracking.activity import now

REFRESH_S = 3.0
"""Seconds for which what was read counts as how things are."""


@dataclass(frozen=True)
class ArmStanding:
    """The runs of one arm. `under_way`: share of its tokens that each seed has spent whose run is neither done nor
    failed; `accuracy`: mean of first answers after training, of the runs that are done.
    """

    arm: str
    seeds: int
    done: int
    failed: int
    under_way: dict[int, float]
    accuracy: float | None

    @property
    def worked(self) -> float:
        """Runs' worth of work; a run that failed has nothing left to do."""
        return self.done + self.failed + sum(self.under_way.values())


Known = dict[str, float | None]
"""What runs that are done have reached, by their ids: that does not change, and is read once."""


def standing(db: Database, sweep: Sweep, known: Known | None = None) -> list[ArmStanding]:
    """Of all arms, in their order; what is `known` is not read again, and what is read is put there."""
    known = {} if known is None else known
    runs = runs_by_cell(db, sweep)
    for run in runs.values():
        if run.status == "done" and run.id not in known:
            known[run.id] = accuracy_after(db, run)
    return [
        arm_standing(db, arm.name, [runs.get(cell) for cell in sweep.cells if cell.arm == arm.name], sweep, known)
        for arm in sweep.arms
    ]


def arm_standing(db: Database, arm: str, runs: Sequence[RunRow | None], sweep: Sweep, known: Known) -> ArmStanding:
    done = [run for run in runs if run and run.status == "done"]
    reached = [accuracy for run in done if (accuracy := known[run.id]) is not None]
    return ArmStanding(
        arm=arm,
        seeds=len(runs),
        done=len(done),
        failed=sum(run is not None and run.status == "failed" for run in runs),
        under_way={
            run.seed: share_spent(db, run, sweep) for run in runs if run and run.status not in ("done", "failed")
        },
        accuracy=sum(reached) / len(reached) if reached else None,
    )


def share_spent(db: Database, run: RunRow, sweep: Sweep) -> float:
    """Of what a run may spend."""
    steps = steps_of(db, run.id)
    spent = {
        "tokens": max((step.metrics.get("tokens/total") or 0.0 for step in steps), default=0.0),
        "steps": len(steps),
        "seconds": seconds_of(steps),
    }
    return min(1.0, spent[sweep.match.name] / sweep.budget)


def standing_table(standings: Sequence[ArmStanding]) -> Table:
    """For a terminal."""
    table = Table("arm", "done", "under way", "first answers")
    for arm in standings:
        done = f"{arm.done}/{arm.seeds}" + (f", {arm.failed} failed" if arm.failed else "")
        under_way = ", ".join(f"seed {seed} {share:.0%}" for seed, share in arm.under_way.items())
        table.add_row(arm.arm, done, under_way or NOTHING, percent(arm.accuracy))
    return table


class Watch:
    """A table that is read anew when it is old."""

    def __init__(self, db: Database, sweep: Sweep) -> None:
        self._db, self._sweep = db, sweep
        self._at, self._table = float("-inf"), Table()
        self._known: Known = {}

    def render(self) -> Table:
        """Also tells how much of everything is done, by which the time left is told. A database that cannot be read
        just now leaves the table as it was: the sweep itself says what is wrong with it.
        """
        if time.monotonic() >= self._at + REFRESH_S:
            with suppress(ScrpoError, SQLAlchemyError):
                arms = standing(self._db, self._sweep, self._known)
                now().whole(sum(arm.worked for arm in arms), sum(arm.seeds for arm in arms))
                self._table = standing_table(arms)
            self._at = time.monotonic()
        return self._table


@contextmanager
def shown_live(db: Database, sweep: Sweep) -> Iterator[None]:
    """Above the live line of a terminal, for as long as the context lasts."""
    activity = now()
    activity.panel = Watch(db, sweep).render
    try:
        yield
    finally:
        activity.panel = None
