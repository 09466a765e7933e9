"""Which attempts a report shows: a draw by a rule that the report states, so that nobody chose them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, RunRow
from scrpo_cli.pool.queries import EVALUATED
from scrpo_cli.pool.records import IS_INJECTED
from scrpo_cli.rng import generator
from scrpo_cli.tracking.activity import now

DEFAULT_ATTEMPTS, DEFAULT_TOKENS = 400, 120_000
"""What is shown unless a number is given: attempts, and tokens of these."""


@dataclass(frozen=True)
class Place:
    """Where an attempt stands: enough to find it, without its text and tokens."""

    id: str
    run_id: str
    step: int
    phase: str
    parent: str | None
    tokens: int
    decision: str | None

    @property
    def evaluated(self) -> bool:
        return self.phase.startswith(EVALUATED)


@dataclass(frozen=True)
class Drawn:
    """What is shown, out of how many, and by which rule in words."""

    places: Sequence[Place]
    total: int
    rule: str


def draw(db: Database, runs: Sequence[RunRow], seed: int, number: int | None, everything: bool = False) -> Drawn:
    """Attempts of the runs, in the order of runs and steps. `number`: so many of them; None: the default, cut where
    the tokens of long answers would make the report large.

    Attempts of each run fall into four kinds, answers of training and of evaluations, first ones and those that revise
    another one; one of each kind and run is drawn in turn, uniformly among those that are left.
    """
    strata = [stratum for run in now().each(runs) for stratum in strata_of(db, run, seed)]
    total = sum(map(len, strata))
    if everything or (number is not None and number >= total):
        return Drawn(ordered([place for stratum in strata for place in stratum]), total, "All of them are shown.")
    wanted, room = (DEFAULT_ATTEMPTS, float(DEFAULT_TOKENS)) if number is None else (number, float("inf"))
    found: list[Place] = []
    for turn in range(max(map(len, strata), default=0)):
        for stratum in strata:
            if turn < len(stratum) and len(found) < wanted and room > 0:
                found.append(stratum[turn])
                room -= stratum[turn].tokens
    rule = (
        "From each run in turn one answer of training that revises another, one first answer of training, and the "
        f"same of its evaluations, each drawn at random among those that are left (seed {seed})"
    )
    cut = f", until they have {DEFAULT_TOKENS:,} tokens" if number is None and len(found) < min(wanted, total) else ""
    return Drawn(ordered(found), total, f"{rule}{cut}.")


def strata_of(db: Database, run: RunRow, seed: int) -> list[list[Place]]:
    """The four kinds of a run's attempts, each in random order; what an experiment injected is nobody's answer."""
    columns = (ATTEMPT.c[name] for name in ("id", "run_id", "step", "phase", "parent_id", "n_tokens", "decision"))
    with db.read() as connection:
        rows = connection.execute(select(*columns).where(ATTEMPT.c.run_id == run.id, ~IS_INJECTED)).all()
    kinds: dict[tuple[bool, bool], list[Place]] = defaultdict(list)
    for place in sorted((Place(*row) for row in rows), key=lambda place: place.id):
        kinds[place.evaluated, place.parent is None].append(place)
    return [
        [kinds[key][i] for i in generator(seed, run.seed, "report", n).permutation(len(kinds[key]))]
        for n, key in enumerate(sorted(kinds))
    ]


def ordered(places: Sequence[Place]) -> list[Place]:
    return sorted(places, key=lambda place: (place.run_id, place.evaluated, place.step, place.id))
