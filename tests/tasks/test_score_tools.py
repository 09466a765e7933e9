"""tools/pair_scores.py and tools/copying.py on few rows: what they read, count and print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.append(str(TOOLS))  # its worker processes import pair_scores by name

import copying  # noqa: E402
import pair_scores  # noqa: E402


def test_every_row_of_every_table_is_scored():
    tables = [yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("**/pairs*/*.yaml")]
    tables += [yaml.safe_load(path.read_text()) for path in Path(__file__).parent.glob("pairs_*.yaml")]
    rows = list(pair_scores.read(pair_scores.TABLES))
    assert len(rows) == sum(len(found) for t in tables for kind in t.values() for found in kind.values()) > 1800
    assert {row.problem != "" for row in rows} == {True, False}
    assert {rule for row in rows for rule in row.rules} == set(pair_scores.META)


def test_rows_are_graded_by_both_and_the_table_adds_up(capsys, tmp_path):
    out = tmp_path / "scores.json"
    assert pair_scores.main(["--kinds", "units within the tolerance", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {row["ours"] for row in found} == {"correct", "wrong"}
    assert {row["theirs"] for row in found} <= {True, False, None}
    *_, row, total = capsys.readouterr().out.splitlines()
    assert row.startswith("| units within the tolerance | 9 | ")
    assert total == row.replace("units within the tolerance", "**all**")


def test_what_counts_as_right():
    row = pair_scores.Row("kind", True, "5", "5", ours="correct", theirs=True)
    rows = [
        row,
        replace(row, same=False),  # both wrongly correct
        replace(row, ours="wrong", theirs=None),  # both wrongly not
        replace(row, ours="grader_error", theirs=False),
        replace(row, same=False, ours="grader_error", theirs=False),
        replace(row, same=False, ours="timeout", theirs=False),
    ]
    assert pair_scores.line("kind", rows) == ["kind", 6, 2, 1, 1, 2, 3, 1, 2]


def test_what_math_verify_does_not_answer_in_time_is_no_verdict(monkeypatch):
    found = [TimeoutError(), True, False]
    monkeypatch.setattr(pair_scores.KillableProcesses, "map", lambda *args: found)
    assert pair_scores.verified([("5", "5")] * 3) == [None, True, False]


TEXT = r"""Let $x = 3$. Find $$\frac{1}{x} + 2$$ or \(x^2\) for \$5 and 1,200 apples, $f(x) < 3$.
[asy] draw((7,8)--(9,10)); $y=9$ [/asy]"""


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        ("last formula", "f(x) < 3"),
        ("longest formula", r"\frac{1}{x} + 2"),
        ("last relation", "f(x) < 3"),
        ("last number", "3"),
        ("whole problem", TEXT),
        ("all numbers", "3, 1, 2, 5, 1,200"),
        ("any number", "3 or 1 or 2 or 5 or 1,200"),
    ],
)
def test_what_is_copied(policy, answer):
    assert copying.POLICIES[policy](TEXT) == answer


@pytest.mark.parametrize("policy", copying.POLICIES)
def test_a_text_with_nothing_to_copy(policy):
    assert isinstance(copying.POLICIES[policy]("Why?"), str)


def test_copies_are_graded_on_a_benchmark(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "amc23"
    folder.mkdir()
    problems = [("Is $5$ or 7 larger?", "7"), ("What is $3+4$?", "7"), ("What is half of 10?", "5")]
    rows = [{"id": str(i), "problem": text, "answer": gold} for i, (text, gold) in enumerate(problems)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("SCRPO_DATA_DIR", str(tmp_path))
    out = tmp_path / "copied.json"
    asked = ["--benchmarks", "amc23", "--policies", "last number", "any number"]
    assert copying.main([*asked, "--json", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| amc23 | 3 | 33.3% | 0.0% |"
    [copied] = json.loads(out.read_text())["correct"]
    assert copied == {"benchmark": "amc23", "policy": "last number", "id": "0", "answer": "7", "gold": "7"}
    assert copying.main([*asked, "--sample", "2"]) == 0
    assert "| amc23 | 2 of 3 |" in capsys.readouterr().out


def test_excluded_answers_are_in_no_average():
    assert str(copying.Score("b", "escape", 4, 1, 2)) == "50.0% (50.0% excluded)"
    assert str(copying.Score("b", "escape", 4, 0, 4)) == "- (100.0% excluded)"
    assert str(copying.Score("b", "last number", 4, 1, 0)) == "25.0%"
