"""Run the shipped studies and the audits of the embedded models, and write their page.

    python tools/studies.py run --db studies.db --jobs 2 --minutes 60      # again and again, until all are told
    python tools/studies.py show --db studies.db -o docs/results/studies.md

--only NAME (repeat) takes some of them. `show` fills the tables `overview`, `STUDY-claims`, `STUDY-first-answers`,
`AUDIT-caused` and so on between `<!-- begin table NAME -->` and `<!-- end table NAME -->` of a page, from the database
alone; `overview` has all studies in any case.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from results_page import fill, read_page, tables_of
from sittings import Part, parser, place_of, reported, sit

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.executors.base import Executor
from scrpo_cli.ablation.executors.local import LocalExecutor
from scrpo_cli.ablation.study import read_study
from scrpo_cli.ablation.sweep import COMMAND, Sweep, sweep_of_study
from scrpo_cli.ablation.table import SweepResult, read_result
from scrpo_cli.errors import RunError, UserError, nearest
from scrpo_cli.numbers import points
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import list_runs, resolve_run
from scrpo_cli.recipe.load import STUDIES, shipped_studies
from scrpo_cli.report.tables import Sheet, audited, markdown
from scrpo_cli.signals import interrupting

AUDITS = {"audit-think": "think", "audit-tiny": "tiny"}
"""Their names with the recipe of each."""
PROBLEMS = 128
"""First answers of each audit are to so many."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)

    def work() -> None:
        names = chosen(options.only)
        if options.action == "run":
            with interrupting():
                run(names, options.db, place_of(options), options.minutes, LocalExecutor(say=print))
        else:
            show(names, options.db, options.output)

    return reported(work)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    whole, actions = parser("studies", __doc__, "study")
    for action in actions.choices.values():
        action.add_argument("--only", action="append", default=[], metavar="NAME", help="one of them; repeat")
    return whole.parse_args(arguments)


def studies() -> dict[str, Path]:
    """The files of the studies by their names, without `studies/`."""
    return {name.removeprefix(STUDIES): path for name, path in shipped_studies().items()}


def chosen(only: Sequence[str]) -> list[str]:
    """The names of studies and audits that are meant, in their own order."""
    names = [*studies(), *AUDITS]
    if unknown := [name for name in only if name not in names]:
        fix = f"{nearest(unknown[0], names)} They are {', '.join(names)}.".strip()
        raise UserError(f"There is no study or audit '{unknown[0]}'", "--only", fix)
    return [name for name in names if name in (only or names)]


def run(names: Sequence[str], db: str, place: Sequence[str], minutes: float, executor: Executor) -> None:
    with Database.open(db) as database:
        logs = database.home / "studies"
    parts = [Part(name, partial(to_do, db, name, place)) for name in names]
    sit(parts, ("study", "studies"), logs, db, minutes, executor)


def to_do(db: str, name: str, place: Sequence[str]) -> list[list[str]]:
    """The `scrpo` command that completes a study or an audit; none where it is complete."""
    with Database.open(db) as database:
        if name in AUDITS:
            run = audit_of(database, name)
            new = ["audit", "--recipe", AUDITS[name], "--problems", str(PROBLEMS)]
            again = ["audit", "--resume", run.id] if run else []
        else:
            sweep = sweep_of(database, name)
            run = resolve_run(database, sweep.id) if sweep else None
            new = [COMMAND, "--study", f"{STUDIES}{name}", *place]
            again = [COMMAND, "--resume", run.id, *place] if run else []
    return [] if run and run.status == "done" else [again or new]


def sweep_of(db: Database, name: str) -> Sweep | None:
    """The newest sweep of the study as its file is now."""
    return sweep_of_study(db, read_study(studies()[name]))


def audit_of(db: Database, name: str) -> RunRow | None:
    """The newest audit of its recipe with as many problems."""
    audits = (row for row in list_runs(db) if row.command == "audit" and row.recipe_name == AUDITS[name])
    return next((row for row in audits if json.loads(row.summary_json)["problems"] == PROBLEMS), None)


def show(names: Sequence[str], db: str, output: Path) -> None:
    page, tables = read_page(output), {}
    with Database.open(db, create=False) as database:
        told = {name: result for name in studies() if (result := study_result(database, name))}
        for name in names:
            found = tables_of(told[name]) if name in told else audit_tables(database, name)
            tables |= {f"{name}-{table}": text for table, text in found.items()}
            if not found:
                print(f"missing: {name}", file=sys.stderr)
    if not tables:
        raise RunError("No study has a result yet", db, "`run` them first, against the same database.")
    page, written = fill(page, tables | {"overview": overview(told)})
    output.write_text(page, encoding="utf-8")
    print(f"{output}: {', '.join(written)}")


def study_result(db: Database, name: str) -> SweepResult | None:
    sweep = sweep_of(db, name)
    return read_result(db, [sweep], Question())[0] if sweep else None


def overview(told: Mapping[str, SweepResult]) -> str:
    """A row for each claim."""
    rows = [(name, claim) for name, result in told.items() for claim in result.claims]
    columns = {
        "study": [f"[{name}](#{name})" for name, _ in rows],
        "claim": [claim.claim for _, claim in rows],
        "verdict": [claim.verdict for _, claim in rows],
        "difference": [points(claim.difference, claim.interval) for _, claim in rows],
        "seeds": [str(len(claim.seeds)) for _, claim in rows],
    }
    return markdown(Sheet("overview", "all claims, in points, with the confidence sequence of each study", columns))


def audit_tables(db: Database, name: str) -> dict[str, str]:
    run = audit_of(db, name) if name in AUDITS else None
    if run is None or run.status != "done":
        return {}
    return {sheet.name: markdown(sheet) for sheet in audited(json.loads(run.summary_json))}


if __name__ == "__main__":
    sys.exit(main())
