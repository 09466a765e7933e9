"""Repairing programs from the command line: wrong programs into the pool, reflection, two turns, training by recipe.

The engine is a fake that knows some answers; the tests, the sandbox, the database and the command line are real.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_rows import execute

from scrpo_cli.rollout import engines
from scrpo_cli.rollout.base import RowKey
from scrpo_cli.rollout.fake import FakeEngine

NAMES = ("one", "two", "three")


def row(number: int, name: str, **fields: Any) -> dict[str, Any]:
    hidden = f"assert add_{name}(41) == {41 + number}"
    own = {"id": name, "prompt": f"Add {name}.", "entry_point": f"add_{name}", "tests": [hidden]}
    return own | {"buggy": program(name, f"x - {number}"), "solution": program(name, f"x + {number}")} | fields


def program(name: str, value: str) -> str:
    return f"def add_{name}(x):\n    return {value}\n"


ROWS = [row(number, name) for number, name in enumerate(NAMES, 1)]


@pytest.fixture
def bugs(tmp_path: Path) -> Path:
    path = tmp_path / "bugs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def recipe(tmp_path: Path, model_dir: Path, bugs: Path) -> Path:
    """The shipped SCoRe recipe for programs, on the problems and the model of this test."""
    problems = {"source": str(bugs), "split": "train"}
    task = {"train": problems, "validation": None, "test": problems, "shots": None}
    document = {
        "extends": "score-mbpp",
        "model": {"name": str(model_dir), "revision": None, "gradient_checkpointing": False},
        "task": task,
        "rollout": {"max_tokens": 200, "group_size": 2},
        "optim": {"prompts_per_step": 3, "steps": 2, "warmup_steps": 0},
        "eval": {"every": None, "benchmarks": [], "max_tokens": 200},
        "tracking": {"wandb": {"mode": "off"}},
    }
    path = tmp_path / "code.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, RowKey], str]], list[str]]:
    """Have the fake answer; what it was asked is the list that comes back."""

    def use(answer: Callable[[str, RowKey], str]) -> list[str]:
        asked: list[str] = []

        def heard(prompt: str, key: RowKey) -> str:
            asked.append(prompt)
            return answer(prompt, key)

        monkeypatch.setattr(engines, "TransformersEngine", lambda policy, _: FakeEngine(policy.tokenizer, heard))
        return asked

    return use


def fixed(name: str) -> str:
    return f"```python\n{program(name, f'x + {NAMES.index(name) + 1}')}```"


def name_in(prompt: str) -> str:
    return next(name for name in NAMES if f"Add {name}." in prompt)


def test_wrong_external_programs_are_pooled_reflected_on_and_repaired(
    scrpo: Callable, recipe: Path, bugs: Path, tmp_path: Path, answers: Callable
) -> None:
    """MBPP-R: offline repair of given wrong programs (SCoRe, section 6)."""
    collected = scrpo("collect", "--recipe", recipe, "--from-jsonl", bugs, "--map", "response=buggy", "--json")
    assert collected.code == 0, collected.err
    assert (collected.json["verdicts"], collected.json["kept"]) == ({"wrong": 3}, 3)

    def repair(prompt: str, key: RowKey) -> str:
        name = name_in(prompt)
        if name == "three":
            return "Analysis: it subtracts.\n" + fixed(name)  # without the heading nothing counts as corrected
        old = f"Analysis: it subtracts.\n```python\n{program(name, 'x')}```\nCorrected Solution:\n"
        return old + (fixed(name) if name == "one" else f"```python\n{program(name, 'x')}```")

    asked = answers(repair)
    corrected = scrpo("correct", "--recipe", recipe, "--samples", 2, "--json")
    assert corrected.code == 0, corrected.err
    assert (corrected.json["errors"], corrected.json["corrections"]) == (3, 6)
    assert corrected.json["repair_rate"]["value"] == pytest.approx(1 / 3)
    prompt = next(prompt for prompt in asked if "Add one." in prompt)
    assert "def add_one(x):\n    return x - 1" in prompt  # the wrong program, as the earlier answer
    assert "it does not pass the tests" in prompt
    assert not any("assert add_" in prompt for prompt in asked)  # the tests stay hidden
    found = execute(
        tmp_path, "SELECT verdict, extracted FROM attempt WHERE phase = 'correct' AND sample = 0 ORDER BY id"
    )
    assert found == [("correct", program("one", "x + 1")), ("wrong", program("two", "x")), ("unparsable", None)]


def test_debugging_takes_the_two_turns_of_training(
    scrpo: Callable, recipe: Path, tmp_path: Path, answers: Callable
) -> None:
    """SCoRe trains on problems that show a buggy program: first answers, second answers, credit, an adapter."""

    def answer(prompt: str, key: RowKey) -> str:
        name, again = name_in(prompt), "There might be an error in the code above" in prompt
        return fixed(name) if again or (name == "one" and key.index % 2) else f"```python\n{program(name, 'x')}```"

    asked = answers(answer)
    trained = scrpo("train", "--recipe", recipe, "--json")
    assert trained.code == 0, trained.err
    assert (trained.json["status"], trained.json["steps"]) == ("done", 2)
    assert (Path(trained.json["adapter"]) / "adapter_model.safetensors").is_file()
    assert all("has a bug. Write the whole function" in prompt for prompt in asked)
    turns = execute(
        tmp_path, "SELECT turn, verdict, count(*) FROM attempt WHERE phase NOT LIKE 'eval%' GROUP BY turn, verdict"
    )
    verdicts = {(turn, verdict): count for turn, verdict, count in turns}
    assert verdicts.keys() <= {(1, "correct"), (1, "wrong"), (2, "correct")}
    assert verdicts[2, "correct"] == 12  # 2 steps of 3 problems with 2 samples
    assert verdicts[1, "wrong"] > 0
    graders = execute(tmp_path, "SELECT DISTINCT grader FROM attempt")
    assert [g.split(" ")[0] for (g,) in graders] == ["code/2"]


def test_the_shipped_recipe_trains_a_real_model(scrpo: Callable, recipe: Path, bugs: Path, tmp_path: Path) -> None:
    """Untrained, it writes no program: every answer is unparsable, and the run ends all the same."""
    shots = f"task.shots={{source: {bugs}, limit: 1}}"
    small = ["--set", "rollout.max_tokens=24", "--set", "eval.max_tokens=24", "--set", shots]
    trained = scrpo("train", "--recipe", recipe, "--json", *small)
    assert trained.code == 0, trained.err
    assert trained.json["steps"] == 2
    assert execute(tmp_path, "SELECT DISTINCT verdict FROM attempt") == [("unparsable",)]


def test_a_dry_run_tells_the_budget_of_a_recipe_for_programs(scrpo: Callable, recipe: Path) -> None:
    outcome = scrpo("train", "--recipe", recipe, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["recipe"]["task"]["name"] == "code"


def test_debugging_is_evaluated_in_two_turns(
    scrpo: Callable, recipe: Path, bugs: Path, tmp_path: Path, answers: Callable
) -> None:
    """A benchmark of one's own: a file of buggy programs. The second turn mends one and breaks another."""

    def answer(prompt: str, key: RowKey) -> str:
        name, again = name_in(prompt), "There might be an error in the code above" in prompt
        right = {"one": again, "two": not again, "three": False}[name]
        return fixed(name) if right else f"```python\n{program(name, 'x')}```"

    asked = answers(answer)
    outcome = scrpo("eval", "--recipe", recipe, "--benchmarks", bugs, "--turns", 2, "--json")
    assert outcome.code == 0, outcome.err
    (found,) = outcome.json["benchmarks"].values()
    assert found["n"] == 3
    assert [found[key]["value"] for key in ("t1", "t2", "i2c", "c2i")] == pytest.approx([1 / 3] * 4)
    assert found["fix_rate"]["value"] == 0.5
    assert len(asked) == 6
    assert not any("assert add_" in prompt for prompt in asked)
