"""Files that a command is told to write, and stdout: what is no file stays what it is, and a file keeps its links."""

from __future__ import annotations

import gzip
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import Hook

from scrpo_cli.errors import RunError
from scrpo_cli.files import write_atomically, write_lines

ROW = {"id": "1", "problem": "1+1=?", "answer": "2", "response": "\\boxed{3}"}
DATABASE = "here.db"
ANOTHER = "Name another place with -o."


@pytest.fixture(params=["pool", "runs"])
def export(scrpo, tmp_path, request):
    """`scrpo pool export` and `scrpo runs export` of one answer: the arguments before `-o`."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    assert scrpo("collect", "--from-jsonl", "rows.jsonl", "--db", DATABASE).code == 0
    words = ["pool", "export"] if request.param == "pool" else ["runs", "export", "last", "--all"]
    return [*words, "--db", DATABASE]


def is_export(text: str) -> bool:
    return [json.loads(line)["response"] for line in text.splitlines()] == [ROW["response"]]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A device that is full, which a test may destroy: root gets a node of its own, others cannot replace the link."""
    path = tmp_path / "full"
    if os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.stat("/dev/full").st_rdev)
    else:
        path.symlink_to("/dev/full")
    return path


def test_a_database_is_never_replaced(scrpo, export, tmp_path) -> None:
    (tmp_path / "link").symlink_to(DATABASE)
    for place in (DATABASE, "link"):
        outcome = scrpo(*export, "-o", place)
        assert (outcome.code, outcome.err.splitlines()[0]) == (2, "Error: Cannot write the file: it is a database")
    assert scrpo("pool", "ls", "--db", DATABASE).code == 0


def test_a_file_in_the_place_of_our_directory_is_named(scrpo, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "runs").write_text("mine")
    outcome = scrpo("collect", "--from-jsonl", "rows.jsonl", "--db", DATABASE)
    what, where, fix = outcome.err.splitlines()[-3:]
    assert (outcome.code, what, fix) == (
        2,
        "Error: Cannot be used: Not a directory",
        "  fix: Check the path and its permissions.",
    )
    assert str(tmp_path / "runs") in where
    assert (tmp_path / "runs").read_text() == "mine"


def test_a_link_in_a_circle_stays_one(scrpo, export, tmp_path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    outcome = scrpo(*export, "-o", "loop")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 3)
    assert (tmp_path / "loop").is_symlink()


