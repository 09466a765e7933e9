"""`scrpo runs`: what was run, how it went, and where its files lie."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption
from scrpo_cli.errors import UserError, nearest
from scrpo_cli.layout import Column, Pairs, Prose, Table
from scrpo_cli.numbers import LARGEST

if TYPE_CHECKING:
    from scrpo_cli.ablation.standing import ArmStanding
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.models import RunRow
    from scrpo_cli.pool.queries import StoredEvaluation

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", autocompletion=completion.runs, help="An id, a unique beginning of one, or `last`."),
]

EXPORTS = ("jsonl", "inspect", "parquet")
SHOWN = ("id", "command", "recipe_name", "seed", "model", "status", "sweep", "arm", "created_at", "finished_at")
"""Columns of a run that `runs show` prints."""

app = typer.Typer(
    help="Look at earlier runs.", add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command("ls")
def ls(
    limit: Annotated[int, typer.Option("--limit", min=1, max=LARGEST, metavar="N", help="Most rows to show.")] = 20,
    status: Annotated[
        str | None,
        typer.Option(
            "--status",
            metavar="WORD",
            autocompletion=completion.among("running", "done", "failed", "interrupted", "killed"),
            help="running, done, failed, interrupted or killed.",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="SWEEP", autocompletion=completion.sweeps, help="Only the runs of this sweep."),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Runs, newest first."""
    from scrpo_cli.jobs.runs import KILLED, RUNNING, STATUSES
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import list_runs

    if status is not None and status not in STATUSES:
        fix = f"{nearest(status, STATUSES)} It is one of {', '.join(STATUSES)}.".strip()
        raise UserError(f"There is no status '{status}'", "--status", fix)
    stored = RUNNING if status == KILLED else status
    with Database.open(db, create=False) as database:
        runs = list_runs(database, limit=None if stored == RUNNING else limit, status=stored, sweep=sweep)
        if sweep is not None and not runs and not list_runs(database, limit=1, sweep=sweep):
            fix = f"`{database.command('runs', 'ls')}` lists the runs of all."
            raise UserError(f"There is no sweep '{sweep}'", database.where, fix)
    rows = [row for run in runs if status in (None, (row := run_dict(run))["status"])][:limit]
    Output(json, quiet).result({"runs": rows}, _runs_table(rows))


@app.command("show")
def show(
    run: RunArgument,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """One run: recipe, status, steps, the last metrics, evaluations with 95% intervals, and where its files lie; of a
    sweep, how its arms stand.
    """
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import evaluations_of, resolve_run, steps_of

    with Database.open(db, create=False) as database:
        row = resolve_run(database, run)
        steps, evaluations = steps_of(database, row.id), evaluations_of(database, row.id)
        arms = _arms(database, row)
    data = {
        **run_dict(row),
        "recipe": jsonlib.loads(row.recipe_json),
        "steps": len(steps),
        "last_step": asdict(steps[-1]) if steps else None,
        "evaluations": [asdict(evaluation) for evaluation in evaluations],
        "files": files_of(row),
    }
    parts = [*_shown(data, evaluations)]
    if arms:
        from scrpo_cli.ablation.standing import standing_table

        data["arms"] = [asdict(arm) for arm in arms]
        parts = [*parts, Text("\nArms", style="bold"), standing_table(arms)]
    Output(json, quiet).result(data, Group(*parts))


def _arms(database: Database, row: RunRow) -> list[ArmStanding]:
    """Of a sweep, whose row names itself; what reads a sweep is loaded for no other run."""
    if row.sweep != row.id:
        return []
    from scrpo_cli.ablation.standing import standing
    from scrpo_cli.ablation.sweep import find_sweep

    return standing(database, find_sweep(database, row.id))


@app.command("export")
def export(
    run: RunArgument,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="PATH", help="JSONL to write (.gz, or - for stdout), or a directory."),
    ],
    all_: Annotated[bool, typer.Option("--all", help="Also what was sampled for training and collecting.")] = False,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            autocompletion=completion.among(*EXPORTS),
            help="jsonl, inspect (a directory of logs) or parquet (a directory).",
        ),
    ] = "jsonl",
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the answers of a run's evaluations: lines that `scrpo eval --from-jsonl FILE` scores again, logs for
    `inspect view`, or a data set of Parquet files with a card.
    """
    from scrpo_cli.jobs import export as jobs
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run

    answer = Output(json, quiet)
    if format_ not in EXPORTS:
        fix = f"{nearest(format_, EXPORTS)} It is one of {', '.join(EXPORTS)}.".strip()
        raise UserError(f"There is no format '{format_}'", "--format", fix)
    if format_ == "inspect" and all_:
        raise UserError("A log of Inspect is an evaluation: --all has no effect.", "--all", "Leave it out.")
    answer.check_file(output)
    with Database.open(db, create=False) as database:
        row = resolve_run(database, run)
        summary: dict[str, Any] = {"run": row.id, "format": format_, "file": str(output)}
        if format_ == "inspect":
            summary["logs"], summary["rows"] = jobs.export_inspect(database, row, output)
        elif format_ == "parquet":
            from scrpo_cli.jobs.dataset import export_dataset

            summary["rows"] = export_dataset(database, row, output, everything=all_)
        else:
            summary["rows"] = jobs.export_run(database, row, output, everything=all_)
    what = f"{summary['rows']} answers of run {row.id}"
    logs = f" as {summary['logs']} logs" if "logs" in summary else ""
    answer.wrote(output, summary, f"{what} are in {output}{logs}")


@app.command("compare")
def compare(
    first: RunArgument,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            autocompletion=completion.runs,
            help="Another; without it RUN after training against before.",
        ),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The second run minus the first on the same problems: difference, interval, exact test, and what can be said."""
    from scrpo_cli.cli.tables import comparison
    from scrpo_cli.jobs.compare import compare_before_after, compare_runs
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run

    with Database.open(db, create=False) as database:
        a = resolve_run(database, first).id
        b = a if second is None else resolve_run(database, second).id
        found = compare_before_after(database, a) if second is None else compare_runs(database, b, a)
    headline = f"{a}: a before, b after training" if second is None else f"a: run {a}, b: run {b}"
    Output(json, quiet).result({"first": a, "second": b, "benchmarks": found}, Prose(headline), *comparison(found))


