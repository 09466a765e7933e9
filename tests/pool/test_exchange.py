"""Pools as files: a round trip keeps everything, a bad line keeps everything out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.exchange import Imported, export_pool, import_pool
from scrpo_cli.pool.queries import attempts_of, list_runs, living_entries, record_step
from scrpo_cli.pool.records import StepRecord


@pytest.fixture
def run(db: Database, new_run, attempt) -> str:
    """Pool `p` with three entries, one of them retired; an entry with awkward text in pool `q`."""
    run = new_run(db, run_id="run")
    made = [attempt(run, 0, 0, s) for s in range(3)]
    record_step(db, run, StepRecord(0, "first", made, {a.id: "kept" for a in made}, "p", models={made[1].id: "m"}))
    record_step(db, run, StepRecord(1, "reflection", [], {}, "p", [(made[0].id, "solved")]))
    odd = attempt(run, 2, 1, text='two\nlines, "quotes", \u2028 and \\boxed{π}', extracted=None, verdict="unparsable")
    record_step(db, run, StepRecord(2, "first", [odd], {odd.id: "kept"}, "q"))
    return run


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Database]:
    with Database.open(str(tmp_path / "new.db")) as database:
        yield database


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_lines_are_interchange_rows(db: Database, run: str, tmp_path: Path) -> None:
    assert export_pool(db, tmp_path / "p.jsonl", "p") == 3
    row = rows(tmp_path / "p.jsonl")[1]
    assert list(row)[:7] == ["id", "problem", "answer", "response", "sample", "turn", "model"]
    assert (row["id"], row["answer"], row["sample"], row["model"]) == ("0", "0", 1, "m")
    assert (row["pool"], row["added_step"], row["verdict"], row["uses"]) == ("p", 0, "wrong", 0)
    assert "ids" not in row


def test_alive_entries_alone(db: Database, run: str, tmp_path: Path) -> None:
    assert export_pool(db, tmp_path / "p.jsonl", "p", alive=True) == 2
    assert export_pool(db, tmp_path / "all.jsonl") == 4


def test_a_round_trip_keeps_every_entry(db: Database, run: str, new: Database, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    export_pool(db, first, tokens=True)
    imported = import_pool(new, first)
    assert imported == Imported(rows=4, attempts=4, entries=4, run_id=imported.run_id)
    export_pool(new, second, tokens=True)
    fields = ("run_id", "phase")  # of the import
    assert [{k: v for k, v in row.items() if k not in fields} for row in rows(second)] == [
        {k: v for k, v in row.items() if k not in fields} for row in rows(first)
    ]
    assert living_entries(new, "p") == living_entries(db, "p")
    assert attempts_of(new, str(imported.run_id)) == attempts_of(db, run)


def test_a_compressed_file_is_read_back(db: Database, run: str, new: Database, tmp_path: Path) -> None:
    count = export_pool(db, tmp_path / "p.jsonl.gz")
    assert (tmp_path / "p.jsonl.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert import_pool(new, tmp_path / "p.jsonl.gz").entries == count
    (tmp_path / "torn.gz").write_bytes((tmp_path / "p.jsonl.gz").read_bytes()[:40])
    with pytest.raises(UserError, match="the file cannot be read"):
        import_pool(new, tmp_path / "torn.gz")


def test_without_tokens_the_text_remains(db: Database, run: str, new: Database, tmp_path: Path) -> None:
    export_pool(db, tmp_path / "p.jsonl", "p")
    imported = import_pool(new, tmp_path / "p.jsonl")
    bare = replace(attempts_of(db, run)[0].completion, prompt_ids=[], ids=[], logprobs=[])
    assert attempts_of(new, str(imported.run_id))[0].completion == bare


def test_importing_twice_changes_nothing(db: Database, run: str, new: Database, tmp_path: Path) -> None:
    export_pool(db, tmp_path / "p.jsonl")
    import_pool(new, tmp_path / "p.jsonl")
    again = import_pool(new, tmp_path / "p.jsonl")
    assert again == Imported(rows=4, attempts=0, entries=0, run_id=None)
    (only,) = list_runs(new)
    assert (only.command, only.status, only.recipe_json) == ("pool import", "done", "{}")
    assert import_pool(db, tmp_path / "p.jsonl").entries == 0, "nor into the database that it came from"


def test_into_another_pool(db: Database, run: str, tmp_path: Path) -> None:
    export_pool(db, tmp_path / "p.jsonl", "p")
    imported = import_pool(db, tmp_path / "p.jsonl", pool="copy")
    assert (imported.attempts, imported.entries) == (0, 3)
    assert [e.attempt_id for e in living_entries(db, "copy")] == [e.attempt_id for e in living_entries(db, "p")]


def edited(row: dict, **changes: object) -> str:
    return json.dumps({key: value for key, value in (row | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (lambda row: "not json", "the line is not JSON"),
        (lambda row: "[1, 2]", "the line is not a JSON object"),
        (lambda row: edited(row, verdict=None), "Field 'verdict'"),
        (lambda row: edited(row, verdict="bad"), "Field 'verdict'"),
        (lambda row: edited(row, verdict="correct"), "this answer is correct"),
        (lambda row: edited(row, added_step="soon"), "Field 'added_step'"),
        (lambda row: edited(row, attempt_id="run:0:0:1"), "is in pool 'p' twice"),
        (lambda row: edited(row, attempt_id="x", id="0", problem="changed"), "another `problem`"),
        (lambda row: edited(row, sample=2**31), "Field 'sample'"),
        (lambda row: edited(row, ids=[2**32]), "Field 'ids.0'"),
        (lambda row: edited(row, turn=True), "Field 'turn'"),
    ],
)
def test_one_bad_line_keeps_the_whole_file_out(db, run, new, tmp_path: Path, line, match: str) -> None:
    path = tmp_path / "p.jsonl"
    export_pool(db, path, "p")
    good = path.read_text().splitlines()
    path.write_text("\n".join([*good[:2], "", line(json.loads(good[2]))]))
    with pytest.raises(UserError, match=match) as caught:
        import_pool(new, path)
    assert len(caught.value.lines()) == 3
    assert caught.value.where == f"{path}:4"
    assert list_runs(new) == []


def test_an_attempt_that_differs_is_refused(db: Database, run: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    export_pool(db, path, "p")
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([edited(json.loads(first), response="something else"), *rest]))
    with pytest.raises(UserError, match="'run:0:0:0' has another text or verdict") as caught:
        import_pool(db, path, pool="copy")
    assert caught.value.where == f"{path}:1"


def test_files_that_cannot_be_read(new: Database, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the file does not exist"):
        import_pool(new, tmp_path / "missing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        import_pool(new, tmp_path / "binary")


def test_an_empty_file_is_refused(new: Database, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no entries"):
        import_pool(new, tmp_path / "empty.jsonl")


def test_a_place_that_cannot_be_written(db: Database, run: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        export_pool(db, tmp_path / "file" / "p.jsonl")


def test_an_unknown_pool_leaves_no_file(db: Database, run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pool 'z'"):
        export_pool(db, tmp_path / "z.jsonl", "z")
    assert not list(tmp_path.glob("z*"))