def test_a_full_device_fails_and_stays_a_device(scrpo, export, full) -> None:
    outcome = scrpo(*export, "-o", full)
    assert (outcome.code, outcome.err.splitlines()) == (
        1,
        [
            "Error: Cannot write the file: No space left on device",
            f"  where: {full}",
            "  fix: Name another place with -o.",
        ],
    )
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.parametrize("name", ["pipe", "pipe.gz"])
def test_a_pipe_is_written_into(scrpo, export, tmp_path, name) -> None:
    os.mkfifo(tmp_path / name)
    with ThreadPoolExecutor() as pool:
        got = pool.submit((tmp_path / name).read_bytes)
        assert scrpo(*export, "-o", name).code == 0
        written = got.result(timeout=10)
    assert is_export((gzip.decompress(written) if name.endswith("gz") else written).decode())
    assert stat.S_ISFIFO((tmp_path / name).stat().st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_leads_to_the_new_file(scrpo, export, tmp_path, there) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere/real.jsonl"
    if there:
        target.write_text("old")
        target.chmod(0o640)
    (tmp_path / "link").symlink_to("elsewhere/real.jsonl")
    assert scrpo(*export, "-o", "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert is_export(target.read_text())
    assert not there or stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(tmp_path / "elsewhere") == ["real.jsonl"]


def test_a_directory_is_refused(scrpo, export, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    outcome = scrpo(*export, "-o", "folder")
    assert (outcome.code, outcome.err.splitlines()[0]) == (2, "Error: Cannot write the file: Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_file_is_refused(scrpo, export, tmp_path) -> None:
    (tmp_path / "mine").write_text("old")
    (tmp_path / "mine").chmod(0o444)
    assert scrpo(*export, "-o", "mine").code == 2
    assert (tmp_path / "mine").read_text() == "old"


def test_a_dash_is_stdout(scrpo, export) -> None:
    outcome = scrpo(*export, "-o", "-")
    assert outcome.code == 0
    assert is_export(outcome.out)
    assert outcome.err.startswith("1 ")  # what else is said
    both = scrpo(*export, "-o", "-", "--json")
    assert (both.code, both.json["error"]["what"]) == (2, "--json and the file are both written to stdout.")


def test_a_name_for_stdout_is_not_opened_again(scrpo, export, scrpo_process, tmp_path) -> None:
    outcome = scrpo_process(*export, "-o", tmp_path / ".stdout")  # where the process writes to
    assert outcome.code == 0
    assert is_export(outcome.out)


def test_a_full_disk_leaves_what_was_there(tmp_path) -> None:
    old = "old\n" * 1000
    (tmp_path / "file").write_text(old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match="Cannot write the file: File too large"):
            write_lines(tmp_path / "file", ("x" * 1000 for _ in range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "file").read_text() == old
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path) -> None:
    """Each writes half, waits for the other, and writes the rest: one of them is the file."""
    barrier = threading.Barrier(2)

    def lines(word: str) -> Iterator[str]:
        yield word
        barrier.wait(10)
        yield word

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(write_lines, tmp_path / "file", lines(word)) for word in ("a", "b")]
        assert [each.result(timeout=20) for each in done] == [2, 2]
    assert (tmp_path / "file").read_text() in ("a\na\n", "b\nb\n")
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_name_of_a_file_can_be_written(tmp_path) -> None:
    with write_atomically(tmp_path / ("n" * 255)) as new:
        new.write_text("x")
    assert os.listdir(tmp_path) == ["n" * 255]


# --- stdout -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stdout:
    """Standard output is a full device, or a pipe that nobody reads."""

    kind: str

    def __call__(self) -> None:
        if self.kind == "full":
            writer = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, writer = os.pipe()
            os.close(reader)
        os.dup2(writer, 1)


PRINTING = {
    "a document": ["recipe", "ls", "--json"],
    "a table": ["recipe", "ls"],
    "a schema": ["recipe", "schema"],
    "lines": ["pool", "export", "--db", DATABASE, "-o", "-"],
    "help": ["eval", "--help"],
    "the version": ["--version"],
    "an error": ["recipe", "show", "nosuch", "--json"],
}


@pytest.fixture(params=PRINTING)
def printing(request, scrpo, tmp_path) -> list[str]:
    if request.param == "lines":
        (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
        scrpo("collect", "--from-jsonl", "rows.jsonl", "--db", DATABASE)
    return PRINTING[request.param]


def process(scrpo_process, args: list[str], kind: str):
    hook: Hook = Stdout(kind)
    return scrpo_process(*args, hooks=(hook,))


def test_a_full_stdout_is_a_failure_in_three_lines(scrpo_process, printing) -> None:
    outcome = process(scrpo_process, printing, "full")
    what, _, fix = outcome.err.splitlines()
    if "nosuch" in printing:  # the error itself is what has to be said
        assert (outcome.code, what) == (2, "Error: No such recipe")
    else:
        assert (outcome.code, what.endswith(": No space left on device")) == (1, True)
        assert fix.startswith("  fix: Make room")


def test_a_reader_who_has_left_is_not_an_error(scrpo_process, printing) -> None:
    outcome = process(scrpo_process, printing, "left")
    assert "Traceback" not in outcome.err
    assert "Broken pipe" not in outcome.err
    assert outcome.code == 2 if "nosuch" in printing else outcome.code in (0, 1)  # click's own pages end with 1


def test_streams_that_are_closed_are_read_and_written_as_nothing(scrpo, tmp_path) -> None:
    """The database is opened first: without a stdout it would be file 1, to which programs print."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    command = f"exec {sys.executable} -m scrpo_cli collect --from-jsonl rows.jsonl --db {DATABASE}"
    assert subprocess.run(["sh", "-c", f"{command} --json <&- >&- 2>&-"], cwd=tmp_path).returncode == 0
    assert scrpo("pool", "ls", "--db", DATABASE, "--json").json["total"] == 1
