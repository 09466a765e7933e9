"""`scrpo report`: a sweep or runs as one HTML file that can be sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, MarginOption, Output, PairsOption, QuietOption
from scrpo_cli.errors import UserError
from scrpo_cli.numbers import LARGEST

if TYPE_CHECKING:
    from scrpo_cli.ablation.comparisons import Question

ALL = "all"
SCORE = {"auto": None, "yes": True, "no": False}


def report(
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|SWEEP|STUDY...",
            autocompletion=completion.reported,
            help="Ids, their beginnings, or `last`: runs, or sweeps, compared together; `studies/NAME` or its file.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The HTML file to write.")],
    attempts: Annotated[
        str | None,
        typer.Option("--attempts", metavar="N|all", help="Attempts to show; default: 400, fewer where they are long."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST, metavar="S", help="Of the draw of these attempts.")
    ] = 0,
    score: Annotated[
        str,
        typer.Option(
            "--score",
            metavar="WHEN",
            autocompletion=completion.among(*SCORE),
            help="Load models for KL and ratios: yes, no, or auto (small models in a directory here).",
        ),
    ] = "auto",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="ARM", help="The arm that the others are compared with; else the sweep's."),
    ] = None,
    pairs: PairsOption = None,
    margin: MarginOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """A sweep, or runs, as one self-contained HTML file: attempts by token, tables, curves, the pool, warnings."""
    answer = Output(json, quiet)
    answer.check_file(output)
    number = number_of(attempts)
    if score not in SCORE:
        raise UserError(f"'{score}' is no way to score", f"--score {score}", f"One of: {', '.join(SCORE)}.")
    answer.begin("scrpo report: reading the database")
    from scrpo_cli.files import write_lines
    from scrpo_cli.pool.db import Database
    from scrpo_cli.report.page import Options, make_page, report_command
    from scrpo_cli.report.subject import find_subject

    options = Options(number, attempts == ALL, seed, SCORE[score])
    with Database.open(db, create=False) as database:
        subject = find_subject(database, refs, asked(against, pairs, margin))
        given: dict[str, Any] = {
            "--attempts": attempts,
            "--seed": seed or None,
            "--score": score if score != "auto" else None,
        }
        given |= {"--against": against, "--margin": margin}
        again = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        again += [word for pattern in pairs or () for word in ("--pairs", pattern)]
        page = make_page(database, subject, report_command(database, refs, output, again), options)
    write_lines(output, [page])
    size = len(f"{page}\n".encode())
    shown = {"file": str(output), "bytes": size, "runs": len(subject.runs)}
    runs = f"{len(subject.runs)} run{'s' * (len(subject.runs) != 1)}"
    answer.wrote(output, shown, f"The report of {runs} is in {output} ({size / 1e6:.1f} MB)")


def number_of(attempts: str | None) -> int | None:
    """How many attempts --attempts asks for; None for the default and for all."""
    if attempts is None or attempts == ALL:
        return None
    if not attempts.isdecimal() or int(attempts) > LARGEST:
        fix = "For example --attempts 1000, or --attempts all."
        raise UserError("A number of attempts, or `all`, is asked for", f"--attempts {attempts}", fix)
    return int(attempts)


def asked(against: str | None, pairs: list[str] | None, margin: float | None) -> Question | None:
    """The comparison that the options ask for; None where they ask for none, and the sweep's own stands."""
    from scrpo_cli.ablation.comparisons import Question

    if against is None and not pairs and margin is None:
        return None
    return Question.of(against, pairs, margin)
