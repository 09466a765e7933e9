"""The pool bench on few attempts: what it fills is a pool as runs leave it, and all that it times leaves it so."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pool
import pytest

from scrpo_cli.pool.queries import living_entries, steps_of
from scrpo_cli.pool.stats import pool_stats

SIZE = 12_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "scrpo.db"


@pytest.fixture(scope="module")
def world(path: Path) -> pool.World:
    return pool.World.make(path, SIZE, tokens=4)


def test_a_filled_pool_is_one_that_runs_leave(world: pool.World) -> None:
    stats, small = pool_stats(world.db), pool_stats(world.db, world.small)
    assert SIZE <= stats["attempts"] < SIZE + 128
    assert small["attempts"] == pool.SMALL
    assert stats["retired"].keys() == {"used", "evicted"}
    assert stats["uses"] > 0
    assert len(living_entries(world.db, world.run)) == pool.ALIVE


def test_every_operation_is_timed_and_leaves_the_runs_as_they_were(world: pool.World) -> None:
    before = living_entries(world.db, world.run)
    found = pool.measured({SIZE: world}, 1)
    assert len(found) == 8
    assert all(row[SIZE]["median"] > 0 for row in found.values())
    assert found["record a step of 128 attempts"][SIZE]["n"] == pool.REWOUND
    assert living_entries(world.db, world.run) == before
    assert steps_of(world.db, world.run) == []
    assert len(pool.times(found).rows) == 8


def test_bytes_are_those_of_the_file(world: pool.World, path: Path) -> None:
    world.db.dispose()
    found = pool.stored(path)
    with closing(sqlite3.connect(path)) as db:
        used, count = db.execute(
            "SELECT (page_count - freelist_count) * page_size, (SELECT count(*) FROM attempt) "
            "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchone()
    assert found["all"] == pytest.approx(used / count)
    assert pool.indices(found["parts"]) < found["all"] - found["parts"]["attempt"]
    assert pool.bytes_each({SIZE: found}).rows[3] == [
        "prompt_ids, 100 tokens",
        f"{found['columns']['prompt_ids']:,.0f}",
    ]
    assert found["columns"]["prompt_ids"] < 400
