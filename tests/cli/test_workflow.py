"""The main job from the command line, end to end: on the tiny world, and on real data."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from processes import small
from run_rows import DATABASE, execute

from scrpo_cli.assets import embedded_model_dir


def test_collect_correct_train_eval_and_look(scrpo_process, tmp_path) -> None:
    def scrpo(*args: object):
        outcome = scrpo_process(*args, "--json")
        assert outcome.code == 0, outcome.err
        return outcome.json

    collected = scrpo("collect", "--limit", 8, *small(method__filter__mode="none"))
    assert collected["attempts"] == sum(collected["verdicts"].values()) == 8 * 4
    assert collected["kept"] > 0  # the embedded model is wrong often enough

    stats = scrpo("pool", "stats", "--pool", "default")
    assert (stats["alive"], stats["attempts"]) == (collected["kept"], 32)

    corrected = scrpo("correct", "--limit", 3, "--samples", 2, *small())
    errors = min(3, collected["kept"])
    assert (corrected["errors"], corrected["corrections"]) == (errors, 2 * errors)
    stats = scrpo("pool", "stats", "--pool", "default")
    assert (stats["uses"], stats["entries_used"]) == (2 * errors, errors)

    trained = scrpo("train", "--reflect-every", 1, *small(optim__steps=2))
    assert (trained["status"], trained["steps"]) == ("done", 2)
    assert {"before", "after", "change"} <= trained["eval"].keys()
    assert (Path(trained["adapter"]) / "adapter_model.safetensors").is_file()
    lines = [json.loads(line) for line in Path(trained["metrics"]).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 2]

    evaluated = scrpo("eval", "--run", "last", "--turns", 2, "--limit", 3, "--samples", 2)["benchmarks"]["tiny"]
    assert (evaluated["n"], evaluated["samples"]) == (3, 2)
    low, high = evaluated["ci95"]
    assert 0 <= low <= evaluated["avg"] <= high <= 1
    assert {"t1", "t2", "delta", "i2c", "c2i", "fix_rate"} <= evaluated.keys()

    shown = scrpo("runs", "show", trained["run"])
    assert (shown["command"], shown["status"]) == ("train", "done")
    assert shown["recipe"]["method"]["reflect_every"] == 1
    commands = [row["command"] for row in scrpo("runs", "ls")["runs"]]
    assert commands == ["eval", "train", "correct", "collect"]

    exported = scrpo("pool", "export", "--pool", "default", "-o", "errors.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert len(rows) == exported["entries"] == collected["kept"]
    graded = scrpo("grade", "--task", "tiny", "--from-jsonl", "errors.jsonl")
    assert [row["verdict"] for row in graded["rows"]] == [row["verdict"] for row in rows]


def test_an_evaluation_against_an_earlier_one(scrpo_process) -> None:
    first = scrpo_process("eval", *small(), "--json")
    second = scrpo_process("eval", *small(), "--against", first.json["run"], "--json")
    assert second.code == 0, second.err
    assert second.json["against"]["tiny"]["difference"] == 0  # the same policy on common random numbers


def test_recipes_as_arms_and_another_seed_later(scrpo_process) -> None:
    sizes = small(eval__turns=2, eval__repair="false", optim__steps=1, optim__max_generated_tokens=100_000)
    started = scrpo_process("ablate", "--recipe", "tiny,tiny-grpo", "--seeds", 1, "--jobs", 2, *sizes, "--json")
    assert started.code == 0, started.err
    assert [arm["arm"] for arm in started.json["arms"]] == ["tiny", "tiny-grpo"]
    assert started.json["before"]["two_turn"].keys() == {"t1", "t2", "delta", "i2c", "c2i", "fix_rate"}
    assert all(arm["seconds"][0] > 0 and arm["steps"] == [1] for arm in started.json["arms"])
    assert "ran out of steps" in started.json["notes"][0]

    grown = scrpo_process("ablate", "--extend", "last", "--seeds", 2, "--jobs", 2, "--json")
    assert grown.code == 0, grown.err
    assert grown.json["sweep"] == started.json["sweep"]
    assert [arm["seeds"] for arm in grown.json["arms"]] == [[0, 1], [0, 1]]
    assert [arm["runs"][0] for arm in grown.json["arms"]] == [arm["runs"][0] for arm in started.json["arms"]]
    assert grown.json["arms"][1]["delta_difference"]["seeds"] == [0, 1]


@pytest.fixture(scope="module")
def solutions(data_dir: Path) -> Path:
    file = data_dir / "gsm8k/model_solutions.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return file


def test_real_model_solutions_are_graded_as_labelled_and_the_wrong_ones_pooled(scrpo, tmp_path, solutions) -> None:
    fields = "id=problem_id,response=model_solution"
    outcome = scrpo("collect", "-r", "scrpo-gsm8k", "--from-jsonl", solutions, "--map", fields, "--pool", "g", "--json")
    assert outcome.code == 0, outcome.err
    verdicts = {
        (problem, model): verdict
        for problem, model, verdict in execute(tmp_path, "SELECT problem_id, model, verdict FROM attempt")
    }
    assert len(verdicts) == outcome.json["attempts"] == 5276
    with gzip.open(solutions, "rt") as file:
        labels = {(row["problem_id"], row["model"]): row["is_correct"] for row in map(json.loads, file)}
    agree = sum((verdicts[key] == "correct") == label for key, label in labels.items())
    assert agree >= 0.999 * len(labels)

    wrong = execute(tmp_path, "SELECT id FROM attempt WHERE verdict <> 'correct' ORDER BY id")
    alive = "SELECT attempt_id FROM pool_entry WHERE pool = 'g' AND retired_step IS NULL ORDER BY attempt_id"
    assert execute(tmp_path, alive) == wrong
    assert len(wrong) == outcome.json["kept"]


def test_a_training_run_on_real_problems(scrpo_process, tmp_path, data_dir) -> None:
    """A model of characters that knows no words: its answers are nonsense, the path is real."""
    shutil.copytree(embedded_model_dir(), tmp_path / "model")
    config = {
        "model.name": tmp_path / "model",
        "model.device": "cpu",
        "task.max_prompt_tokens": 1100,
        "rollout.group_size": 2,
        "rollout.max_tokens": 16,
        "optim.prompts_per_step": 2,
        "optim.steps": 2,
        "eval.limit": 2,
        "eval.samples": 1,
        "eval.max_tokens": 16,
        "method.filter.mode": "none",
        "method.pool.include_truncated": "true",
        "tracking.wandb.mode": "off",
    }
    sets = [word for key, value in config.items() for word in ("--set", f"{key}={value}")]
    train = ("train", "-r", "scrpo-gsm8k", "--reflect-every", 1, "--json")
    outcome = scrpo_process(*train, *sets, environment={"SCRPO_DATA_DIR": str(data_dir)})
    assert outcome.code == 0, outcome.err
    assert outcome.json["steps"] == 2
    counts = dict(execute(tmp_path, "SELECT phase, count(*) FROM attempt WHERE phase NOT LIKE 'eval%' GROUP BY phase"))
    assert counts == {"first": 4, "reflect": 4}
    sources = execute(tmp_path, "SELECT DISTINCT source FROM problem JOIN attempt ON problem_id = problem.id")
    assert sources == [("gsm8k",)]
    assert (tmp_path / DATABASE).is_file()
