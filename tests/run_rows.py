"""The rows and lines that runs left, without what the clock, the machine and the runs' ids decide."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from scrpo_cli.pool.records import TOKEN_COLUMNS, unpack

TABLES = {
    "problem": "source, id",
    "attempt": "id",
    "pool_entry": "pool, attempt_id",
    "step": "run_id, step, phase",
    "evaluation": "run_id, step, benchmark",
}
"""Table -> its key."""
DATABASE = Path(".scrpo/scrpo.db")
Rows = dict[str, list[dict[str, Any]]]


def execute(directory: Path, statement: str, *values: object) -> list[Any]:
    """In the default database of `directory`."""
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def all_rows(directory: Path) -> Rows:
    """Every row of every table but `run`, in the order of its key; a run's id is replaced by its command's name."""
    names = dict(execute(directory, "SELECT id, command FROM run"))
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [_plain(row, names) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {key}")]
            for table, key in TABLES.items()
        }


def rows_of(directory: Path, run_id: str) -> Rows:
    """What one run wrote, in the order of its key; the run's id is replaced."""
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.row_factory = sqlite3.Row
        return {
            table: [
                _plain(row, {run_id: "run"})
                for row in connection.execute(f"SELECT * FROM {table} WHERE run_id = ? ORDER BY {key}", (run_id,))
            ]
            for table, key in TABLES.items()
            if table != "problem"
        }


def assert_same_rows(found: Rows, expected: Rows) -> None:
    for table, there in expected.items():
        assert len(found[table]) == len(there), table
        for mine, other in zip(found[table], there, strict=True):
            assert mine == other, table


def lines(file: Path) -> list[dict[str, Any]]:
    """Of a metrics.jsonl."""
    return [measured(json.loads(line)) for line in file.read_text().splitlines()]


def measured(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if k != "time" and not k.startswith(("seconds/", "memory/"))}


def with_plain_tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    """An attempt as the first three schemas stored it; rows of other tables as they are."""
    if "packed" not in row:
        return dict(row)
    tokens = {column: unpack(row, column).tobytes() for column in TOKEN_COLUMNS}
    return {key: value for key, value in row.items() if key != "packed"} | tokens


def _plain(row: sqlite3.Row, names: dict[str, str]) -> dict[str, Any]:
    there = with_plain_tokens(dict(row))  # the same, whichever version wrote it
    values = {key: _renamed(value, names) if isinstance(value, str) else value for key, value in there.items()}
    if "metrics_json" in values:
        values["metrics_json"] = measured(json.loads(values["metrics_json"]))
    return values


def _renamed(value: str, names: dict[str, str]) -> str:
    for run_id, command in names.items():
        value = value.replace(run_id, command)
    return value
