"""What a sweep leaves: results.json and plot.png in its directory, made from the database at any time."""

from __future__ import annotations

from pydantic_core import to_json

from scrpo_cli.ablation.outcomes import read_outcome
from scrpo_cli.ablation.plot import plot_sweep
from scrpo_cli.ablation.sweep import Sweep, budget_of, done_runs
from scrpo_cli.ablation.table import SweepResult, tabulate
from scrpo_cli.pool.db import Database

RESULTS_FILE = "results.json"
PLOT_FILE = "plot.png"


def write_results(db: Database, sweep: Sweep) -> SweepResult | None:
    """Table and plot of the runs that are done; None when there is none yet."""
    outcomes = [read_outcome(db, run) for run in done_runs(db, sweep)]
    if not outcomes:
        return None
    result = tabulate(outcomes, [arm.name for arm in sweep.arms], budget_of(sweep))
    (sweep.directory / RESULTS_FILE).write_bytes(to_json(result.as_dict(), indent=2) + b"\n")
    plot_sweep(result, outcomes, sweep.directory / PLOT_FILE)
    return result
