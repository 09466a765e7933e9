"""How many generated tokens a run takes to an accuracy on validation problems, over the seeds of an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scrpo_cli.ablation.outcomes import RunOutcome

LEVELS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Reached:
    """`tokens`: of each seed, at its first validation with this accuracy of first answers or a higher one, None for a
    run that ended below it. `median` counts such a run as later than any other, so it is None where half of the runs or
    more are of that kind.
    """

    level: float
    seeds: list[int]
    tokens: list[float | None]
    median: float | None


def when_reached(runs: Sequence[RunOutcome]) -> list[Reached]:
    """For each of LEVELS, over the runs that were validated while they trained; empty where none was."""
    validated = [run for run in runs if run.validations]
    if not validated:
        return []
    seeds = [run.seed for run in validated]
    return [_reached(level, seeds, [first_reaching(run.validations, level) for run in validated]) for level in LEVELS]


def first_reaching(validations: Sequence[tuple[float, float]], level: float) -> float | None:
    """The tokens of the first of (tokens, accuracy) that reaches the level."""
    return min((tokens for tokens, accuracy in validations if accuracy >= level), default=None)


def _reached(level: float, seeds: list[int], tokens: list[float | None]) -> Reached:
    median = float(np.median([np.inf if found is None else found for found in tokens]))
    return Reached(level, seeds, tokens, median if np.isfinite(median) else None)
