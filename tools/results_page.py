"""Write the tables of a results page from the database, and leave the prose around them as it is.

    python tools/results_page.py .scrpo/scrpo.db SWEEP -o docs/results/tiny.md --figure docs/results/tiny.svg

A table stands between `<!-- begin table NAME -->` and `<!-- end table NAME -->`, each a line of its own; NAME is one of
claims, first-answers, two-turns, reaching, cost, signal, warnings, pairs and tuning. Arms of several sweeps become one
table; --prefix keeps several comparisons apart on one page (`<!-- begin table ablations-cost -->` with `--prefix
ablations-`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.ablation.sweep import find_sweep
from scrpo_cli.ablation.table import SweepResult, read_result
from scrpo_cli.errors import RunError, ScrpoError, UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.report.figures import plot_arms, plot_curves
from scrpo_cli.report.tables import markdown, sheets_of

EMPTY = {
    "claims": "The sweep is no study.",
    "first-answers": "",
    "two-turns": "No run was asked for second answers.",
    "reaching": "No run was evaluated on validation problems while it trained.",
    "cost": "",
    "signal": "No run says what it sampled.",
    "warnings": "No warning sign fired.",
    "pairs": "No pairs within a family are compared.",
    "tuning": "No setting was tuned.",
}
"""All tables, and what stands in place of one that has nothing to show."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        result, outcomes = read(options.db, options.sweeps, question_of(options))
        text, written = fill(read_page(options.output), tables_of(result), options.prefix)
        if options.curves:
            plot_curves(outcomes, options.curves)
    except ScrpoError as error:
        print(*error.lines(), sep="\n", file=sys.stderr)
        return error.exit_code
    options.output.write_text(text, encoding="utf-8")
    if options.figure:
        plot_arms(result, options.figure)
    print(f"{options.output}: {', '.join(written)}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", help="a path or an SQLAlchemy URL")
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help="an id, a unique beginning of it, or `last`")
    parser.add_argument("-o", dest="output", metavar="PAGE", type=Path, required=True, help="an existing page")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="also draw the arms, .png or .svg")
    parser.add_argument("--curves", metavar="FILE", type=Path, help="also draw accuracy over generated tokens")
    parser.add_argument("--against", metavar="ARM", default="", help="the arm that the others are compared with")
    parser.add_argument("--pairs", metavar="'NAME*'", action="append", default=[], help="also compare these arms")
    parser.add_argument("--margin", metavar="POINTS", type=float, help="test whether arms are equal within this")
    parser.add_argument("--prefix", default="", help="of the tables' names on the page")
    return parser.parse_args(arguments)


def question_of(options: argparse.Namespace) -> Question:
    margin = None if options.margin is None else options.margin / 100
    return Question(options.against, tuple(options.pairs), margin)


def read(db: str, refs: Sequence[str], question: Question) -> tuple[SweepResult, list[RunOutcome]]:
    """The finished runs of these sweeps, as one result and one by one."""
    with Database.open(db, create=False) as database:
        result, outcomes = read_result(database, [find_sweep(database, ref) for ref in refs], question)
    if result is None:
        raise RunError("No run of these sweeps is done", ", ".join(refs), "Run `scrpo ablate --resume SWEEP` first.")
    return result, outcomes


def tables_of(result: SweepResult) -> dict[str, str]:
    """Every table in markdown, by name."""
    return EMPTY | {sheet.name: markdown(sheet) for sheet in sheets_of(result)}


def read_page(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"The page cannot be read: {error.strerror}", str(path), "Write its prose first.") from None


def fill(page: str, tables: Mapping[str, str], prefix: str = "") -> tuple[str, list[str]]:
    """The page with these tables between their markers, and the names of those that it has. UserError when it has none,
    or one of them without an end.
    """
    written = []
    for name, table in tables.items():
        begin, end = (f"<!-- {edge} table {prefix}{name} -->" for edge in ("begin", "end"))
        above, begun, rest = page.partition(begin)
        _, ended, below = rest.partition(end)
        if not begun:
            continue
        if not ended:
            raise UserError(f"The table {prefix}{name} has no end", begin, f"Write {end} on a line below it.")
        page = f"{above}{begin}\n{table}\n{end}{below}"
        written.append(prefix + name)
    if not written:
        fix = f"Write {begin} and {end} where the table is to stand."
        raise UserError(f"The page has no place for any table of {', '.join(tables)}", prefix, fix)
    return page, written


if __name__ == "__main__":
    sys.exit(main())
