"""Everything that is printed, at several widths of a terminal and into a pipe: no word is cut, nothing is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scrpo_cli.cli.correct import closing as correct_closing
from scrpo_cli.layout import Column, Pairs, Table
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, record_evaluation, record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

RUN_ID = re.compile(r"\d{8}-\d{6}-\w{4}")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LONG = "A train leaves at noon with three hundred and twelve passengers; how many are left after seven stations?"
SCORES = {"n": 100, "samples": 4, "avg": 0.42, "ci95": [0.38, 0.46], "repair_rate": {"value": 0.25, "ci95": [0.2, 0.3]}}
RESPONSES = {"x": "\\boxed{2}", ".": "\\boxed{3}"}
WIDTHS = (60, 80, 120)
BLOCKS_GO_WITHOUT = {"id", "attempt", "name", "benchmark"}  # the heading of the first column
COMMANDS = (
    "runs ls --db runs.db",
    "runs show 20261122-005625-gv2r --db runs.db",
    "pool ls --db runs.db",
    "pool ls --all --pool collected-by-hand --db runs.db",
    "pool show 20261122-005625-gv2r:1:0:0 --db runs.db",
    "pool show train-17 --db runs.db",
    "pool stats --db runs.db",
    "recipe ls",
    "recipe show scrpo-base",
    "train --dry-run",
    "eval --list",
    "eval --from-jsonl rows.jsonl",
    "power --problems 500 --effect 3",
    "grade --from-jsonl rows.jsonl --task math",
    "overlap problems.jsonl --task math",
)


@pytest.fixture
def stored(scrpo: Callable, tmp_path: Path) -> str:
    """A database of two runs with long names and one pool, and responses of two turns to four benchmarks, scored; the
    id of that run.
    """
    problem = Problem("train-17", "tiny", LONG, "312")

    def wrong(run: str, sample: int) -> Attempt:
        completion = Completion([1], [2], [-0.5], f"{LONG} I think \\boxed{{{sample}}}", FinishReason.STOP)
        grade = Grade(Verdict.WRONG, "the number of passengers that are left", None, "tiny/1")
        return Attempt(f"{run}:1:0:{sample}", problem, completion, grade, AttemptKind.FIRST, 1, sample, None)

    with Database.open("runs.db") as database:
        for run, arm in (
            ("20261122-005625-gv2r", "reflect_every=never"),
            ("20261122-005625-gyi2", "method.loss.tokens=reflection seed 3"),
        ):
            given = {"command": "train", "recipe": Recipe(name="scrpo-gsm8k"), "model": "Qwen/Qwen2.5-0.5B-Instruct"}
            start_run(database, directory=str(tmp_path), run_id=run, sweep="20261122-005624-xjc4", arm=arm, **given)
            found = [wrong(run, sample) for sample in range(2)]
            record_step(
                database, run, StepRecord(1, "first", found, {a.id: "kept" for a in found}, "collected-by-hand")
            )
            record_evaluation(database, run, 2, "minerva", SCORES, [])
            finish_run(database, run, "interrupted", {"generated_tokens": 1234})
    rows = [
        {
            "id": f"{name}{n}",
            "problem": f"{n}+1=? ({name})",
            "answer": "2",
            "benchmark": name,
            "turn": turn,
            "response": text,
        }
        for name in ("olympiads", "competition-of-the-year", "school", "second-school")
        for n, text in enumerate([RESPONSES["x"], RESPONSES["."]] * 4)
        for turn in (1, 2)
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = [{"id": f"p{n}", "problem": f"{LONG} {n}", "answer": "1"} for n in (1, 2)]
    Path("problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    scored = scrpo("eval", "--from-jsonl", "rows.jsonl", "--json")
    assert scored.code == 0, scored.err
    return str(scored.json["run"])


def words(text: str) -> set[str]:
    """As they stand between spaces, without the commas and semicolons by which lines are joined."""
    return {word.rstrip(",;") for word in text.split()} - {""}


def check_terminal(shown: str, piped: str, width: int) -> None:
    """Lines fit unless they are one long word; every word is one of the whole text, or ends with `…`."""
    for line in shown.splitlines():
        assert len(line.rstrip()) <= width or len(line.split()) == 1, line
    cut = {word for word in words(shown) if word.endswith("…")}
    assert words(shown) - cut - {"every", "row:"} <= words(piped)
    for word in cut:
        assert any(whole.startswith(word[:-1]) for whole in words(piped)), word
    assert cut or words(piped) - BLOCKS_GO_WITHOUT <= words(shown), "nothing is lost"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_word_is_cut(scrpo: Callable, stored: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, same = command.replace("RUN", stored).split(), "20261122-000000-runs"  # eval makes a new one
    monkeypatch.setenv("COLUMNS", "80")
    piped = scrpo(*arguments)
    assert piped.code == 0, piped.err
    assert "…" not in piped.out
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which Rich takes it for a terminal
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        shown = ANSI.sub("", scrpo(*arguments).out)
        check_terminal(RUN_ID.sub(same, shown), RUN_ID.sub(same, piped.out), width)


def test_a_pipe_gets_a_line_a_row_whatever_columns_says(
    scrpo: Callable, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = scrpo("pool", "ls", "--db", "runs.db").out.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert all(LONG in line and line.split()[-1] == "collected-by-hand" for line in lines[1:5])


def test_a_column_of_one_value_makes_room(scrpo: Callable, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    lines = ANSI.sub("", scrpo("pool", "ls", "--db", "runs.db").out).splitlines()
    assert "pool" not in lines[0].split()
    assert lines[-2] == "every row: pool collected-by-hand"


def printed(part: object, width: int | None) -> str:
    console = Console(width=width or 80, force_terminal=width is not None, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(part, soft_wrap=width is None, crop=False)
    return captured.get()


def test_a_wide_table_is_split_and_a_list_is_stacked() -> None:
    split, stacked = Table("arm", *"abcd"), Table("arm", *"abcd", records=True)
    for table in (split, stacked):
        table.add_row("reflect_every=5", *["43.2% [38.1, 48.4]"] * 4)
    assert [line.split() for line in printed(split, 45).splitlines()] == [
        ["arm", "a", "b"],
        ["reflect_every=5", "43.2%", "43.2%"],
        ["[38.1,", "48.4]"] * 2,
        [],
        ["arm", "c", "d"],
        ["reflect_every=5", "43.2%", "43.2%"],
        ["[38.1,", "48.4]"] * 2,
    ]
    assert [line.split() for line in printed(stacked, 45).splitlines()] == [
        ["arm", "a", "b"],
        ["reflect_every=5", "43.2%", "43.2%"],
        ["[38.1,", "48.4]"] * 2,
        ["c", "43.2%", "[38.1,", "48.4]"],
        ["d", "43.2%", "[38.1,", "48.4]"],
    ]
    stacked.add_row("a name that no terminal of a watch is wide enough for")
    assert printed(stacked, 24).splitlines()[0] == "reflect_every=5"


def test_a_path_can_be_copied() -> None:
    path = "/a/long/path/" + "x" * 60
    assert printed(Pairs({"run": "1", "adapter": path}), 80).splitlines() == ["run      1", "adapter", f"  {path}"]


WORDS = ("1", "43.2%", "[38.1, 48.4]", "[+1, +2]", "two words", "reflect_every=5", "你好", "a\nb", "")
CELL = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)
FOLDS = st.sampled_from(["whole", "words"])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    size = draw(st.integers(1, 5))
    columns = [Column(draw(st.sampled_from(WORDS)), draw(FOLDS), draw(st.booleans())) for _ in range(size)]
    table = Table(*columns, records=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 3))):
        table.add_row(*(draw(CELL) for _ in columns))
    return table


@given(tables(), st.integers(10, 120))
def test_no_table_loses_or_cuts_a_word(table: Table, width: int) -> None:
    check = {word for row in table.rows for cell in row for word in words(str(cell))}
    assert check <= words(printed(table, None))
    assert check <= words(printed(table, width))


def test_the_repair_rate_is_folded_between_words() -> None:
    found = {"value": 0.471, "ci95": [0.315, 0.633]}
    summary = {"errors": 34, "corrections": 34, "not_graded": 0, "repair_rate": found, "pool": "default"}
    with Database.open("sqlite://") as database:
        said = "\n".join(printed(part, 80) for part in correct_closing(summary, database)[:-2])
    assert said.split() == [
        "34",
        "errors,",
        "34",
        "corrections:",
        "repair",
        "rate",
        "47.1%",
        "[31.5,",
        "63.3]",
        "(95%,",
        "clustered",
        "by",
        "problem)",
    ]
    assert max(map(len, said.splitlines())) <= 80
