"""What a sweep leaves: results.json and plot.png in its directory, made from the database at any time."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import to_json

from scrpo_cli.ablation.grid import check_arms
from scrpo_cli.ablation.outcomes import RunOutcome, read_outcome
from scrpo_cli.ablation.plot import plot_sweep
from scrpo_cli.ablation.sweep import Sweep, done_runs
from scrpo_cli.ablation.table import SweepResult, tabulate
from scrpo_cli.pool.db import Database

RESULTS_FILE = "results.json"
PLOT_FILE = "plot.png"


def write_results(db: Database, sweep: Sweep) -> SweepResult | None:
    """Table and plot of the runs that are done; None when there is none yet."""
    result, outcomes = read_result(db, [sweep])
    if result is not None:
        (sweep.directory / RESULTS_FILE).write_bytes(to_json(result.as_dict(), indent=2) + b"\n")
        plot_sweep(result, outcomes, sweep.directory / PLOT_FILE)
    return result


def read_result(db: Database, sweeps: Sequence[Sweep]) -> tuple[SweepResult | None, list[RunOutcome]]:
    """The runs that are done, the arms of several sweeps as those of one; None as result where there is no run.

    Raises UserError when the arms of the sweeps cannot be compared.
    """
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    check_arms(arms)
    outcomes = [read_outcome(db, run) for sweep in sweeps for run in done_runs(db, sweep)]
    names = [arm.name for arm in arms]
    return (tabulate(outcomes, names, sweeps[0].budget) if outcomes else None), outcomes
