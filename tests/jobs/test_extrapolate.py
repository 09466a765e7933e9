"""The forecast's arithmetic, by hand and with injected timings: no clock and no model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scrpo_cli.jobs.budget import DAY, Budget, duration, estimate
from scrpo_cli.jobs.extrapolate import Long, Measured, Part, totals
from scrpo_cli.jobs.forecast import forecast
from scrpo_cli.jobs.limits import rounded
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe

SMALL = [  # 16 x 8 answers a step, of up to 100 tokens; 10 problems are evaluated, before and after
    "model.name=/nowhere",
    "optim.steps=100",
    "optim.max_generated_tokens=",
    "rollout.max_tokens=100",
    "checkpoint.every=10",
    "eval.limit=10",
    "eval.samples=2",
]
FIRST = Part(
    "first",
    whole=4,  # 32 of 128 answers
    rows=32,
    tokens=320,
    prompt_tokens=640,
    seconds={"sampling": 2.0, "grading": 0.5, "update": 1.0, "storing": 0.25},
    limit=100,
    live=24,
)
EVALUATION = Part(
    "task.test",
    whole=5,  # 2 of 10 problems
    rows=4,
    tokens=50,
    prompt_tokens=100,
    seconds={"sampling": 3.0, "measuring": 1.0},
    limit=100,
)
LONG = Long(rows=9, context=300, prefill=2.0, token=0.9, alone=0.1)
MEASURED = Measured(
    device="cpu",
    engine="transformers",
    start=5.0,
    long=LONG,
    phases=[FIRST],
    evaluation=EVALUATION,
    evaluation_long=LONG,
    update_token=0.01,
    sync=0.1,
    checkpoint=2.0,
    row_bytes=10.0,
    peaks={"sampling": 3 * 2**30, "update": 2**30},
    memory=8 * 2**30,
    batch_size=128,
    microbatch_tokens=2048,
)


def recipe(*sets: str, name: str = "tiny-grpo") -> Recipe:
    return load_recipe(name, [*SMALL, *sets])


def budget(cfg: Recipe) -> Budget:
    return estimate(cfg)


def test_a_run_by_hand() -> None:
    cfg = recipe()
    fastest, slowest, _ = totals(cfg, budget(cfg), MEASURED)
    assert fastest == slowest  # one kind of steps
    assert slowest.seconds == pytest.approx(
        {
            "start": 5,
            "sampling, steps 'first'": 100 * 4 * 2.0,
            "grading": 100 * 4 * 0.5,
            "update, steps 'first'": 100 * 4 * 1.0,
            "storing": 100 * 4 * 0.25,
            "sync": 100 * 0.1,
            "checkpoints": 10 * 2,
            "evaluation": 2 * 5 * 4.0,
        }
    )
    assert slowest.all_seconds == pytest.approx(1575)
    assert slowest.dominant == ("sampling, steps 'first'", pytest.approx(800 / 1575))
    assert (slowest.steps, slowest.generated_tokens) == (100, 100 * 128 * 10)
    assert slowest.database == 10 * (100 * 4 * (640 + 320) + 2 * 5 * (100 + 50))


def test_the_budget_of_tokens_ends_the_run_inside_a_step() -> None:
    cfg = recipe("optim.max_generated_tokens=14080")  # 11 steps of 1,280 tokens
    _, run, _ = totals(cfg, budget(cfg), MEASURED)
    assert (run.steps, run.generated_tokens) == (11, 14_080)
    half = recipe("optim.max_generated_tokens=13440")  # the last step is cut to half of its problems
    _, run, _ = totals(half, budget(half), MEASURED)
    assert (run.steps, run.generated_tokens) == (11, 13_440)
    assert run.seconds["sampling, steps 'first'"] == pytest.approx(10.5 * 8)


def test_answers_that_the_measurement_cut_off_count_at_their_cap() -> None:
    cfg, cut = recipe(), replace(FIRST, limit=20, cut=8)
    _, run, _ = totals(cfg, budget(cfg), replace(MEASURED, phases=[cut]))
    length = (320 + 8 * 80) / 32
    assert cut.length(100) == length == 30
    assert run.generated_tokens == 100 * 128 * length
    eight = 0.1 + 0.8 * 7 / 8  # seconds of a token for 8 rows, between one row and nine
    assert run.seconds["sampling, steps 'first'"] == pytest.approx(100 * 4 * (2 + 80 * eight))
    assert run.seconds["update, steps 'first'"] == pytest.approx(100 * 4 * 3.0)  # three times the tokens


def test_at_the_cap_every_answer_is_as_long_as_it_may_be() -> None:
    cfg = recipe()
    _, slowest, at_cap = totals(cfg, budget(cfg), MEASURED)
    call = 2.0 + 100 * 0.9
    assert at_cap.seconds["sampling, steps 'first'"] == pytest.approx(100 * 128 / 9 * call)
    assert at_cap.seconds["update, steps 'first'"] == pytest.approx(100 * 128 * 100 * 0.01)
    assert at_cap.seconds["evaluation"] == pytest.approx(2 * 5 * (4 / 9 * call + 1.0))
    assert at_cap.all_seconds > slowest.all_seconds


def test_evaluations_in_between_are_counted() -> None:
    cfg = recipe("eval.every=30", "task.validation.limit=5")
    work = budget(cfg).evaluation
    assert work is not None
    assert (work.times, work.problems) == ({"test": 2, "validation": 3}, {"test": 10, "validation": 5})
    _, run, _ = totals(cfg, budget(cfg), MEASURED)
    assert run.seconds["evaluation"] == pytest.approx((2 * 10 + 3 * 5) / 10 * 5 * 4.0)
    by_tokens = recipe("eval.every_tokens=50000")  # of 128,000
    _, run, _ = totals(by_tokens, budget(by_tokens), MEASURED)
    assert run.seconds["evaluation"] == pytest.approx((2 + 2) * 5 * 4.0)


REFLECT = replace(FIRST, name="reflect", seconds={"sampling": 6.0, "grading": 0.5, "update": 3.0, "storing": 0.25})


def test_the_share_of_reflections_is_the_recipes_where_it_says_so() -> None:
    cfg = recipe("method.reflect_every=4", name="tiny")
    fastest, slowest, _ = totals(cfg, budget(cfg), replace(MEASURED, phases=[FIRST, REFLECT]))
    assert fastest == slowest
    assert slowest.mix == {"first": pytest.approx(0.8), "reflect": pytest.approx(0.2)}
    assert slowest.seconds["sampling, steps 'first'"] == pytest.approx(80 * 8)
    assert slowest.seconds["sampling, steps 'reflect'"] == pytest.approx(20 * 24)
    assert slowest.seconds["grading"] == pytest.approx(100 * 2)


def test_where_what_is_sampled_decides_both_ends_are_said() -> None:
    cfg = recipe("method.reflect_every=null", name="tiny")
    found = forecast(cfg, budget(cfg), replace(MEASURED, phases=[FIRST, REFLECT]))
    assert (found.fastest.mix, found.slowest.mix) == ({"first": 1.0}, {"reflect": 1.0})
    assert found.slowest.all_seconds - found.fastest.all_seconds == pytest.approx(100 * 4 * 6.0)
    assert any("depends on what is sampled" in note for note in found.notes)


@pytest.mark.parametrize(
    ("sets", "shares"),
    [
        (["method.reflect_every=never"], {"first": 1.0}),
        (["method.reflect_every=5", "method.stage2.steps_per_trigger=3"], {"first": 5 / 8, "reflect": 3 / 8}),
        (["method.reflect_every=5", "method.stage2.step=joint"], {"first": 4 / 5, "joint": 1 / 5}),
        (["method.reflect_every=null", "method.trigger.mode=ratio"], {"first": 3 / 4, "reflect": 1 / 4}),
        (["method.reflect_every=5", "method.stage2.steps_per_trigger=drain"], {}),
        (["method.reflect_every=null"], {}),
    ],
)
def test_schedules_of_scrpo(sets: list[str], shares: dict[str, float]) -> None:
    method = (cfg := recipe(*sets, name="tiny")).method
    assert method.schedule(method.needs(cfg.setting())) == pytest.approx(shares)


def test_what_was_collected_is_fitted_afterwards() -> None:
    cfg = load_recipe(
        "compare/star", [*SMALL, "optim.max_generated_tokens=12800", "method.batch=64", "method.epochs=2"]
    )
    collected = replace(FIRST, name="collect", seconds={"sampling": 2.0, "grading": 0.5})
    fit = Part("fit", whole=2, rows=32, tokens=0, prompt_tokens=0, seconds={"update": 1.5}, limit=0, live=32)
    _, run, _ = totals(cfg, budget(cfg), replace(MEASURED, phases=[collected, fit]))
    assert run.seconds["sampling, steps 'collect'"] == pytest.approx(10 * 8)
    fits = 2 * 10 * 128 / 64  # every answer, twice, 64 at a time
    assert run.seconds["update, steps 'fit'"] == pytest.approx(fits * 2 * 1.5)
    assert (run.steps, run.generated_tokens) == (10 + fits, 12_800)


def slower(factor: float, **changes: float) -> Measured:
    """Steps that take `factor` times as long."""
    first = replace(FIRST, seconds={name: factor * taken for name, taken in FIRST.seconds.items()})
    return replace(MEASURED, phases=[first], **changes)


def test_a_run_of_at_most_a_day_is_not_spoken_of() -> None:
    cfg = recipe()
    assert not any("Over" in note for note in forecast(cfg, budget(cfg), MEASURED).notes)


@pytest.mark.parametrize("key", ["optim.steps", "optim.max_generated_tokens"])
def test_over_a_day_is_said_with_settings_that_make_a_day_of_it(key: str) -> None:
    cfg, long = recipe(), slower(500)
    said = forecast(cfg, budget(cfg), long).notes[-1]
    assert said.startswith("Over a day: about 8.7 days, 53% of it sampling, steps 'first'.")
    setting = next(word for word in said.split() if word.startswith(f"{key}=")).rstrip(".")
    changed = recipe(setting)
    _, run, _ = totals(changed, budget(changed), long)
    assert 0.8 * DAY < run.all_seconds <= DAY


def test_evaluations_of_more_than_a_day_are_made_shorter() -> None:
    cfg, slow = recipe(), replace(EVALUATION, seconds={"sampling": 20_000.0})
    said = forecast(cfg, budget(cfg), replace(MEASURED, evaluation=slow)).notes[-1]
    assert "100% of it evaluation" in said or "99% of it evaluation" in said
    assert "--set eval.limit=2" in said  # of 10: half a day of 2.3
    assert "--set eval.max_tokens=50" in said
    assert "optim.steps" not in said


def test_sampling_of_long_answers_names_engine_and_cap() -> None:
    cfg = recipe()
    long = replace(slower(500), device="cuda")
    assert "rollout.engine=vllm" in forecast(cfg, budget(cfg), long).notes[-1]
    assert "rollout.max_tokens" not in forecast(cfg, budget(cfg), long).notes[-1]  # 10 of 100 tokens
    part = replace(long.phases[0], tokens=32 * 80)
    assert "rollout.max_tokens=50" in forecast(cfg, budget(cfg), replace(long, phases=[part])).notes[-1]


def test_plain_data_has_the_same_numbers() -> None:
    cfg = recipe()
    found = forecast(cfg, budget(cfg), MEASURED)
    data = found.as_dict()
    assert data["slowest"]["hours"] == pytest.approx(1575 / 3600)
    assert data["slowest"]["dominant"] == "sampling, steps 'first'"
    assert data["peak"] == 3 * 2**30
    assert data["measured"]["long"]["token"] == 0.9


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (119, "119 s"), (150, "2.5 min"), (7200, "2.0 h"), (19 * DAY, "19 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "down"), [(0.3, 1), (9.9, 9), (47, 47), (1299, 1200), (332_767, 330_000)])
def test_two_digits(value: float, down: int) -> None:
    assert rounded(value) == down
