"""`scrpo pool`: look into the error pool, move it between databases, tidy it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption
from scrpo_cli.layout import Column, Pairs, Prose, Table
from scrpo_cli.numbers import LARGEST

if TYPE_CHECKING:
    from scrpo_cli.pool.entries import Entry, Use

app = typer.Typer(
    help="Look into the error pool.", add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
)

COLUMNS = {"id": "problem_id", "source": "problem_source", "parent": "parent_id"}
"""Of the database, for the names of the interchange JSONL that differ."""

PoolOption = Annotated[
    str | None,
    typer.Option("--pool", metavar="NAME", autocompletion=completion.pools, help="One pool; none: all of them."),
]


@app.command("ls")
def ls(
    pool: PoolOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="NAME", autocompletion=completion.sources, help="Only problems of this source."
        ),
    ] = None,
    alive: Annotated[bool, typer.Option("--alive/--all", help="Only living entries, or the retired ones too.")] = True,
    limit: Annotated[int, typer.Option("--limit", min=1, max=LARGEST, metavar="N", help="Most rows to show.")] = 20,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The pooled errors, oldest first."""
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.entries import list_entries

    with Database.open(db, create=False) as database:
        total, entries = list_entries(database, pool=pool, source=source, alive=alive, limit=limit)
    rows = [_row(entry) for entry in entries]
    table = _entries_table(entries, with_pool=pool is None, with_state=not alive)
    foot = f"{len(entries)} of {total} {'living ' if alive else ''}entries"
    Output(json, quiet).result({"total": total, "entries": rows}, Group(table, Prose(foot, "dim")))


def _entries_table(entries: Sequence[Entry], with_pool: bool, with_state: bool) -> Table:
    """`pool show ID` has what is broken off here."""
    with_injected = any(e.injected for e in entries)
    columns: list[str | Column] = [
        "attempt",
        *(Column(name, "text") for name in ("problem", "gold", "given")),
        "added",
        "repaired",
    ]
    columns += ["injected"] * with_injected + [Column("pool", same=True)] * with_pool + ["state"] * with_state
    table = Table(*columns, records=True)
    for e in entries:
        given = e.extracted if e.extracted is not None else e.verdict
        cells: list[object] = [e.attempt_id, e.problem, e.answer, given, e.added_step, f"{e.repairs}/{e.uses}"]
        cells += [e.injected] * with_injected + [e.pool] * with_pool + [e.retired_reason or "alive"] * with_state
        table.add_row(*(visible(str(cell)) for cell in cells))
    return table


@app.command("show")
def show(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            autocompletion=completion.problems,
            help="A pooled attempt (a unique beginning will do), a problem, or SOURCE/PROBLEM.",
        ),
    ],
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """One error: the problem, the wrong answer, and every attempt to repair it. Of a problem, its pooled errors."""
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.entries import entries_of_problem, find_entries, uses_of

    output = Output(json, quiet)
    with Database.open(db, create=False) as database:
        if entries := entries_of_problem(database, ref):
            command = database.command("pool", "show", "ATTEMPT")
            foot = Prose(f"`{command}` has the answer and what was tried on it.", "dim")
            output.result({"entries": [_row(entry) for entry in entries]}, Group(*_shown_problem(entries), foot))
            return
        entries = find_entries(database, ref)
        uses = uses_of(database, entries[0].attempt_id)
    data = {"entries": [_row(entry) for entry in entries], "uses": [asdict(use) for use in uses]}
    output.result(data, Group(*_shown(entries, uses)))


def _row(entry: Entry) -> dict[str, Any]:
    """An entry under --json, the same in `pool ls` and `pool show`; a column of the database is called as there."""
    row = entry.model_dump(mode="json", exclude={"prompt_ids", "ids", "logprobs"})
    return {COLUMNS.get(name, name): value for name, value in row.items()}


