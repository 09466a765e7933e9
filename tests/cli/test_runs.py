"""`scrpo runs` through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, record_evaluation, record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe

SCORES = {
    "n": 100,
    "samples": 4,
    "avg": 0.42,
    "ci95": [0.38, 0.46],
    "repair_rate": {"value": 0.25, "ci95": [0.2, 0.3]},
}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A run of a sweep that was trained for two steps and evaluated, with its files, and a newer one that failed."""
    path, directory = tmp_path / "runs.db", tmp_path / "runs" / "run-a"
    for step in (5, 10):
        (directory / "checkpoints" / f"step-{step:06}").mkdir(parents=True)
        (directory / "checkpoints" / f"step-{step:06}" / "adapter_config.json").write_text("{}")
    (directory / "metrics.jsonl").write_text("")
    with Database.open(str(path)) as database:
        recipe = Recipe(name="mine", seed=3)
        given = {"command": "train", "recipe": recipe, "model": "tiny"}
        start_run(database, directory=str(directory), run_id="run-a", sweep="s1", arm="n=5", **given)
        for step in (1, 2):
            record_step(database, "run-a", StepRecord(step, "first", [], metrics={"reward": step / 8}))
        record_evaluation(database, "run-a", 2, "tiny", SCORES, [])
        finish_run(database, "run-a", "done", {"generated_tokens": 1234})
        start_run(database, directory=str(tmp_path / "gone"), run_id="run-b", **given)
        finish_run(database, "run-b", "failed", {})
    return path


def test_ls(scrpo, db: Path) -> None:
    runs = scrpo("runs", "ls", "--db", db, "--json").json["runs"]
    assert [run["id"] for run in runs] == ["run-b", "run-a"]
    assert (runs[1]["status"], runs[1]["summary"], runs[1]["arm"]) == ("done", {"generated_tokens": 1234}, "n=5")
    assert [run["id"] for run in scrpo("runs", "ls", "--status", "failed", "--db", db, "--json").json["runs"]] == [
        "run-b"
    ]
    assert [run["id"] for run in scrpo("runs", "ls", "--sweep", "s1", "--db", db, "--json").json["runs"]] == ["run-a"]
    shown = scrpo("runs", "ls", "--limit", 1, "--db", db).out
    assert "run-b" in shown
    assert "run-a" not in shown


def test_show(scrpo, db: Path, tmp_path: Path) -> None:
    found = scrpo("runs", "show", "run-a", "--db", db, "--json").json
    assert (found["status"], found["seed"], found["recipe_name"], found["steps"]) == ("done", 3, "mine", 2)
    assert found["recipe"]["name"] == "mine"
    assert found["last_step"] == {"step": 2, "phase": "first", "metrics": {"reward": 0.25}}
    assert found["evaluations"] == [{"step": 2, "benchmark": "tiny", "label": "", "metrics": SCORES}]
    assert found["files"]["adapter"].endswith("checkpoints/step-000010")
    shown = scrpo("runs", "show", "run-a", "--db", db).out
    for part in ("42.0% [38.0, 46.0]", "25.0% [20.0, 30.0]", "metrics.jsonl", "step-000010", "n=5", "1234", "mine"):
        assert part in shown


def test_show_last(scrpo, db: Path) -> None:
    found = scrpo("runs", "show", "last", "--db", db, "--json").json
    assert (found["id"], found["steps"], found["last_step"], found["files"]) == ("run-b", 0, None, {})
    assert "failed" in scrpo("runs", "show", "last", "--db", db).out


def test_show_what_is_not_there(scrpo, db: Path, tmp_path: Path) -> None:
    missing = scrpo("runs", "show", "run-c", "--db", db)
    assert missing.code == 2
    assert "There is no run 'run-c'" in missing.err
    several = scrpo("runs", "show", "run", "--db", db)
    assert several.code == 2
    assert "run-a" in several.err
    assert scrpo("runs", "ls", "--db", tmp_path / "typo.db").code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "x", "--format", "parket"), "Did you mean 'parquet'?"),
        (("-o", "x", "--format", "inspect", "--all"), "--all has no effect"),
        (("-o", "-", "--format", "parquet"), "writes a directory"),
        (("-o", "-", "--format", "inspect"), "writes a directory"),
        (("-o", "x", "--format", "parquet"), "has no answers to a benchmark"),
    ],
)
def test_what_cannot_be_exported(scrpo, db: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    refused = scrpo("runs", "export", "run-a", *options, "--db", db)
    assert (refused.code, said in refused.err, len(refused.err.splitlines())) == (2, True, 3), refused.err
    assert not (tmp_path / "x").exists()


def test_the_adapter_of_a_run_that_has_none_whole(scrpo, db: Path, tmp_path: Path) -> None:
    refused = scrpo("export", "run-a", "-o", "x", "--db", db, "--quiet")
    assert refused.code == 2
    assert "run run-a" in refused.err.lower()
    assert not (tmp_path / "x").exists()
