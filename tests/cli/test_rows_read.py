"""What a file of responses may not do in silence: one id for two problems, a field that is not there, no JSON."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ROW = {"id": "p1", "problem": "1+1=?", "answer": "2", "response": "\\boxed{3}", "source": "s"}
PROGRAM = {"id": "p1", "prompt": "Add.", "entry_point": "f", "tests": "assert f() == 1", "response": "x", "source": "s"}
Refused = Callable[..., tuple[str, str, str]]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def refused(scrpo) -> Refused:
    def run(*args: object) -> tuple[str, str, str]:
        outcome = scrpo(*args)
        what, where, fix = outcome.err.splitlines()[-3:]
        assert (outcome.code, what[:7], where[:9], fix[:7]) == (2, "Error: ", "  where: ", "  fix: "), outcome.err
        return what[7:], where[9:], fix[7:]

    return run


def attempts(tmp_path: Path) -> int:
    path = tmp_path / ".scrpo/scrpo.db"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM attempt").fetchone()[0]


# --- one id, one problem ------------------------------------------------------------------------------------------

CHANGES = [
    (ROW, {"problem": "2+2=?"}, "problem"),
    (ROW, {"answer": "3"}, "answer"),
    (ROW | {"meta": {"rel_tol": 0.01}}, {"meta": {"rel_tol": 0.5}}, "meta.rel_tol"),
    (PROGRAM, {"tests": "assert f() == 2"}, "meta.tests"),
]


@pytest.mark.parametrize(("row", "change", "field"), CHANGES, ids=[field for *_, field in CHANGES])
def test_a_problem_that_changes_inside_of_a_file(refused, tmp_path, row, change, field) -> None:
    file = write(tmp_path / "rows.jsonl", row, row | {"id": "p2"}, row | change)
    what, where, _ = refused("collect", "--from-jsonl", file)
    assert (what, where) == (f"Problem 'p1' has another `{field}` in {file}:1", f"{file}:3")
    assert attempts(tmp_path) == 0


@pytest.mark.parametrize("command", ["collect", "eval"])
@pytest.mark.parametrize(("row", "change", "field"), CHANGES, ids=[field for *_, field in CHANGES])
def test_a_problem_that_changes_from_file_to_file(scrpo, refused, tmp_path, command, row, change, field) -> None:
    own = ["--set", f"task.name={'code' if row is PROGRAM else 'math'}"]
    first = write(tmp_path / "first.jsonl", row)
    assert scrpo("collect", "--from-jsonl", first, *own).code == 0
    second = write(tmp_path / "second.jsonl", row | {"id": "p2"}, row | change)
    what, where, _ = refused(command, "--from-jsonl", second, *own)
    assert (what, where) == (f"Problem 'p1' has another `{field}` in .scrpo/scrpo.db", f"{second}:2")
    assert attempts(tmp_path) == 1


def test_a_problem_that_changes_is_not_imported(scrpo, refused, tmp_path) -> None:
    assert scrpo("collect", "--from-jsonl", write(tmp_path / "rows.jsonl", ROW)).code == 0
    assert scrpo("pool", "export", "-o", "pool.jsonl").code == 0
    entry = json.loads((tmp_path / "pool.jsonl").read_text())
    other = write(tmp_path / "other.jsonl", entry, entry | {"attempt_id": "a:1", "answer": "4"})
    for database in ("new.db", ".scrpo/scrpo.db"):
        what, where, _ = refused("pool", "import", other, "--db", database)
        assert (what, where) == (f"Problem 'p1' has another `answer` in {other}:1", f"{other}:2")
    alone = write(tmp_path / "alone.jsonl", entry | {"attempt_id": "a:1", "answer": "4"})
    what, where, _ = refused("pool", "import", alone)
    assert (what, where) == ("Problem 'p1' has another `answer` in .scrpo/scrpo.db", f"{alone}:1")


def test_what_only_the_database_tells_of_a_problem_is_no_change(scrpo, tmp_path) -> None:
    told = write(tmp_path / "told.jsonl", ROW | {"meta": {"level": 3}})
    for file in (told, write(tmp_path / "bare.jsonl", ROW)):
        assert scrpo("collect", "--from-jsonl", file).code == 0


def test_only_first_answers_are_collected_and_that_is_said(scrpo, refused, tmp_path) -> None:
    others = [ROW | {"turn": 2}, ROW | {"kind": "self_verdict"}, ROW | {"kind": "repair"}]
    outcome = scrpo("collect", "--from-jsonl", write(tmp_path / "rows.jsonl", ROW, *others), "--json")
    assert outcome.json["attempts"] == 1
    assert "3 rows are left out" in outcome.err
    assert (
        refused("collect", "--from-jsonl", write(tmp_path / "no.jsonl", *others))[0]
        == "The file has no first-turn rows."
    )


@pytest.mark.parametrize("command", ["collect", "eval", "grade"])
def test_what_the_template_wrote_is_graded_with_the_response(scrpo, tmp_path, command) -> None:
    """A thought that was begun by the template and never ended holds no answer."""
    thought = ROW | {"prefill": "<think>\n", "response": "Is it \\boxed{2}?"}
    outcome = scrpo(command, "--from-jsonl", write(tmp_path / "rows.jsonl", thought), "--json")
    found = outcome.json["benchmarks"]["s"]["avg"] if command == "eval" else str(outcome.json)
    assert found == 0 if command == "eval" else "unparsable" in found


# --- --map --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["collect", "eval", "grade"])
@pytest.mark.parametrize("rows", [(0,), (1, 0), (1, 1, 0)], ids=["none has it", "the second", "the last"])
def test_a_row_without_the_mapped_field_is_not_read_by_another(refused, tmp_path, command, rows) -> None:
    """`response` is there all the time: without a refusal it would be graded in place of `theirs`."""
    each = [ROW | {"id": f"p{i}"} | ({"theirs": "\\boxed{2}"} if has else {}) for i, has in enumerate(rows)]
    file = write(tmp_path / "rows.jsonl", *each)
    what, where, fix = refused(command, "--from-jsonl", file, "--map", "response=theirs")
    assert what == "the row has no field 'theirs', which --map reads as 'response'"
    assert (where, fix.endswith("the whole file is refused")) == (f"{file}:{len(rows)}", True)


# --- what is no JSON, or no answer --------------------------------------------------------------------------------


def line(**changes: Any) -> str:
    return json.dumps(ROW | {"id": "p2"} | changes)


BAD = {
    "NaN": (line(meta={"x": float("nan")}), "NaN is no JSON value"),
    "an infinity": (line(answer=float("-inf")), "-Infinity is no JSON value"),
    "a number that is one": (line(answer=0).replace(": 0", ": 1e999"), "the field 'answer' is empty or no text"),
    "a null response": (line(response=None), "the field 'response' is null"),
    "a sample that is true": (line(sample=True), "the field 'sample' is no whole number from 0 to 2147483647"),
    "a sample of 70 bits": (line(sample=2**70), "the field 'sample' is no whole number from 0 to 2147483647"),
    "a turn before the first": (line(turn=0), "the field 'turn' is no whole number from 1 to 2147483647"),
    "5000 digits": (line(sample=0).replace(": 0", ": " + "9" * 5000), "the line is not JSON"),
    "a field twice": (line()[:-1] + ', "response": "\\\\boxed{2}"}', "'response' stands in it twice"),
    "lists in lists": (line(meta={"x": 0}).replace(": 0", ": " + "[" * 300 + "]" * 300), "more than 100 deep"),
    "a tower of them": (line(meta={"x": 0}).replace(": 0", ": " + "[" * 90_000 + "]" * 90_000), "recursion"),
    "bytes": ("\ud800", "the text is not UTF-8"),
}


@pytest.mark.parametrize("command", ["collect", "eval", "grade"])
@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_a_bad_line_is_refused_and_named(refused, tmp_path, command, text, says) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n{text}\n", errors="surrogatepass")
    what, where, _ = refused(command, "--from-jsonl", file)
    assert says in what
    assert where in (f"{file}:2", f"{file}, after line 0", f"{file}, after line 1")
    assert attempts(tmp_path) == 0


def test_half_a_character_and_a_long_text_are_answers(scrpo, tmp_path) -> None:
    rows = [
        ROW | {"id": "a", "response": "\ud83d \\boxed{2}"},
        ROW | {"id": "b", "response": "x" * 10**6 + "\\boxed{2}"},
    ]
    outcome = scrpo("grade", "--from-jsonl", write(tmp_path / "rows.jsonl", *rows), "--json")
    assert outcome.json["counts"] == {"correct": 2}


def test_a_broken_archive(refused, tmp_path) -> None:
    whole = bytearray(gzip.compress(json.dumps(ROW).encode() * 100))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "rows.jsonl.gz").write_bytes(whole)
    assert "cannot be read" in refused("grade", "--from-jsonl", tmp_path / "rows.jsonl.gz")[0]


# --- stdin, and the mark of Windows -------------------------------------------------------------------------------


@pytest.fixture
def entry(scrpo, tmp_path) -> str:
    assert scrpo("collect", "--from-jsonl", write(tmp_path / "rows.jsonl", ROW), "--db", "first.db").code == 0
    return scrpo("pool", "export", "--db", "first.db", "-o", "-").out


COMMANDS = [["collect", "--from-jsonl"], ["eval", "--from-jsonl"], ["grade", "--from-jsonl"], ["pool", "import"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("how", ["stdin", "stdin with a mark", "a mark", "a mark in a .gz"])
def test_where_rows_come_from_does_not_matter(scrpo, tmp_path, monkeypatch, entry, command, how) -> None:
    data = (b"\xef\xbb\xbf" if "mark" in how else b"") + entry.encode()
    file = Path("-")
    if "stdin" in how:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    else:
        file = tmp_path / ("rows.jsonl.gz" if "gz" in how else "rows.jsonl")
        file.write_bytes(gzip.compress(data) if "gz" in how else data)
    assert scrpo(*command, file).code == 0


def test_what_is_wrong_with_stdin_is_said_of_stdin(refused, monkeypatch) -> None:
    for text, where in (("", "stdin"), ("{", "stdin:1")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert refused("collect", "--from-jsonl", "-")[1] == where


def test_a_recipe_with_a_mark(scrpo, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert scrpo("recipe", "show", "mine.yaml", "--json").json["seed"] == 3


def test_a_file_that_was_joined_to_itself_is_said(scrpo, tmp_path) -> None:
    row = ROW | {"sample": 0}
    other = row | {"response": "\\boxed{4}"}  # another step's first sample, as in an exported pool
    file = write(tmp_path / "rows.jsonl", row, other, row)
    outcome = scrpo("collect", "--from-jsonl", file)
    assert outcome.code == 0, outcome.err
    assert "warning: 1 rows repeat an earlier row (same sample, same text)" in outcome.err
    assert f"the first is {file}:3" in outcome.err
    unnumbered = write(tmp_path / "unnumbered.jsonl", ROW, ROW)
    assert "repeat" not in scrpo("collect", "--from-jsonl", unnumbered).err