def _shown_problem(entries: Sequence[Entry]) -> Iterator[RenderableType]:
    """The parts of `pool show PROBLEM` for a reader."""
    yield from _problem(entries[0])
    yield Text()
    given = ("verdict", Column("extracted", "text"), Column("finish", same=True), "repaired")
    table = Table("attempt", *given, Column("pool", same=True), Column("life", "words"), records=True)
    for e in entries:
        extracted = "" if e.extracted is None else visible(_given(e.extracted))
        repaired = f"{e.repairs}/{e.uses}"
        table.add_row(e.attempt_id, e.verdict.value, extracted, e.finish.value, repaired, e.pool, _life(e))
    yield table


def _problem(entry: Entry) -> Iterator[RenderableType]:
    yield _heading(f"Problem {entry.id} of {entry.source}")
    yield _text(entry.problem)
    yield Text(f"\ngold answer: {visible(entry.answer)}", style="green")


def _life(entry: Entry) -> str:
    return f"{entry.retired_reason} at step {entry.retired_step}" if entry.retired_reason else "living"


def _given(extracted: str) -> str:
    """A final answer, quoted; of a program, which the response shows anyway, its length."""
    lines = extracted.count("\n")
    return f"a program of {lines} lines" if lines > 1 else repr(extracted)


def _shown(entries: Sequence[Entry], uses: Sequence[Use]) -> Iterator[RenderableType]:
    """The parts of `pool show` for a reader."""
    first = entries[0]
    yield from _problem(first)
    origin = f"{first.model}, {first.phase} step {first.step}, {first.finish.value}"
    yield _heading(f"\nAttempt {first.attempt_id} ({origin})")
    yield _text(first.response)
    extracted = None if first.extracted is None else f"extracted {_given(first.extracted)}"
    answered = "; ".join(filter(None, [extracted, first.reason])) or "no answer found"
    yield Text(f"\n{first.verdict.value}: {visible(answered)} ({first.grader})", style="red")
    for entry in entries:
        yield Prose(f"pool {entry.pool}: added at step {entry.added_step} by {entry.run_id}, {_life(entry)}")
    yield _heading(f"\nUsed {first.uses} times, repaired {first.repairs} times")
    for use in uses:
        style = "green" if use.verdict == "correct" else "red"
        given = "" if use.extracted is None else f" {_given(visible(use.extracted))}"
        yield Text(f"\n{use.attempt_id} ({use.kind}, step {use.step}): {use.verdict}{given}", style=style)
        yield _text(use.response)


