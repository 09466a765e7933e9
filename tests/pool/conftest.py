"""A fresh database, and attempts to put into it.

With SCRPO_TEST_POSTGRES every test that takes `db` also runs on PostgreSQL: on the scratch database whose URL it is,
or where it says `start` on a server that is started for the tests (`make test-postgres`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from postgres_server import postgres_server, why_not

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import start_run
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

POSTGRES = os.environ.get("SCRPO_TEST_POSTGRES")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a scratch database."""
    if POSTGRES != "start":
        yield str(POSTGRES)
        return
    if reason := why_not():
        pytest.skip(reason)
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        with Database.open(str(tmp_path / "scrpo.db")) as database:
            yield database
        return
    schema = f"t{uuid.uuid4().hex}"
    url = sqlalchemy.make_url(request.getfixturevalue("postgres")).set(drivername="postgresql+psycopg")
    server = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE SCHEMA {schema}"))
        ours = url.update_query_dict({"options": f"-csearch_path={schema}"})
        with Database.open(ours.render_as_string(hide_password=False)) as database:
            yield database
        connection.execute(sqlalchemy.text(f"DROP SCHEMA {schema} CASCADE"))
    server.dispose()


NewRun = Callable[..., str]


@pytest.fixture
def new_run() -> NewRun:
    """`new_run(db, command=..., run_id=...)`; the id of the run."""

    def start(db: Database, **fields: str) -> str:
        given = {"command": "train", "recipe": Recipe(name="r"), "directory": "d", "model": "tiny", **fields}
        return start_run(db, **given)  # type: ignore[arg-type]

    return start


@pytest.fixture
def run(db: Database, new_run: NewRun) -> str:
    return new_run(db)


MakeAttempt = Callable[..., Attempt]


@pytest.fixture
def attempt() -> MakeAttempt:
    """`attempt(run, step, group, sample, verdict, ...)`; its problem is the group's number."""
    return make_attempt


def make_attempt(
    run: str,
    step: int = 0,
    group: int = 0,
    sample: int = 0,
    verdict: Verdict | str = Verdict.WRONG,
    *,
    parent: str | None = None,
    extracted: str | None = "7",
    kind: AttemptKind = AttemptKind.FIRST,
    text: str = "it is 7",
) -> Attempt:
    problem = Problem(str(group), "tiny", f"What is {group}?", str(group), {"level": 2})
    completion = Completion([1, 2, 3], [4, 4_000_000_000], [-0.5, -0.25], text, FinishReason.STOP, step)
    grade = Grade(Verdict(verdict), extracted, None, "tiny-1")
    return Attempt(f"{run}:{step}:{group}:{sample}", problem, completion, grade, kind, 1, sample, parent)
