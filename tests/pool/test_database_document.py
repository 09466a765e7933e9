"""docs/database.md is what the database is."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import MIGRATION
from scrpo_cli.pool.queries import record_evaluation, record_step
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "database.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def path(tmp_path: Path, new_run, attempt) -> Path:
    path = tmp_path / ".scrpo" / "scrpo.db"
    with Database.open(str(path)) as db:
        run = new_run(db, recipe=Recipe())
        made = [attempt(run, 0, 0, s) for s in range(2)]
        record_step(db, run, StepRecord(0, "first", made, {a.id: "kept" for a in made}, "default", metrics={"kl": 0.5}))
        record_evaluation(db, run, 0, "tiny", {"avg": 0.5}, [])
    return path


@pytest.mark.parametrize("query", blocks("sql"))
def test_queries_run_and_find_something(path: Path, query: str) -> None:
    assert sqlite3.connect(path).execute(query).fetchall()


def test_the_python_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(path.parents[1])
    (code,) = blocks("python")
    names: dict = {}
    exec(code, names)
    assert names["steps"].kl.tolist() == [0.5]
    assert names["ids"].tolist() == [4, 4_000_000_000]


def test_every_table_and_column_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for model in SQLModel.__subclasses__():
        table = model.__table__  # type: ignore[attr-defined]
        assert f"**{table.name}**" in page
        for column in table.columns if table is not MIGRATION else ():
            assert re.search(rf"\b{column.name}\b", page), f"{table.name}.{column.name}"