@app.command("stats")
def stats(
    pool: PoolOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Counts by verdict, filter decision, age and use; repair rates with 95% intervals; mistakes made again."""
    from scrpo_cli.jobs.runs import is_alive, status_now
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.stats import pool_runs, pool_stats

    with Database.open(db, create=False) as database:
        found = pool_stats(database, pool)
        found["runs"] = dict(Counter(status_now(run, is_alive(run)) for run in pool_runs(database, pool)))
    Output(json, quiet).result(found, Group(*stats_tables(found)))


def stats_tables(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The answer of `pool_stats` for a reader."""
    from scrpo_cli.methods.parts.pool import MEANINGS, said
    from scrpo_cli.numbers import percent

    yield _heading(f"Pool {found['pool']}" if found["pool"] else "All pools")
    rate, entries, again = found["repair_rate"], found["entries_repaired"], found["repeated_mistakes"]
    lines = {
        "runs": _counts(found["runs"]),
        "attempts": f"{found['attempts']:,}: {_counts(found['verdicts'])}",
        "filter decisions": said(found["decisions"]),
        **{f"  {name.replace('_', ' ')}": MEANINGS[name] for name in found["decisions"] if name in MEANINGS},
        "pool entries": f"{found['entries']:,}: {_counts({'alive': found['alive'], **found['retired']})}",
        **{f"  injected: {kind}": _injected(p) for kind, p in found["injected"].items()},
        "age of the living": _ages(found["age_steps"]),
        "uses": f"{found['uses']:,} attempts on {found['entries_used']:,} entries",
        "repair rate": f"{percent(rate['value'], rate['ci95'])} of these attempts",
        **{f"  {k}": percent(r["value"], r["ci95"]) for k, r in found["repair_rate_by_kind"].items()},
        "entries repaired": f"{percent(entries['value'], entries['ci95'])} of those used",
        "repeated mistakes": f"{again['mistakes']:,} wrong answers given more than once, in {again['attempts']:,} "
        f"attempts ({percent(again['share_of_wrong'])} of the wrong ones)",
    }
    yield Pairs(lines)
    if again["top"]:
        yield _heading("\nMost repeated")
        top = Table("problem", Column("source", same=True), Column("wrong answer", "text"), "times", records=True)
        for row in again["top"]:
            cells = (row["problem_id"], row["problem_source"], row["extracted"], row["attempts"])
            top.add_row(*(visible(str(cell)) for cell in cells))
        yield top


def _injected(found: Mapping[str, Any]) -> str:
    from scrpo_cli.numbers import percent

    repairs = found["repair_rate"]
    return f"{found['entries']:,}: alive {found['alive']:,}, repaired {percent(repairs['value'], repairs['ci95'])}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _ages(ages: Mapping[str, Any] | None) -> str:
    if ages is None:
        return "none"
    bins = ", ".join(f"{label}: {count:,}" for label, count in ages["histogram"].items() if count)
    return f"median {ages['median']:g}, 90% at most {ages['p90']:g}, oldest {ages['max']} steps ({bins})"


@app.command("export")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="JSONL to write, or - for stdout.")],
    pool: PoolOption = None,
    alive: Annotated[bool, typer.Option("--alive/--all", help="Only living entries, or the retired ones too.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="With token ids and log-probs.")] = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write pool entries as interchange JSONL, which `pool import` and other tools read."""
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.exchange import export_pool

    answer = Output(json, quiet)
    answer.check_file(output)
    with Database.open(db, create=False) as database:
        count = export_pool(database, output, pool, alive=alive, tokens=tokens)
    answer.wrote(output, {"file": str(output), "entries": count}, f"{count} entries written to {output}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A JSONL file that `scrpo pool export` wrote, or -.")],
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", metavar="NAME", autocompletion=completion.pools, help="Into this pool; none: as the file says."
        ),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Read exported entries: the whole file or, if any line is wrong, nothing. What is there already stays as it is,
    so importing twice changes nothing. Ungraded answers go through `scrpo collect --from-jsonl`.
    """
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.exchange import import_pool

    with Database.open(db) as database:
        done = import_pool(database, file, pool)
    text = f"{done.rows} lines: {done.entries} entries and {done.attempts} attempts were new"
    text += f" (run {done.run_id})" if done.run_id else "; nothing was written"
    Output(json, quiet).result(asdict(done), text)


@app.command("prune")
def prune(
    older_than_steps: Annotated[
        int | None,
        typer.Option(
            "--older-than-steps",
            min=0,
            max=LARGEST,
            metavar="N",
            help="Retire living entries that are more than N steps old.",
        ),
    ] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Delete the entries that were retired already.")] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool",
            metavar="NAME",
            autocompletion=completion.pools,
            help="Only in this pool; alone: retire all that lives in it.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Retire or delete pool entries. Attempts and problems always stay, so a run's record stays whole; but a run that
    is resumed from before the prune finds its pool without the deleted entries.
    """
    from scrpo_cli.pool import entries
    from scrpo_cli.pool.db import Database

    with Database.open(db, create=False) as database:
        done = entries.prune(database, pool=pool, older_than_steps=older_than_steps, retired=retired, dry_run=dry_run)
    would = "would be " if dry_run else ""
    text = f"{done.retired} living entries {would}retired, {done.deleted} retired ones {would}deleted"
    Output(json, quiet).result({**asdict(done), "dry_run": dry_run}, Prose(f"{text}; no attempt {would}touched"))


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _text(value: str) -> Prose:
    """A model's text as it is: no markup, no control codes."""
    return Prose(visible(value))


def visible(text: str) -> str:
    """`text` without the control characters by which a model's answer could steer a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)
