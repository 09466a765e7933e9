"""`--measure` on the command line: said in words and as JSON, and refused where it would do nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = (
    "task.train.limit=20",
    "task.validation.limit=2",
    "task.test.limit=2",
    "rollout.max_tokens=12",
    "rollout.group_size=2",
    "rollout.batch_size=4",
    "optim.prompts_per_step=2",
    "optim.steps=3",
    "eval.samples=1",
)


@pytest.fixture
def small(model_dir: Path) -> list[object]:
    return [arg for setting in (f"model.name={model_dir}", *SMALL) for arg in ("--set", setting)]


def test_a_dry_run_alone_is_arithmetic_and_says_so(scrpo: Callable, small: list[object]) -> None:
    text = scrpo("train", "--dry-run", *small).out
    assert "This is arithmetic" in text
    assert "generated tokens of evaluations, at most" in text
    assert "Measured here" not in text
    assert scrpo("train", "--dry-run", "--json", *small).json["measured"] is None


def test_a_measured_dry_run_says_hours_memory_and_database(scrpo: Callable, small: list[object]) -> None:
    outcome = scrpo("train", "--dry-run", "--measure", *small)
    assert outcome.code == 0
    assert "This is arithmetic" not in outcome.out
    for words in (
        "Measured here (transformers on cpu)",
        "most of it",
        "peak memory",
        "database",
        "answers were sampled",
    ):
        assert words in outcome.out
    assert not Path(".scrpo").exists()


def test_doctor_measures_after_its_checks(scrpo: Callable, small: list[object]) -> None:
    found = scrpo("doctor", "--measure", "--json", *small).json
    assert found["ok"]
    slowest = found["measured"]["slowest"]
    assert slowest["hours"] == pytest.approx(sum(slowest["seconds"].values()) / 3600)
    assert slowest["dominant"] in slowest["seconds"]
    assert slowest["generated_tokens"] > 0
    assert slowest["database"] > 0
    assert found["measured"]["peak"] > 0


def test_doctor_does_not_measure_what_has_failed(scrpo: Callable, small: list[object], tmp_path: Path) -> None:
    outcome = scrpo("doctor", "--measure", "--json", *small, "--set", f"model.name={tmp_path / 'gone'}")
    assert outcome.code == 1
    assert outcome.json["measured"] is None


def test_measuring_without_a_dry_run_is_refused(scrpo: Callable) -> None:
    outcome = scrpo("train", "--measure")
    assert outcome.code == 2
    assert "--measure has no effect without --dry-run" in outcome.err


def test_too_little_memory_is_said_before_training(
    scrpo: Callable, small: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scrpo_cli.jobs import limits

    monkeypatch.setattr(limits, "free_memory", lambda device: 700_000)
    outcome = scrpo("train", *small, "--set", "optim.steps=1")
    assert outcome.code == 0
    assert "Over the memory there is" in outcome.err
