"""The cross-check's own code, without the other graders: generations, deadlines, comparison."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compare
import formats
import generations
import pytest
from deadline import score_rows

from scrpo_cli.tasks.grading.numbers import EXACT, Rules
from scrpo_cli.tasks.grading.symbolic import equal
from scrpo_cli.types import Problem

ANSWERS = [
    "1234",
    "-7",
    "\\frac{3}{4}",
    "\\frac{7}{3}",
    "0.25",
    "4.5e33",
    "90^\\circ",
    "50\\%",
    "\\text{Evelyn}",
    "(1,-2)",
]


@pytest.mark.parametrize("answer", [*ANSWERS, "2\\sqrt{3}", "x^2+1", "y = 2x", "\\text{Evelyn}"])
def test_every_rewriting_of_an_answer_has_its_value(answer: str) -> None:
    others = formats.rewritings(answer)
    assert others
    for name, text in others.items():
        if name in ("fraction of 100", "doubled and halved"):  # listed in docs/validation/crosscheck.md where they fail
            continue
        to_compute = name == "unreduced fraction" and answer.lstrip("-").isdigit()  # by our rule no answer
        assert equal(answer, text) is not to_compute, (name, text)


def test_a_list_may_be_reversed_only_where_its_order_does_not_matter() -> None:
    assert "reversed" not in formats.rewritings("1,-2")
    assert equal("1,-2", formats.rewritings("1,-2", unordered=True)["reversed"], Rules(unordered=True))


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("answer", [*ANSWERS, "2\\sqrt{3}", "\\text{Evelyn}", "E_1"])
def test_a_near_miss_is_another_answer(answer: str, n: int) -> None:
    miss = formats.near_miss(answer, n)
    if answer in ("\\text{Evelyn}", "E_1"):  # no digit but an index
        assert miss is None
    else:
        assert miss is not None
        assert not equal(answer, miss, EXACT)


def test_generations_are_labelled_and_wrong_ones_never_repeat_the_gold() -> None:
    answers = ["12", "7", "\\frac{1}{2}", "$x=1$,$x=2$", "\\frac{2}{3}", "$y=3$"]
    problems = [
        Problem(f"p{n}", "math500", "?", answer, {"solution": f"so $\\boxed{{{n}}}$"})
        for n, answer in enumerate(answers)
    ]
    rows = list(generations.of_source(problems))
    assert len({row["key"] for row in rows}) == len(rows)
    assert {row["expected"] for row in rows if row["kind"] == "reference"} == {True}
    wrong = [row for row in rows if row["kind"].startswith(("near miss", "another problem", "two boxes"))]
    assert len(wrong) == 9
    for row in wrong:
        last_box = re.findall(r"boxed\{(.*?)\}\$", row["response"])[-1]
        assert not row["expected"]
        assert last_box != formats.bare(row["answer"])


def test_dollars_of_formulas_go_and_those_of_money_stay() -> None:
    assert formats.bare("$x=1$,$x=2$.") == "x=1,x=2"
    assert formats.bare("\\$36") == "\\$36"


def make_slow_scorer() -> Any:
    def score(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["response"] == "hang":
            time.sleep(60)
        if row["response"] == "die":
            sys.exit(3)
        return {"verdict": 1 // len(row["response"]) == 1, "extracted": row["response"]}

    return score


def test_a_hanging_a_raising_and_a_dying_row_cost_only_themselves() -> None:
    rows = [{"row": n, "response": text} for n, text in enumerate(["a", "hang", "b", "", "die", "cc"])]
    found = list(score_rows(make_slow_scorer, rows, deadline_s=2.0))
    assert [score["verdict"] for score in found] == [True, None, True, None, None, False]
    assert found[1]["note"] == "no verdict within 2 s"
    assert "ZeroDivisionError" in found[3]["note"]
    assert "died" in found[4]["note"]


VERDICTS = {  # row: right, ours, lm-eval, lighteval
    0: (True, True, True, True),
    1: (True, True, False, True),
    2: (False, False, False, True),
    3: (True, True, True, False),
    4: (False, False, False, False),
    5: (False, None, False, False),
    6: (True, True, True, True),
    7: (True, True, True, True),
    8: (True, True, True, True),
    9: (False, False, False, False),
}


def scored(folder: Path, verdicts: Mapping[int, tuple[bool | None, ...]]) -> list[str]:
    """The command line of compare.py on a made-up file: 5 rows of GSM8K, 5 of MATH-500."""
    rows = [
        {"row": n, "key": f"p{n}/reference", "id": f"p{n}", "kind": "reference", "answer": "1|2", "expected": right[0]}
        | {"source": "gsm8k" if n < 5 else "math500"}
        for n, right in verdicts.items()
    ]
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = [str(folder / "generations.jsonl")]
    for i, name in enumerate(("ours", "lm-eval", "lighteval"), 1):
        head = {"versions": {name: "1.0"}}
        notes = {None: "grader_error", True: "", False: ""}
        scores = [(n, row[i]) for n, row in verdicts.items()]
        lines = [{"row": n, "verdict": v, "extracted": f"{n}", "note": notes[v]} for n, v in scores]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
        args += [f"--{name}", str(folder / name)]
    (folder / "page.md").write_text(f"before\n{compare.BEGIN}\nOUTDATED\n{compare.END}\nafter\n")
    return [*args, "--out", str(folder / "out.jsonl"), "--page", str(folder / "page.md")]


def test_agreement_and_every_unsettled_row_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["compare.py", *scored(tmp_path, VERDICTS)])
    assert compare.main() == 1, "lighteval's errors on rows 2 and 3 have no cause"
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["key"] for line in records] == [f"p{n}/reference" for n in (1, 2, 3, 5)]
    assert records[1]["causes"] == {"lighteval": "not judged"}
    assert records[3]["verdicts"] == {"ours": "none", "lm_eval": "wrong", "lighteval": "wrong"}
    assert records[3]["causes"] == {"ours": "gold not readable"}
    assert "10 rows, 4 not settled, 3 of them not judged" in capsys.readouterr().out
    page = (tmp_path / "page.md").read_text()
    assert "| gsm8k | 5 | 4 (80.00%), 1 differ | 3 (60.00%), 2 differ | 2 (40.00%), 3 differ |" in page
    assert "| all | 10 | 8 (80.00%), 2 differ | 7 (70.00%), 3 differ | 7 (70.00%), 3 differ |" in page
    assert "| gsm8k | reference | 5 | 0 | 1 (-1) | 2 (+1 -1) |" in page
    assert "| math500 | reference | 5 | 1 (?1) | 0 | 0 |" in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "OUTDATED" not in page


def test_a_file_of_scores_that_stopped_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = scored(tmp_path, VERDICTS)
    lines = (tmp_path / "ours").read_text().splitlines(keepends=True)
    (tmp_path / "ours").write_text("".join(lines[:-1]))
    monkeypatch.setattr("sys.argv", ["compare.py", *args])
    with pytest.raises(ValueError, match="9 scores for 10 rows"):
        compare.main()


def test_the_committed_appendix_names_a_cause_for_every_wrong_verdict() -> None:
    path = Path(__file__).parents[2] / "docs" / "validation" / "crosscheck.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert records
    for line in records:
        wrong = {grader for grader, verdict in line["verdicts"].items() if verdict != line["right"]}
        assert set(line["causes"]) == wrong
        assert "not judged" not in line["causes"].values()


@pytest.mark.parametrize("answer", ["(3,4]", "3-\\sqrt{2}", "\\sin x", "1 \\pm \\sqrt{19}", "x^2+12"])
def test_a_slip_is_another_answer(answer: str) -> None:
    found = formats.slips(answer)
    assert found
    for name, slip in found.items():
        assert not equal(answer, slip), name


def test_a_point_may_be_written_in_square_brackets() -> None:
    assert "bracket" not in formats.slips("(1,2)")
    assert formats.slips("(1,\\infty)")["bracket"] == "[1,\\infty]"
