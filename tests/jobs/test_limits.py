"""What does not fit the memory, and settings with which it does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from scrpo_cli.jobs import limits
from scrpo_cli.jobs.budget import model_sizes
from scrpo_cli.jobs.extrapolate import Measured
from scrpo_cli.jobs.limits import memory_settings, memory_warning, over_memory, warning_before
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe

MIB = 2**20


def recipe(*sets: str) -> Recipe:
    return load_recipe("tiny", ["model.dtype=float32", *sets])


@pytest.mark.parametrize(
    ("sets", "free", "keys"),
    [
        (["optim.tokens_per_microbatch=1024"], 100, {"rollout.batch_size"}),
        (["optim.tokens_per_microbatch=8192", "rollout.batch_size=8"], 100, {"optim.tokens_per_microbatch"}),
        (["optim.tokens_per_microbatch=8192"], 100, {"rollout.batch_size", "optim.tokens_per_microbatch"}),
        (
            ["optim.logits_chunk=32768", "optim.tokens_per_microbatch=32768", "rollout.batch_size=2"],
            150,
            {"optim.logits_chunk", "optim.tokens_per_microbatch"},
        ),
        (["rollout.batch_size=2"], 24, {"optim.tokens_per_microbatch", "model.gradient_checkpointing"}),
    ],
)
def test_with_the_settings_that_are_named_the_estimate_fits(sets: list[str], free: int, keys: set[str]) -> None:
    before = model_sizes(recipe(*sets))
    assert before.peak > free * MIB
    settings = memory_settings(recipe(*sets), before, free * MIB)
    assert keys <= {setting.split("=")[0] for setting in settings} <= {*keys, "optim.logits_chunk"}
    assert model_sizes(recipe(*sets, *settings)).peak <= free * MIB


def test_weights_that_do_not_fit_need_another_number_format_or_model() -> None:
    sizes = model_sizes(recipe())
    assert memory_settings(recipe(), sizes, 1 * MIB)[0] == "model.dtype=bfloat16"
    assert memory_settings(recipe(), replace(sizes, dtype="bfloat16"), 1 * MIB) == ["model.name=(a smaller model)"]


def test_what_fits_is_not_spoken_of() -> None:
    sizes = model_sizes(recipe())
    assert memory_warning(recipe(), sizes, sizes.peak + 1) == ""


def test_the_warning_before_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_memory", lambda device: 100 * MIB)
    said = warning_before(recipe())
    assert said.startswith("Over the memory there is: this recipe needs about 4")
    assert "100.0 MiB are free on cpu" in said
    assert "--set rollout.batch_size=" in said
    assert warning_before(recipe("model.name=/nowhere")) == ""


def after(**changes: object) -> Measured:
    plain = {"batch_size": 128, "microbatch_tokens": 2048, "memory": 1000, "peaks": {"sampling": 500, "update": 600}}
    return SimpleNamespace(**plain | changes)  # type: ignore[return-value]


def test_what_the_measurement_had_to_make_smaller_is_named() -> None:
    assert over_memory(recipe(), after()) == []
    (said,) = over_memory(recipe(), after(batch_size=32, microbatch_tokens=1024))
    assert "--set rollout.batch_size=32 and --set optim.tokens_per_microbatch=1024" in said


@pytest.mark.parametrize(
    ("peaks", "setting"),
    [
        ({"sampling": 950, "update": 10}, "rollout.batch_size=64"),
        ({"sampling": 10, "update": 950}, "optim.tokens_per_microbatch=1024"),
    ],
)
def test_a_peak_near_all_memory_is_said(peaks: dict[str, int], setting: str) -> None:
    (said,) = over_memory(recipe(), after(peaks=peaks))
    assert said == f"Nearly all memory: 950 B of 1000 B in {next(n for n, p in peaks.items() if p == 950)}." + (
        f" What would change it: --set {setting}."
    )
