"""Every warning sign fires on a history that deserves it and is silent on one that does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from processes import small
from pydantic import ValidationError
from run_rows import execute, lines

from scrpo_cli.pool.queries import StepMetrics
from scrpo_cli.recipe.monitors import MonitorName, MonitorsConfig
from scrpo_cli.training.monitors import MONITORS, PAGE, watch

ROOT = Path(__file__).resolve().parents[2]
CFG = MonitorsConfig()
History = list[StepMetrics]


def history(phase: str = "first", **series: list[float | None]) -> History:
    """Steps of one phase; `turns__t1` stands for `turns/t1`, None for a step that did not measure it."""
    names = {key: key.replace("__", "/") for key in series}
    rows = zip(*series.values(), strict=True)
    return [
        StepMetrics(i, phase, {n: v for n, v in zip(names.values(), row, strict=True) if v is not None})
        for i, row in enumerate(rows, start=1)
    ]


def cycles(reflected: list[float], first: float = 100.0, seconds: float = 1.0) -> History:
    """A first-answer step of `first` tokens before each reflection step; reflections take `seconds` for the other."""
    steps = []
    for tokens in reflected:
        shared = {"rollout/tokens": first, "seconds/step": 1.0, "reflect/tokens_share": 0.0}
        steps.append(StepMetrics(len(steps) + 1, "first", shared))
        own = {"rollout/tokens": tokens, "reflect/tokens": tokens, "reflect/tokens_share": 1.0}
        steps.append(StepMetrics(len(steps) + 1, "reflect", own | {"seconds/step": seconds}))
    return steps


def turns(n: float, **shares: float) -> History:
    """Five steps with `n` wrong and `n` right first answers each."""
    same = {f"turns__{name}": [value] * 5 for name, value in shares.items()}
    return history("turns", turns__wrong=[n] * 5, turns__right=[n] * 5, **same)


def pool(size: float, repeated: float, stuck: float) -> History:
    return history(pool__size=[size] * 5, pool__repeated_share=[repeated] * 5, pool__stuck_share=[stuck] * 5)


def repairs(used: float | None, fresh: float | None, count: float = 8.0) -> History:
    shares: dict[str, list[float | None]] = {
        "reflect__fix_rate_used": [used] * 5,
        "reflect__fix_rate_fresh": [fresh] * 5,
    }
    return history("reflect", reflect__used=[count] * 5, reflect__fresh=[count] * 5, **shares)


def flat(name: str, value: float, phase: str = "first", steps: int = 5) -> History:
    return history(phase, **{name: [value] * steps})


FIRES: dict[str, tuple[MonitorName, History, str]] = {
    "answers again in the pool": ("repeated_mistakes", pool(30, 0.4, 0.0), "40.0% of the pool"),
    "errors that nothing mends": ("repeated_mistakes", pool(30, 0.1, 0.5), "50.0% of the pool"),
    "mostly reflection": ("reflection_bottleneck", cycles([300.0] * 3), "75.0% of the tokens"),
    "used errors are known by heart": ("pool_overfit", repairs(0.8, 0.5), "30.0 points"),
    "the same answer again": ("copying", turns(10, unchanged_wrong=0.95, edit_zero_wrong=0.2), "95.0%"),
    "the same letters again": ("copying", turns(10, unchanged_wrong=0.6, edit_zero_wrong=0.6), "60.0%"),
    "corrections repeat the error": (
        "copying",
        history(
            "reflect", reflect__wrong=[8] * 5, reflect__unchanged_wrong=[1.0] * 5, reflect__edit_zero_wrong=[0] * 5
        ),
        "100.0%",
    ),
    "sorry and no change": ("apology", turns(10, apology=0.5), "50.0%"),
    "right answers go wrong": ("breaking", turns(10, broken=0.3), "30.0% of the right answers"),
    "entropy falls": ("entropy_collapse", history(train__entropy=[0.5] * 5 + [0.1] * 5), "0.1 nats, early mean 0.5"),
    "entropy near zero from the start": (
        "entropy_collapse",
        flat("train__entropy", 0.001, steps=1),
        "0.001 nats, threshold 0.005",
    ),
    "corrections grow": (
        "reflection_length",
        history("reflect", reflect__length=[100] * 5 + [200, 250, 250, 250, 300]),
        "2.50 times",
    ),
    "all groups equal": ("no_signal", flat("groups__skipped_share", 0.9), "90.0% of the groups"),
    "cut off": ("truncation", flat("first__truncated", 0.25), "25.0% of the answers"),
    "corrections cut off": ("truncation", flat("reflect__truncated", 0.25, "reflect"), "25.0%"),
    "sampler and trainer disagree": ("drift", flat("train__drift", 0.2), "0.2 nats"),
}

SILENT: dict[str, tuple[MonitorName, History, bool]] = {  # whether there was something to judge
    "new errors in the pool": ("repeated_mistakes", pool(30, 0.1, 0.1), True),
    "too small a pool": ("repeated_mistakes", pool(3, 1.0, 1.0), False),
    "as much reflection as trial": ("reflection_bottleneck", cycles([100.0] * 3), True),
    "slow reflections, by default": ("reflection_bottleneck", cycles([100.0] * 3, seconds=50.0), True),
    "a first-answer step says nothing of reflection": ("reflection_bottleneck", cycles([900.0] * 3)[:-1], False),
    "used errors are harder": ("pool_overfit", repairs(0.3, 0.5), True),
    "every error is used once": ("pool_overfit", repairs(None, 0.5), False),
    "too few used errors": ("pool_overfit", repairs(1.0, 0.0, count=3.0), False),
    "answers change": ("copying", turns(10, unchanged_wrong=0.6, edit_zero_wrong=0.1), True),
    "nothing was wrong": ("copying", turns(0), False),
    "politeness that changes something": ("apology", turns(10, apology=0.1), True),
    "right answers stay": ("breaking", turns(10, broken=0.05), True),
    "few right answers": ("breaking", turns(3, broken=1.0), False),
    "entropy settles": ("entropy_collapse", history(train__entropy=[0.5] * 5 + [0.3] * 5), True),
    "the early mean is not over": ("entropy_collapse", history(train__entropy=[0.5] * 5 + [0.1] * 4), True),
    "a step that trained nothing": ("entropy_collapse", history(train__entropy=[0.001, None]), False),
    "corrections keep their length": ("reflection_length", flat("reflect__length", 100, "reflect", 10), True),
    "no corrections yet to compare with": ("reflection_length", flat("reflect__length", 900, "reflect", 9), False),
    "half of the groups": ("no_signal", flat("groups__skipped_share", 0.5), True),
    "some are cut off": ("truncation", flat("first__truncated", 0.2), True),
    "rounding": ("drift", flat("train__drift", 1e-3), True),
    "recorded completions have no drift": ("drift", flat("train__loss", 1.0, "fit"), False),
}


@pytest.mark.parametrize(("name", "steps", "text"), FIRES.values(), ids=FIRES)
def test_fires(name: MonitorName, steps: History, text: str) -> None:
    found = watch(steps, CFG)
    assert found.metrics[f"warn/{name}"] == 1
    assert text in found.news[name]
    phase = {"first": "first-answer"}.get(steps[-1].phase, steps[-1].phase)
    assert found.news[name].startswith(f"warning: {name} ({phase} steps): ")
    assert found.news[name].endswith(f"see {PAGE}#{name}")


@pytest.mark.parametrize(("name", "steps", "judged"), SILENT.values(), ids=SILENT)
def test_is_silent(name: MonitorName, steps: History, judged: bool) -> None:
    found = watch(steps, CFG)
    assert found.metrics.get(f"warn/{name}") == (0 if judged else None)
    assert name not in found.news


@pytest.mark.parametrize("name", get_args(MonitorName))
def test_every_monitor_has_both_tests_a_threshold_and_an_off_switch(name: MonitorName) -> None:
    assert name in MONITORS
    assert {name} <= {n for n, *_ in FIRES.values()} & {n for n, *_ in SILENT.values()}
    steps = next(steps for n, steps, _ in FIRES.values() if n == name)
    off = watch(steps, MonitorsConfig(**{name: None}))
    assert f"warn/{name}" not in off.metrics
    assert name not in off.news


def test_the_page_explains_every_monitor_with_its_default() -> None:
    """A row with an anchor of the monitor's name, which the console's line points to, and its threshold."""
    rows = re.findall(r'^\| <a id="(\w+)"></a>`(\w+)` \| ([\d.]+) \|', (ROOT / PAGE).read_text(), re.MULTILINE)
    assert [(anchor, name, float(default)) for anchor, name, default in rows] == [
        (name, name, getattr(CFG, name)) for name in MONITORS
    ]


def test_seconds_count_when_asked() -> None:
    steps = cycles([100.0] * 3, seconds=9.0)
    found = watch(steps, MonitorsConfig(reflection_seconds=0.8))
    assert "90.0% of the seconds" in found.news["reflection_bottleneck"]


def test_the_bottleneck_is_judged_over_whole_cycles() -> None:
    """With window 1 the share is that of the last trial and the last reflection, not of the reflection alone."""
    found = watch(cycles([9000.0, 100.0]), MonitorsConfig(window=1, reflection_bottleneck=0.49))
    assert "50.0% of the tokens" in found.news["reflection_bottleneck"]


def test_phases_are_not_mixed() -> None:
    """Entropy of reflection tokens is another quantity than that of first answers."""
    firsts = [StepMetrics(i, "first", {"train/entropy": 0.5}) for i in range(1, 11)]
    reflections = [StepMetrics(i, "reflect", {"train/entropy": 0.05}) for i in range(11, 21)]
    assert watch([*firsts, *reflections], CFG).metrics["warn/entropy_collapse"] == 0


def test_shares_weigh_by_what_was_counted() -> None:
    """One wrong of one right answer, then 2 of 49: 3 of 50 and not (100% + 4%) / 2."""
    steps = history("turns", turns__right=[1, 49], turns__broken=[1.0, 2 / 49])
    found = watch(steps, MonitorsConfig(breaking=0.05))
    assert "6.0% of the right answers" in found.news["breaking"]


def test_a_line_once_until_it_was_silent() -> None:
    cfg = MonitorsConfig(window=1)
    done: History = []
    told = []
    for step, share in enumerate([0.1, 0.3, 0.4, 0.1, 0.5], start=1):
        metrics = {"first/truncated": share}
        found = watch([*done, StepMetrics(step, "first", {**metrics})], cfg)
        told += [step] if "truncation" in found.news else []
        done.append(StepMetrics(step, "first", {**metrics, **found.metrics}))
    assert [s.metrics["warn/truncation"] for s in done] == [0, 1, 1, 0, 1]
    assert told == [2, 5]


def test_a_null_of_the_record_is_not_measured() -> None:
    """JSON has no infinities: what the database gives back is null, and a run before and after a resume agree."""
    for odd in (None, float("inf")):
        steps = [StepMetrics(1, "first", {"train/drift": odd}), StepMetrics(2, "first", {"train/drift": 0.2})]
        assert "0.2 nats" in watch(steps, CFG).news["drift"]


def test_stop_names_monitors_that_are_on() -> None:
    assert MonitorsConfig(stop=["drift"]).stop == ["drift"]
    with pytest.raises(ValidationError, match="switched off"):
        MonitorsConfig(stop=["drift"], drift=None)
    with pytest.raises(ValidationError):
        MonitorsConfig(stop=["drft"])  # type: ignore[list-item]


# --- in a real run ------------------------------------------------------------------------------------------------

CUT = small(optim__steps=4, rollout__max_tokens=24, eval__repair="false", checkpoint__every=10)
"""Answers of the tiny world are longer than 24 tokens: most are cut off."""
TRAIN = ("train", "--reflect-every", "never", "--json", *CUT)


def run_of(directory: Path) -> Path:
    (run,) = (directory / ".scrpo/runs").iterdir()
    return run


def test_a_run_warns_once_in_a_line_and_at_every_step_in_its_metrics(scrpo_process, tmp_path) -> None:
    done = scrpo_process(*TRAIN)
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("warning: truncation")]
    assert len(told) == 1
    assert re.fullmatch(
        r"warning: truncation \(first-answer steps\): [\d.]+% of the answers .* docs/quickstart.md#truncation", told[0]
    )
    steps = [row for row in lines(run_of(tmp_path) / "metrics.jsonl") if row["step"] and "first/groups" in row]
    assert [row["warn/truncation"] for row in steps] == [1, 1, 1, 1]
    recorded = [json.loads(text) for (text,) in execute(tmp_path, "SELECT metrics_json FROM step ORDER BY step")]
    assert [row["warn/truncation"] for row in recorded] == [1, 1, 1, 1]


def test_a_run_stops_where_the_recipe_says_and_resumes_past_it(scrpo_process, tmp_path) -> None:
    stopped = scrpo_process(*TRAIN, "--set", "monitors.stop=[truncation]")
    assert stopped.code == 1, stopped.err
    for part in ("Stopped after step 1", "warning: truncation", "scrpo train --resume"):
        assert part in stopped.err
    assert execute(tmp_path, "SELECT status FROM run") == [("failed",)]
    assert [p.name for p in (run_of(tmp_path) / "checkpoints").iterdir()] == ["step-000001"]
    resumed = scrpo_process("train", "--resume", "last", "--json")
    assert (resumed.code, resumed.json["steps"]) == (0, 4), resumed.err
    assert "warning: truncation" not in resumed.err
