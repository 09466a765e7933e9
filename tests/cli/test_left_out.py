"""How many answers a score leaves out stands beside it, also where the score is of training or of a sweep."""

from __future__ import annotations

import numpy as np
import pytest
from processes import small

from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.ablation.table import tabulate
from scrpo_cli.evaluation.outcomes import Outcomes
from scrpo_cli.numbers import left_out
from scrpo_cli.tracking.console import describe_eval
from scrpo_cli.training.health import evaluation_metrics

MOODY = """
def grade(problem, response):
    if int(problem.answer) % 2:
        raise ValueError("odd")
    return False
"""


def test_before_and_after_training(scrpo, tmp_path) -> None:
    (tmp_path / "moody.py").write_text(MOODY)
    sizes = small(optim__steps=1, eval__limit=8, eval__samples=1, eval__repair="false")
    moody = ["--set", "task.grader=moody.py:grade", "--set", "task.grading.max_failed=1"]
    outcome = scrpo("train", *sizes, *moody)
    assert outcome.code == 0, outcome.err
    for label in ("before", "after"):
        assert f"{label}: " in outcome.out
    assert outcome.out.count("of 8 answers left out of the averages: ") == 2
    assert outcome.err.count(" of 8 answers left out") == 2
    assert "odd" in outcome.out
    shown = scrpo("runs", "show", "last").out
    assert shown.count("of 8 answers") == 2
    compared = scrpo("runs", "compare", "last").out
    assert compared.count("of 8 first answers do not count") == 2


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, ""),
        (None, ""),
        ({"first": {"n": 3, "of": 1000}}, "3 of 1,000 answers"),
        ({"second": {"n": 1, "of": 9}}, "1 of 9 second answers"),
        ({"first": {"n": 3, "of": 9}, "repair": {"n": 1, "of": 6}}, "3 of 9 first, 1 of 6 repair answers"),
    ],
)
def test_in_words(found, said) -> None:
    assert left_out(found) == said


@pytest.mark.parametrize("failed", [0, 3])
def test_in_the_lines_of_training(failed) -> None:
    cut = {"first": {"n": failed, "of": 40, "why": {"x": failed}}} if failed else {}
    metrics = evaluation_metrics({"avg": 0.5, "ci95": [0.4, 0.6], "left_out": cut}, "eval")
    line = describe_eval(4, metrics)
    assert line == "eval at step 4: 50.0% [40.0, 60.0]" + (", 3 of 40 answers left out" if failed else "")


@pytest.mark.parametrize("failed", [0, 2])
def test_in_the_notes_of_a_sweep(failed) -> None:
    first_NK = np.ones((6, 2))
    first_NK[0, :failed] = np.nan
    problems = tuple(("tiny", str(n)) for n in range(6))
    evaluated = Outcomes(problems, (first_NK,), np.full_like(first_NK, np.nan))
    runs = [RunOutcome("a", 0, "r", 100, evaluated, evaluated, steps=1, seconds=1.0)]
    notes = [note for note in tabulate(runs, ["a"], 100).notes if "left out" in note]
    assert len(notes) == (2 if failed else 0)
    assert all(note.startswith(f"a seed 0: {failed} of 12 first answers") for note in notes)
