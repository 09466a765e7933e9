"""Run the shipped studies, and write their page.

    python tools/studies.py run --db studies.db --jobs 2 --minutes 60      # again and again, until all are told
    python tools/studies.py show --db studies.db -o docs/results/studies.md

--only NAME (repeat) takes some of them. `show` fills the tables `STUDY-claims`, `STUDY-first-answers` and so on between
`<!-- begin table NAME -->` and `<!-- end table NAME -->` of a page, from the database alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from results_page import fill, read_page, tables_of
from sittings import Part, parser, reported, sit

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.executors.base import Executor
from scrpo_cli.ablation.executors.local import LocalExecutor
from scrpo_cli.ablation.study import read_study
from scrpo_cli.ablation.sweep import COMMAND, Sweep, find_sweep
from scrpo_cli.ablation.table import read_result
from scrpo_cli.errors import RunError, UserError, nearest
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import list_runs, resolve_run
from scrpo_cli.recipe.load import STUDIES, shipped_studies
from scrpo_cli.signals import interrupting


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)

    def work() -> None:
        studies = chosen(options.only)
        if options.action == "run":
            with interrupting():
                run(studies, options.db, options.jobs, options.minutes, LocalExecutor(say=print))
        else:
            show(studies, options.db, options.output)

    return reported(work)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    whole, actions = parser("studies", __doc__, "study")
    for action in actions.choices.values():
        action.add_argument("--only", action="append", default=[], metavar="NAME", help="one of them; repeat")
    return whole.parse_args(arguments)


def chosen(only: Sequence[str]) -> dict[str, Path]:
    """The files of the studies by their names, without `studies/`."""
    shipped = {name.removeprefix(STUDIES): path for name, path in shipped_studies().items()}
    if unknown := [name for name in only if name not in shipped]:
        fix = f"{nearest(unknown[0], shipped)} They are {', '.join(shipped)}.".strip()
        raise UserError(f"There is no study '{unknown[0]}'", "--only", fix)
    return {name: path for name, path in shipped.items() if name in (only or shipped)}


def run(studies: Mapping[str, Path], db: str, jobs: int, minutes: float, executor: Executor) -> None:
    with Database.open(db) as database:
        logs = database.home / "studies"
    parts = [Part(name, partial(to_do, db, name, path, jobs)) for name, path in studies.items()]
    sit(parts, ("study", "studies"), logs, db, minutes, executor)


def to_do(db: str, name: str, path: Path, jobs: int) -> list[list[str]]:
    """The `scrpo` command that tells a study; none where it is told."""
    at_a_time = ["--jobs", str(jobs)]
    with Database.open(db) as database:
        sweep = sweep_of(database, path)
        if sweep is None:
            return [[COMMAND, "--study", f"{STUDIES}{name}", *at_a_time]]
        done = resolve_run(database, sweep.id).status == "done"
    return [] if done else [[COMMAND, "--resume", sweep.id, *at_a_time]]


def sweep_of(db: Database, path: Path) -> Sweep | None:
    """The newest sweep of the study as its file is now: one that was changed is another study."""
    study = read_study(path)
    sweeps = (find_sweep(db, row.id) for row in list_runs(db) if row.command == COMMAND)
    return next((sweep for sweep in sweeps if sweep.study == study), None)


def show(studies: Mapping[str, Path], db: str, output: Path) -> None:
    page, written = read_page(output), []
    with Database.open(db, create=False) as database:
        for name, path in studies.items():
            sweep = sweep_of(database, path)
            result = read_result(database, [sweep], Question())[0] if sweep else None
            if result is None:
                print(f"missing: {name}", file=sys.stderr)
                continue
            page, names = fill(page, tables_of(result), f"{name}-")
            written += names
    if not written:
        raise RunError("No study has a result yet", db, "`run` them first, against the same database.")
    output.write_text(page, encoding="utf-8")
    print(f"{output}: {', '.join(written)}")


if __name__ == "__main__":
    sys.exit(main())
