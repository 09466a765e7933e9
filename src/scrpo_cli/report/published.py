"""What a sweep leaves in W&B: a run of its own in the group of its runs, with the tables and figure of its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scrpo_cli.ablation.sweep import Sweep
from scrpo_cli.ablation.table import SweepResult
from scrpo_cli.report.tables import sheets_of
from scrpo_cli.tracking.published import Published, TableData
from scrpo_cli.tracking.wandb_sink import Place, WandbSink, resolve_mode

JOB = "comparison"


def publish_sweep(sweep: Sweep, result: SweepResult, plot: Path, say: Callable[[str], None]) -> None:
    """Where the recipe of the first arm sends its runs; nothing where that is nowhere."""
    recipe = sweep.arms[0].recipe
    mode = resolve_mode(recipe.tracking.wandb.mode)
    if mode == "off":
        return
    sink = WandbSink(sweep.directory, sweep.id, recipe, mode, say, Place(sweep.id, JOB))
    sink.publish(Published(tables_of(result), {"arms": plot}))
    sink.finish({"notes": list(result.notes)}, failed=False)


def tables_of(result: SweepResult) -> dict[str, TableData]:
    """Every table of the report, with the columns that a terminal has no room for."""
    return {
        sheet.name: TableData([*sheet.columns], [list(row) for row in sheet.rows(sheet.columns)])
        for sheet in sheets_of(result)
    }
