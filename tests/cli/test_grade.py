"""`scrpo grade`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SCRPO_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("task", "gold", "answer", "verdict"),
    [
        ("math", r"\frac{1}{2}", "0.5", "correct"),
        ("math", "42", "41", "wrong"),
        ("math", "42", "-42", "wrong"),
        ("tiny", "42", "42", "correct"),
        ("tiny", "42", "forty", "unparsable"),
    ],
)
def test_one_pair(scrpo: Callable, task: str, gold: str, answer: str, verdict: str) -> None:
    outcome = scrpo("grade", "--task", task, "--gold", gold, "--answer", answer, "--json")
    assert outcome.code == 0
    assert [row["verdict"] for row in outcome.json["rows"]] == [verdict]
    assert outcome.json["counts"] == {verdict: 1}
    assert scrpo("grade", "--task", task, "--gold", gold, f"--answer={answer}").out.startswith(verdict)


def test_a_file_of_responses_and_pairs(scrpo: Callable, tmp_path: Path) -> None:
    file = jsonl(
        tmp_path / "rows.jsonl",
        {"id": "a", "answer": "2", "response": "so \\boxed{2}"},
        {"id": "b", "gold": "1/2", "pred": "0.5"},
        {"id": "c", "answer": "2", "response": "no idea"},
        {"id": "d", "answer": "1,2", "response": "A: 2,1", "meta": {"is_multiple_answer": True}},
        {"id": "e", "answer": "2", "response": "A: 3 \ud800"},
    )
    outcome = scrpo("grade", "--from-jsonl", file, "--json")
    rows = {row["id"]: (row["verdict"], row["extracted"]) for row in outcome.json["rows"]}
    assert rows == {
        "a": ("correct", "2"),
        "b": ("correct", "0.5"),
        "c": ("unparsable", None),
        "d": ("correct", "2,1"),
        "e": ("wrong", "3 ?"),
    }
    assert list(rows) == list("abcde")
    assert outcome.json["counts"] == {"correct": 3, "unparsable": 1, "wrong": 1}
    assert outcome.json["grader"].startswith("math/3 math-verify=")
    assert "60.0%" in scrpo("grade", "--from-jsonl", file).out


def test_fields_are_mapped(scrpo: Callable, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"key": "a", "truth": "2", "text": "A: 2"})
    outcome = scrpo("grade", "--from-jsonl", file, "--map", "id=key,answer=truth", "--map", "response=text", "--json")
    assert outcome.json["rows"] == [{"id": "a", "verdict": "correct", "extracted": "2"}]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "nothing to grade"),
        (["--gold", "1"], "nothing to grade"),
        (["--gold", "1", "--answer", "1", "--from-jsonl", "rows.jsonl"], "nothing to grade"),
        (["--from-jsonl", "none.jsonl"], "the file does not exist"),
        (["--from-jsonl", "rows.jsonl"], "'response' is missing"),
        (["--from-jsonl", "rows.jsonl", "--map", "reply=text"], "cannot be read"),
        (["--from-jsonl", "rows.jsonl", "--map", "response=text"], "'answer' is missing"),
        (["--from-jsonl", "."], "cannot be read"),
        (["--task", "cooking", "--gold", "1", "--answer", "1"], "cooking"),
        (["--gold", "1", "--answer", "1", "--workers", "0"], "--workers"),
    ],
)
def test_wrong_input_is_told_in_three_lines(scrpo: Callable, tmp_path: Path, args: list[str], says: str) -> None:
    jsonl(tmp_path / "rows.jsonl", {"id": "a", "text": "A: 1"})
    outcome = scrpo("grade", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err
    assert sum(line.startswith(("Error: ", "  where: ", "  fix: ")) for line in outcome.err.splitlines()[-3:]) == 3


def test_a_bad_line_is_named_and_the_file_refused(scrpo: Callable, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"id": "a", "answer": "1", "response": "A: 1"}, "{oops")
    outcome = scrpo("grade", "--from-jsonl", file, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["where"] == f"{file}:2"
    assert "the whole file is refused" in outcome.json["error"]["fix"]


def test_hard_answers_in_a_process_of_their_own(tmp_path: Path) -> None:
    """The installed program, whose grading processes are spawned from it: one item times out, its neighbours do not."""
    file = jsonl(
        tmp_path / "rows.jsonl",
        {"id": "a", "gold": "x+1", "pred": "1+x"},
        {"id": "b", "gold": "5!+\\sqrt{2}", "pred": "9^{9^{9^{9}}}"},
        {"id": "c", "gold": "x+1", "pred": "x-1"},
    )
    command = [sys.executable, "-m", "scrpo_cli", "grade", "--from-jsonl", file, "--json", "--workers", "1"]
    done = subprocess.run([*command, "--deadline", "2"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row["verdict"] for row in json.loads(done.stdout)["rows"]}
    assert rows == {"a": "correct", "b": "timeout", "c": "wrong"}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}: set SCRPO_DATA_DIR")
def test_the_documented_command_on_real_model_solutions(scrpo: Callable) -> None:
    file = DATA / "gsm8k" / "model_solutions.jsonl.gz"
    outcome = scrpo("grade", "--from-jsonl", file, "--map", "response=model_solution", "--json")
    assert outcome.json["counts"] == {"wrong": 3264, "correct": 2001, "unparsable": 11}
