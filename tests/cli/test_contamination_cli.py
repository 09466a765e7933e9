"""Contamination through the real command line: warned before training and eval, listed by `scrpo overlap`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from processes import small

TEXTS = {
    "apples": ("A shop sells 3 kinds of apples at 4 dollars a bag. How many dollars do 7 bags cost?", "28"),
    "divisors": ("Find the number of positive divisors of $360$.", "24"),
    "squares": ("Let $x+y=10$ and $xy=21$. Compute $x^2+y^2$.", "58"),
    "table": ("How many ways are there to seat six people around a round table?", "120"),
    "sum": ("Compute $17+5$.", "22"),
}


def write(path: Path, *names: str) -> None:
    rows = [{"id": f"{path.stem}-{name}", "problem": TEXTS[name][0], "answer": TEXTS[name][1]} for name in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def sets(tmp_path) -> list[str]:
    """--set options of a recipe whose test set shares two problems with its training set."""
    write(tmp_path / "train.jsonl", "apples", "divisors", "squares", "table")
    write(tmp_path / "held.jsonl", "sum", "divisors", "table")
    named = {"task__name": "math", "task__train": "{source: train.jsonl}", "task__test": "{source: held.jsonl}"}
    sizes = {"optim__steps": 1, "optim__prompts_per_step": 2, "rollout__group_size": 2, "rollout__max_tokens": 4}
    return small(**named, task__validation="null", eval__limit=2, **sizes)


def test_training_warns_and_notes_it(scrpo, sets, tmp_path) -> None:
    outcome = scrpo("train", "-r", "tiny-grpo", *sets, "--json")
    assert outcome.code == 0, outcome.err
    assert "Contamination: task.test: 2 of 3 problems are among the training problems" in outcome.err
    assert f"scrpo overlap {tmp_path / 'train.jsonl'} {tmp_path / 'held.jsonl'}" in outcome.err
    found = outcome.json["contamination"]["sets"]["task.test"]
    assert (found["exact"], found["near"], found["affected"]) == (2, 0, 2)
    shown = scrpo("runs", "show", "last", "--json").json
    assert shown["summary"]["contamination"]["sets"]["task.test"]["affected"] == 2


def test_refusing_comes_before_anything_is_trained(scrpo, sets, tmp_path) -> None:
    outcome = scrpo("train", "-r", "tiny-grpo", *sets, "--set", "eval.contamination=refuse")
    assert outcome.code == 2
    assert "2 of 3 problems" in outcome.err
    assert not list(tmp_path.glob(".scrpo/runs/*/metrics.jsonl"))


def test_a_dry_run_says_it(scrpo, sets) -> None:
    outcome = scrpo("train", "-r", "tiny-grpo", *sets, "--dry-run")
    assert outcome.code == 0
    assert "Contamination: task.test: 2 of 3" in outcome.out
    off = scrpo("train", "-r", "tiny-grpo", *sets, "--dry-run", "--set", "eval.contamination=off", "--json")
    assert off.json["contamination"] == {}


def test_missing_benchmarks_do_not_fail_a_dry_run(scrpo, sets, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", os.devnull)
    outcome = scrpo("train", "-r", "tiny-grpo", *sets, "--dry-run", "--set", "eval.benchmarks=[aime24, gsm8k]")
    assert outcome.code == 0, outcome.err
    assert "Not checked for contamination, as there is no data: aime24, gsm8k" in outcome.out


def test_overlap_lists_pairs(scrpo, sets) -> None:
    outcome = scrpo("overlap", "train.jsonl", "held.jsonl", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["counts"] == {"exact": 2, "near": 0, "variant": 0}
    assert {(p["first"], p["second"]) for p in outcome.json["pairs"]} == {
        ("train-divisors", "held-divisors"),
        ("train-table", "held-table"),
    }
    shown = scrpo("overlap", "train.jsonl", "held.jsonl")
    assert "train-divisors  held-divisors" in shown.out
    assert "2 exact, 0 near, 0 variant" in shown.out
    assert TEXTS["table"][0] in scrpo("overlap", "train.jsonl", "held.jsonl", "--texts").out


def test_overlap_of_one_set_lists_its_repeats(scrpo, tmp_path) -> None:
    rows = [{"id": str(i), "problem": TEXTS[n][0], "answer": "1"} for i, n in enumerate(("sum", "table", "sum"))]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = scrpo("overlap", "set.jsonl", "--json")
    assert [(p["first"], p["second"], p["kind"]) for p in outcome.json["pairs"]] == [("0", "2", "exact")]


def test_overlap_takes_benchmarks_and_splits(scrpo, data_dir, monkeypatch) -> None:
    monkeypatch.setenv("SCRPO_DATA_DIR", str(data_dir))
    outcome = scrpo("overlap", "humaneval", "quixbugs", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["sets"] == {"humaneval (test)": 164, "quixbugs (test)": 40}
    assert scrpo("overlap", "mbpp:train", "mbpp:test", "--json").json["counts"]["exact"] == 0


def test_overlap_of_what_is_not_there_is_exit_code_2(scrpo) -> None:
    outcome = scrpo("overlap", "nowhere:train", "gone.jsonl")
    assert outcome.code == 2
    assert "no data for 'nowhere'" in outcome.err


def test_an_evaluation_is_held_against_what_its_adapter_was_trained_on(scrpo, sets, tmp_path) -> None:
    write(tmp_path / "bench.jsonl", "apples", "sum")
    trained = scrpo("train", "-r", "tiny-grpo", *sets, "--set", "eval.contamination=off", "--json")
    assert trained.code == 0, trained.err
    assert trained.json["contamination"] == {}
    asked = ("--benchmarks", "bench.jsonl", "--set", "eval.max_tokens=4", "--samples", 1, "--json")
    known = [("--run", "last"), ("--adapter", trained.json["adapter"], "--set", "task.name=math")]
    for by in known:
        outcome = scrpo("eval", *by, *asked, "--set", "eval.contamination=warn")
        assert outcome.code == 0, outcome.err
        assert "Contamination: bench.jsonl: 1 of 2 problems are among the training problems" in outcome.err
        assert outcome.json["contamination"]["sets"]["bench.jsonl"]["exact"] == 1
    own = scrpo("eval", "--set", "task.name=math", *asked)  # a model that nobody trained here, a recipe on tiny
    assert own.code == 0, own.err
    assert own.json["contamination"]["sets"]["bench.jsonl"]["checked"] is False
    refused = scrpo("eval", "--run", "last", *asked, "--set", "eval.contamination=refuse")
    assert refused.code == 2
    assert "1 of 2 problems" in refused.err
