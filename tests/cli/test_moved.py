"""A `.scrpo` that was moved or copied: its runs are found beside its database, and only there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import Outcome, SignalAt, run_scrpo, small

from scrpo_cli.jobs.evaluate import recipe_of_run
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import list_runs, resolve_run

SIZES = small(optim__steps=2, checkpoint__every=1, eval__every="null", eval__limit=2, task__train__limit=8)


@dataclass(frozen=True)
class House:
    directory: Path
    trained: str
    evaluated: str


@pytest.fixture(scope="module")
def house(scrpo_server: None, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A training run, and an evaluation of its adapter that was killed before its numbers."""
    directory = tmp_path_factory.mktemp("house")
    trained = run_scrpo(("train", "--json", *SIZES), directory)
    assert trained.code == 0, trained.err
    kill = SignalAt("scrpo_cli.jobs.evaluate:record_answers", 1, "after")
    assert run_scrpo(("eval", "--run", "last", "--benchmarks", "tiny"), directory, hooks=(kill,)).code < 0
    with Database.open(str(directory / ".scrpo/scrpo.db")) as db:
        evaluated, train = (row.id for row in list_runs(db))
    return House(directory / ".scrpo", train, evaluated)


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("what", ["trained", "evaluated"])
def test_a_database_that_was_copied_alone_changes_no_run_of_the_first(scrpo_process, tmp_path, house, what) -> None:
    copy, before = tmp_path / "copy.db", files(house.directory)
    shutil.copy(house.directory / "scrpo.db", copy)
    run = getattr(house, what)
    resume = ("train" if what == "trained" else "eval", "--resume", run, "--db", copy)
    refused = scrpo_process(*resume)
    assert (refused.code, f"Run {run} lies beside another database." in refused.err) == (2, True), refused.err
    assert files(house.directory) == before
    subprocess.run(refused.err.split("`")[1], shell=True, check=True)
    assert scrpo_process(*resume).code == 0
    assert files(house.directory) == before


@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved"])
def test_every_command_works_on_what_lies_beside_the_database(scrpo_process, tmp_path, house, moved) -> None:
    first, new = tmp_path / "first", tmp_path / "new place/.scrpo"
    shutil.copytree(house.directory, first)
    with Database.open(str(first / "scrpo.db")) as db, db.write() as connection:  # as if it had been made there
        for column in ("directory", "recipe_json", "summary_json"):
            connection.exec_driver_sql(
                f"UPDATE run SET {column} = replace({column}, ?, ?)", (str(house.directory), str(first))
            )
        connection.exec_driver_sql("UPDATE run SET status = 'running'")  # and killed
    before = files(first)
    shutil.copytree(first, new)
    if moved:
        shutil.rmtree(first)

    def scrpo(*args: object) -> Outcome:
        outcome = scrpo_process(*args, "--db", new / "scrpo.db", "--json")
        assert outcome.code == 0, outcome.err
        assert str(first) not in outcome.out
        return outcome

    shown = scrpo("runs", "show", house.trained).json
    assert {Path(path).is_relative_to(new) for path in shown["files"].values()} == {True}
    assert set(shown["files"]) == {"directory", "metrics", "adapter"}
    assert Path(shown["summary"]["adapter"]).is_relative_to(new)
    assert [run["directory"] for run in scrpo("runs", "ls").json["runs"]] == [
        str(new / "runs" / name) for name in (house.evaluated, house.trained)
    ]
    assert scrpo("pool", "stats").json["runs"] == {"killed": 1}
    resumed = scrpo("train", "--resume", house.trained).json
    assert Path(resumed["adapter"]).is_relative_to(new)
    evaluated = scrpo("eval", "--resume", house.evaluated).json
    assert Path(evaluated["benchmarks"]["tiny"]["protocol"]["adapter"]).is_relative_to(new)
    with Database.open(str(new / "scrpo.db")) as db:
        adapter = recipe_of_run(db, house.trained, None, [], print).model.adapter or ""
        assert Path(adapter).is_relative_to(new)
    assert (files(first) if first.exists() else before) == before
    assert first.exists() != moved


def test_what_is_not_beside_the_database_is_looked_for_where_it_was(tmp_path) -> None:
    """A database that was moved alone."""
    run = tmp_path / "old/runs/20261120-000000-aaaa"
    run.mkdir(parents=True)
    with Database.open(str(tmp_path / "new/scrpo.db")) as db:
        with db.write() as connection:
            columns = "id, command, status, recipe_name, recipe_json, seed, directory, model, scrpo_version, created_at"
            values = (run.name, "train", "done", "r", "{}", 0, str(run), "m", "0", "2026-11-20T00:00:00Z")
            connection.exec_driver_sql(
                f"INSERT INTO run ({columns}, summary_json) VALUES (?,?,?,?,?,?,?,?,?,?,'{{}}')", values
            )
        assert resolve_run(db, "last").directory == str(run)
        (db.home / "runs" / run.name).mkdir(parents=True)
        assert resolve_run(db, "last").directory == str(db.home / "runs" / run.name)


def test_commands_that_are_named_work_as_they_stand(scrpo_process, tmp_path) -> None:
    """The next steps that a command names, and those in errors, are about the database that it worked on."""
    db = tmp_path / "a place/my.db"
    collected = scrpo_process("collect", "--db", db, *SIZES)
    assert collected.code == 0, collected.err
    stats, correct = (shlex.split(line)[2:] for line in collected.out.splitlines()[-2:])
    assert scrpo_process(*stats).code == 0
    corrected = scrpo_process(*correct, *SIZES)
    assert corrected.code == 0, corrected.err
    look, show = (shlex.split(line)[2:] for line in corrected.out.splitlines()[-2:])
    assert scrpo_process(*look).code == 0
    assert show[-2:] == ["--db", str(db)]
    for wrong in (("runs", "show", "nothing"), ("pool", "show", "nothing")):
        refused = scrpo_process(*wrong, "--db", db)
        assert refused.code == 2
        assert scrpo_process(*shlex.split(refused.err.split("`")[-2])[1:]).code == 0, refused.err


def test_a_command_carries_a_database_that_is_not_the_usual_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRPO_DB", raising=False)
    with Database.open() as db:
        assert db.command("runs", "show", "a b") == "scrpo runs show 'a b'"
        monkeypatch.setenv("SCRPO_DB", "other.db")
        assert db.command("runs", "ls") == "scrpo runs ls --db .scrpo/scrpo.db"
    with Database.open() as other:
        assert other.command("runs", "ls") == "scrpo runs ls --db other.db"