def run_dict(run: RunRow) -> dict[str, Any]:
    """The run's columns, with its summary unpacked and without its recipe; its status as it is now, and whether a
    process works on it (null where that cannot be seen from this machine).
    """
    from scrpo_cli.jobs.runs import is_alive, status_now

    columns = run.model_dump(exclude={"recipe_json", "summary_json"})
    alive = is_alive(run)
    return {**columns, "status": status_now(run, alive), "alive": alive, "summary": jsonlib.loads(run.summary_json)}


def _status(row: Mapping[str, Any]) -> str:
    return f"{row['status']}?" if row["alive"] is None else row["status"]


def _status_in_words(row: Mapping[str, Any]) -> str:
    """With who works on a run that is said to be running, as far as it can be seen."""
    from scrpo_cli.jobs.runs import KILLED, worker

    who = worker(Path(row["directory"]))
    if row["alive"] is None:
        return f"{_status(row)} (as the database says; {who or 'its directory'} cannot be seen from here)"
    if row["alive"]:
        return f"{row['status']} ({who})" if who else row["status"]
    return f"{KILLED} (no process works on it any more)" if row["status"] == KILLED else row["status"]


def _runs_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    wide = (Column("recipe", "words", same=True), Column("model", same=True), Column("seed", same=True))
    table = Table("id", Column("command", same=True), *wide, "status", Column("started (UTC)", "words"), records=True)
    for row in rows:
        started = row["created_at"][:16].replace("T", " ")
        table.add_row(row["id"], row["command"], _recipe(row), row["model"], str(row["seed"]), _status(row), started)
    return table


def files_of(run: RunRow) -> dict[str, str]:
    """What is there of the run's directory: metrics, and the newest adapter by the name of its folder."""
    directory = Path(run.directory)
    if not run.directory or not directory.is_dir():
        return {}
    adapters = sorted(config.parent for config in directory.rglob("adapter_config.json"))
    found = {
        "directory": directory,
        "metrics": directory / "metrics.jsonl",
        "adapter": adapters[-1] if adapters else None,
    }
    return {name: str(path) for name, path in found.items() if path and path.exists()}


def _shown(data: Mapping[str, Any], evaluations: list[StoredEvaluation]) -> Iterator[RenderableType]:
    """The parts of `runs show` for a reader."""
    told = {**data, "status": _status_in_words(data)}
    rows = {name.replace("_", " "): str(told[name]) for name in SHOWN if told[name] not in (None, "")}
    rows["version"] = " ".join(filter(None, (data["scrpo_version"], data["git_commit"])))
    yield Pairs(rows | data["files"] | {"steps": str(data["steps"])})
    if plain := {name: value for name, value in data["summary"].items() if not isinstance(value, Mapping)}:
        yield from _section("Summary", plain)  # evaluations have a table of their own below
    if last := data["last_step"]:
        yield from _section(f"Metrics of step {last['step']} ({last['phase']})", last["metrics"])
    if evaluations:
        yield Text("\nEvaluations, with 95% intervals", style="bold")
        yield _evaluations(evaluations)


def _evaluations(evaluations: list[StoredEvaluation]) -> Table:
    """A row for each number that has an interval."""
    from scrpo_cli.numbers import estimates, left_out, percent

    table = Table("benchmark", "step", "measure", "value")
    for evaluation in evaluations:
        for name, value, interval in estimates(evaluation.metrics):
            table.add_row(evaluation.name, str(evaluation.step), name, percent(value, interval))
        if found := left_out(evaluation.metrics.get("left_out")):
            table.add_row(evaluation.name, str(evaluation.step), "left out", found)
    return table


def _section(title: str, data: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"\n{title}", style="bold")
    yield Pairs({name: _written(value) for name, value in sorted(data.items())})


def _written(value: Any) -> str:
    """Sentences of a list stand below each other; JSON, whose brackets do not fold, is for --json."""
    if isinstance(value, list):
        if any(isinstance(each, Mapping | list) for each in value):
            return f"{len(value)}, in full with --json"
        texts = [_written(each) for each in value]
        return ("\n" if any(" " in text for text in texts) else ", ").join(texts) or "none"
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else jsonlib.dumps(value)


def _recipe(row: Mapping[str, Any]) -> str:
    return f"{row['recipe_name']} ({row['arm']})" if row["arm"] else row["recipe_name"]
