"""Held-out sets against training sets: what is checked, what is not and why, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation import held_out
from scrpo_cli.evaluation.held_out import ProblemSet, check_held_out, contamination, warnings
from scrpo_cli.recipe.models import EvalConfig, ProblemsConfig, Recipe, TaskConfig

TEXTS = [
    "A shop sells 3 kinds of apples at 4 dollars a bag. How many dollars do 7 bags cost?",
    "Find the number of positive divisors of $360$.",
    "Let $x$ and $y$ be real numbers with $x+y=10$ and $xy=21$. Compute $x^2+y^2$.",
    "How many ways are there to seat six people around a round table?",
]
ANSWERS = ["28", "24", "58", "120"]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = [json.dumps({"id": f"{path.stem}-{i}", "problem": p, "answer": a}) for i, (p, a) in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    rows = list(zip(TEXTS, ANSWERS))
    reworded = "A shop sells 3 kinds of apples at 4 dollars a bag. How much do 7 bags cost in dollars?"
    return {
        "train": write(tmp_path / "train.jsonl", rows),
        "clean": write(tmp_path / "clean.jsonl", [("Compute $17+5$.", "22")]),
        "dirty": write(tmp_path / "dirty.jsonl", [(TEXTS[1].upper(), "24"), (reworded, "28"), ("Compute $1+1$.", "2")]),
    }


def task(source: str) -> TaskConfig:
    return TaskConfig(name="math", train=ProblemsConfig(source=source))


def problems(source: str, split: str = "test", name: str = "math") -> ProblemSet:
    return ProblemSet(TaskConfig(name=name), ProblemsConfig(source=source, split=split))


def test_counts_and_pairs(files) -> None:
    held = {"clean": problems(files["clean"]), "dirty": problems(files["dirty"])}
    report = contamination(task(files["train"]), held)
    clean, dirty = report["sets"]["clean"], report["sets"]["dirty"]
    assert (clean["checked"], clean["affected"], clean["problems"]) == (True, 0, 1)
    assert (dirty["exact"], dirty["near"], dirty["affected"], dirty["problems"]) == (1, 1, 2, 3)
    assert [(p["train"], p["problem"], p["kind"]) for p in dirty["pairs"]] == [
        ("train-1", "dirty-0", "exact"),
        ("train-0", "dirty-1", "near"),
    ]
    (line,) = warnings(report)
    assert "dirty: 2 of 3 problems" in line
    assert "1 exact, 1 reworded: dirty-0 = train-1, dirty-1 = train-0" in line
    assert f"scrpo overlap {files['train']} {files['dirty']}" in line


def test_a_problem_that_is_there_twice_is_affected_once(tmp_path, files) -> None:
    twice = write(tmp_path / "twice.jsonl", [(TEXTS[1], "24"), (TEXTS[1], "24")])
    row = contamination(task(twice), {"dirty": problems(files["dirty"])})["sets"]["dirty"]
    assert (row["exact"], row["affected"]) == (2, 1)


def test_what_cannot_be_read_is_said_in_one_line(files, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", "/nowhere")
    held = {name: problems(name) for name in ("gsm8k", "aime24")}
    report = contamination(task(files["train"]), held)
    assert [row["checked"] for row in report["sets"].values()] == [False, False]
    (line,) = warnings(report)
    assert line.endswith("no data: gsm8k, aime24")
    missing = contamination(task("gone.jsonl"), {"dirty": problems(files["dirty"])})
    assert "no data" in missing["sets"]["dirty"]["reason"]


def test_generated_problems_are_not_read_at_all(files, monkeypatch) -> None:
    monkeypatch.setattr(held_out, "make_task", None)
    recipe = Recipe(task=TaskConfig(validation=ProblemsConfig(source="tiny", split="validation")))
    report = check_held_out(recipe, recipe.task, held_out.held_out(recipe))
    assert report["sets"]["task.validation"] == {
        "checked": False,
        "reason": "generated problems: the splits are disjoint by construction",
    }
    assert warnings(report) == []


def test_the_same_set_twice_is_read_once(files, monkeypatch) -> None:
    read: list[str] = []
    original = ProblemSet.corpus
    monkeypatch.setattr(ProblemSet, "corpus", lambda self: read.append(self.cfg.source) or original(self))
    held = {name: problems(files["dirty"]) for name in ("a", "b")}
    report = contamination(task(files["train"]), held)
    assert report["sets"]["a"] == report["sets"]["b"]
    assert len(read) == 2


@pytest.mark.parametrize("how", ["warn", "refuse", "off"])
def test_the_switch(files, how) -> None:
    recipe = Recipe(
        task=TaskConfig(
            name="math", train=ProblemsConfig(source=files["train"]), test=ProblemsConfig(source=files["dirty"])
        ),
        eval=EvalConfig(contamination=how),
    )
    held = held_out.held_out(recipe)
    assert [*held] == ["task.test"]
    if how == "refuse":
        with pytest.raises(UserError, match="2 of 3") as error:
            check_held_out(recipe, recipe.task, held)
        assert error.value.where == "eval.contamination: refuse"
    else:
        assert bool(check_held_out(recipe, recipe.task, held)) is (how == "warn")


def test_a_clean_set_is_not_refused(files) -> None:
    recipe = Recipe(task=task(files["train"]), eval=EvalConfig(contamination="refuse"))
    assert check_held_out(recipe, recipe.task, {"clean": problems(files["clean"])})["sets"]["clean"]["affected"] == 0


def test_benchmarks_of_the_recipe_are_held_out_too() -> None:
    recipe = Recipe(eval=EvalConfig(benchmarks=["tiny", "gsm8k"]))
    assert [*held_out.held_out(recipe)] == ["tiny", "gsm8k"]
