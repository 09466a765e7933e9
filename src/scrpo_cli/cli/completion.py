"""What the shell offers on TAB for the values of options and arguments.

It is asked at every TAB, so nothing heavy is imported: SQLite is read directly, and never made or written. Where there
is nothing to offer, a shell goes on with the names of files.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import typer

from scrpo_cli.files import DEFAULT_DATABASE

MOST = 50
"""Values that are offered of what a database holds."""

Values = Iterator[tuple[str, str]]
"""A value and a few words about it, which zsh and fish show."""
Completer = Callable[[typer.Context, str], Values]


def among(*values: str) -> Completer:
    """Of an option that takes one of these."""

    def offered(context: typer.Context, incomplete: str) -> Values:
        return ((value, "") for value in values)

    return offered


def several(one: Completer) -> Completer:
    """Of an option that takes `a,b`: the last one is completed."""

    def offered(context: typer.Context, incomplete: str) -> Values:
        before, comma, last = incomplete.rpartition(",")
        return ((f"{before}{comma}{value}", about) for value, about in one(context, last))

    return offered


def recipes(context: typer.Context, incomplete: str) -> Values:
    """The shipped names, and the YAML files of the folder that is being typed."""
    from scrpo_cli.recipe.load import shipped_recipes

    return _shipped_or_file(shipped_recipes(), incomplete)


def studies(context: typer.Context, incomplete: str) -> Values:
    """As recipes."""
    from scrpo_cli.recipe.load import shipped_studies

    return _shipped_or_file(shipped_studies(), incomplete)


def _shipped_or_file(shipped: Iterable[str], incomplete: str) -> Values:
    from scrpo_cli.recipe.load import SUFFIXES

    yield from ((name, "shipped") for name in shipped)
    typed = incomplete.rpartition("/")[0]
    folder = Path(typed or ("/" if incomplete.startswith("/") else ".")).expanduser()
    if folder.is_dir():
        prefix = incomplete[: len(incomplete) - len(incomplete.rpartition("/")[2])]
        yield from ((prefix + path.name, "file") for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES)


def benchmarks(context: typer.Context, incomplete: str) -> Values:
    """Benchmarks and suites, which are called like their files."""
    from scrpo_cli.recipe.benchmark import FOLDER

    return ((path.stem, "") for path in sorted(FOLDER.glob("*.yaml")))


def runs(context: typer.Context, incomplete: str) -> Values:
    return _runs(context, incomplete, "sweep IS NULL OR command != 'ablate'")


def reported(context: typer.Context, incomplete: str) -> Values:
    """What a report is written of."""
    yield from runs(context, incomplete)
    yield from studies(context, incomplete)


def training_runs(context: typer.Context, incomplete: str) -> Values:
    return _runs(context, incomplete, "command = 'train'")


def unfinished_runs(context: typer.Context, incomplete: str) -> Values:
    """Those of this command that can be resumed."""
    return _runs(context, incomplete, "command = ? AND status != 'done'", str(context.info_name))


def sweeps(context: typer.Context, incomplete: str) -> Values:
    return _runs(context, incomplete, "command = 'ablate'")


def pools(context: typer.Context, incomplete: str) -> Values:
    query = "SELECT pool, count(*) || ' errors' FROM pool_entry WHERE pool LIKE ? || '%' GROUP BY pool LIMIT ?"
    return _stored(context, query, incomplete, MOST)


def problems(context: typer.Context, incomplete: str) -> Values:
    """Those with pooled attempts. (Ids of attempts hold colons, at which bash breaks words.)"""
    query = (
        "SELECT DISTINCT problem_id, problem_source FROM attempt JOIN pool_entry ON attempt.id = attempt_id "
        "WHERE problem_id LIKE ? || '%' LIMIT ?"
    )
    return _stored(context, query, incomplete, MOST)


def sources(context: typer.Context, incomplete: str) -> Values:
    return _stored(context, "SELECT DISTINCT source, '' FROM problem WHERE source LIKE ? || '%'", incomplete)


def _runs(context: typer.Context, incomplete: str, which: str, *values: str) -> Values:
    """`last`, and the newest runs, by their ids."""
    about = "command || ' ' || recipe_name || ', ' || status"
    query = f"SELECT id, {about} FROM run WHERE ({which}) AND id LIKE ? || '%' ORDER BY created_at DESC LIMIT ?"
    beginning = "" if "last".startswith(incomplete) else incomplete
    for i, run in enumerate(_stored(context, query, *values, beginning, MOST)):
        if i == 0:
            yield "last", run[1]
        yield run


def _stored(context: typer.Context, query: str, *values: str | int) -> Values:
    """The rows of a query; none where there is no SQLite database that can be read in a moment."""
    path = _database(context.params.get("db") or os.environ.get("SCRPO_DB") or DEFAULT_DATABASE)
    if path is None or not path.is_file():
        return
    used = Path(f"{path}-wal").exists()  # else a reader would leave that file behind
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{'' if used else '&immutable=1'}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=0.2)
        try:
            yield from connection.execute(query, values)
        finally:
            connection.close()
    except sqlite3.Error:
        return


def _database(url: str) -> Path | None:
    """The file of a path or an SQLite URL."""
    backend, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    return Path(rest.partition("?")[0].removeprefix("/")) if backend.startswith("sqlite") else None
