"""Warning signs: pure functions of the steps that a run has recorded. docs/quickstart.md says what to do about each.

A monitor sees the steps up to the current one and says what it measured and whether that is bad, or nothing where there
is nothing to judge. Nothing is remembered beside the recorded steps, so a resumed run gives the same warnings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scrpo_cli.pool.queries import StepMetrics
from scrpo_cli.recipe.monitors import MonitorName, MonitorsConfig

Steps = Sequence[StepMetrics]
Rows = Sequence[Mapping[str, float | None]]
PAGE = "docs/quickstart.md"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured against the threshold, in words, and whether that is a warning."""

    fires: bool
    text: str


@dataclass(frozen=True, slots=True)
class Watch:
    """`metrics`: `warn/NAME` is 1 where a monitor fires, 0 where it does not, absent where it has nothing to judge.
    `news`: a line for each one that fires now and did not at the last step of the same phase.
    """

    metrics: dict[str, float]
    news: Mapping[MonitorName, str]


def watch(steps: Steps, cfg: MonitorsConfig) -> Watch:
    """Judge the last of `steps`, which are all steps of a run in order."""
    readings: dict[MonitorName, Reading] = {}
    for name, monitor in MONITORS.items():
        limit = getattr(cfg, name)
        if limit is not None and (reading := monitor(steps, cfg, limit)) is not None:
            readings[name] = reading
    earlier = [{}, *same_phase(steps)[:-1]][-1]
    phase = {"first": "first-answer"}.get(steps[-1].phase, steps[-1].phase)
    return Watch(
        {f"warn/{name}": float(reading.fires) for name, reading in readings.items()},
        {
            name: f"warning: {name} ({phase} steps): {reading.text}; see {PAGE}#{name}"
            for name, reading in readings.items()
            if reading.fires and earlier.get(f"warn/{name}") != 1
        },
    )


# --- what is measured over a window -------------------------------------------------------------------------------


def same_phase(steps: Steps) -> Rows:
    """Metrics of the steps of the current step's phase: first answers and reflections do not compare."""
    return [s.metrics for s in steps if s.phase == steps[-1].phase]


def values(rows: Rows, name: str) -> list[float]:
    """Of the rows that measured it; empty unless the last one did, so that no old news is told again."""
    if not rows or rows[-1].get(name) is None:
        return []
    return [v for row in rows if (v := row.get(name)) is not None and math.isfinite(v)]


def recent_mean(steps: Steps, name: str, cfg: MonitorsConfig) -> float | None:
    """Over the last steps of this phase, as many as there are."""
    last = values(same_phase(steps), name)[-cfg.window :]
    return sum(last) / len(last) if last else None


def pooled_mean(steps: Steps, name: str, counted: str, cfg: MonitorsConfig) -> float | None:
    """A share over all that the last steps counted, each step weighing as much as it counted; None below min_count."""
    rows = same_phase(steps)
    if not values(rows, counted):
        return None
    pairs = [(float(row[counted] or 0), row.get(name)) for row in rows if counted in row][-cfg.window :]
    total = sum(n for n, share in pairs if share is not None)
    return sum(n * share for n, share in pairs if share is not None) / total if total >= cfg.min_count else None


def early_mean(steps: Steps, name: str, cfg: MonitorsConfig) -> float | None:
    """Over the first steps of this phase, once the last ones do not overlap with them."""
    found = values(same_phase(steps), name)
    return sum(found[: cfg.window]) / cfg.window if len(found) >= 2 * cfg.window else None


def above(value: float | None, limit: float, what: str, form: str = ".1%") -> Reading | None:
    """A warning above the limit, with both numbers; nothing without a value."""
    if value is None:
        return None
    return Reading(value > limit, f"{value:{form}} {what}, threshold {limit:{form}}")


def worst(*readings: Reading | None) -> Reading | None:
    """The first that fires, else the first that judges at all."""
    judged = [r for r in readings if r is not None]
    return next((r for r in judged if r.fires), judged[0] if judged else None)


# --- the monitors -------------------------------------------------------------------------------------------------


def repeated_mistakes(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    repeated, stuck = (pooled_mean(steps, f"pool/{kind}_share", "pool/size", cfg) for kind in ("repeated", "stuck"))
    return worst(
        above(repeated, limit, "of the pool is a wrong answer that is in it already"),
        above(stuck, limit, f"of the pool was corrected {cfg.stuck_uses} times or more and never rightly"),
    )


def reflection_bottleneck(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    """Judged where a step reflects, over the last reflections and the steps before each: whole cycles. A step that does
    both is divided by its tokens.
    """
    reflecting = [i for i, s in enumerate(steps) if s.metrics.get("reflect/tokens")]
    if not reflecting or reflecting[-1] != len(steps) - 1:
        return None
    start = reflecting[-cfg.window - 1] + 1 if len(reflecting) > cfg.window else 0
    rows = [s.metrics for s in steps[start:]]
    tokens, seconds = (reflected_share(rows, name) for name in ("rollout/tokens", "seconds/step"))
    by_tokens = above(tokens, limit, f"of the tokens ({seconds:.1%} of the seconds) go to reflection")
    if cfg.reflection_seconds is None:
        return by_tokens
    return worst(by_tokens, above(seconds, cfg.reflection_seconds, "of the seconds go to reflection"))


def reflected_share(rows: Rows, name: str) -> float:
    """The share of the sum of `name` that reflections have."""
    parts = [(row.get(name) or 0.0, row.get("reflect/tokens_share") or 0.0) for row in rows]
    return sum(v * share for v, share in parts) / max(1e-9, sum(v for v, _ in parts))


def pool_overfit(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    """Nothing to say where an error is used once (pool.consume: once)."""
    used, fresh = (pooled_mean(steps, f"reflect/fix_rate_{k}", f"reflect/{k}", cfg) for k in ("used", "fresh"))
    if used is None or fresh is None:
        return None
    text = f"points between the repair rates of used errors ({used:.1%}) and of fresh ones ({fresh:.1%})"
    return above(100 * (used - fresh), 100 * limit, text, ".1f")


def copying(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    return worst(
        above(of_wrong(steps, "unchanged_wrong", cfg), limit, "of the wrong answers are given again"),
        above(of_wrong(steps, "edit_zero_wrong", cfg), cfg.copying_edit_zero, "of the wrong answers are mere copies"),
    )


def apology(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    return above(of_wrong(steps, "apology", cfg), limit, "of the wrong answers get an apology and stay")


def of_wrong(steps: Steps, name: str, cfg: MonitorsConfig) -> float | None:
    """A share of the wrong answers that were revised: in the next turn of a conversation, or from the pool."""
    found = pooled_mean(steps, f"turns/{name}", "turns/wrong", cfg)
    return pooled_mean(steps, f"reflect/{name}", "reflect/wrong", cfg) if found is None else found


def breaking(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    share = pooled_mean(steps, "turns/broken", "turns/right", cfg)
    return above(share, limit, "of the right answers are wrong after the next turn")


def entropy_collapse(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    now, early = recent_mean(steps, "train/entropy", cfg), early_mean(steps, "train/entropy", cfg)
    if now is None:
        return None
    lowest = max(cfg.entropy_floor, limit * early) if early is not None else cfg.entropy_floor
    beside = "" if early is None else f", early mean {early:.3g}"
    return Reading(now < lowest, f"entropy of {now:.3g} nats{beside}, threshold {lowest:.3g}")


def reflection_length(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    now, early = recent_mean(steps, "reflect/length", cfg), early_mean(steps, "reflect/length", cfg)
    if now is None or not early:
        return None
    text = f"times the early length of a correction ({now:.0f} tokens, early mean {early:.0f})"
    return above(now / early, limit, text, ".2f")


def no_signal(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    share = recent_mean(steps, "groups/skipped_share", cfg)
    return above(share, limit, "of the groups have equal rewards and teach nothing")


def truncation(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    share = recent_mean(steps, f"{steps[-1].phase}/truncated", cfg)
    return above(share, limit, "of the answers are cut off at rollout.max_tokens")


def drift(steps: Steps, cfg: MonitorsConfig, limit: float) -> Reading | None:
    mean = recent_mean(steps, "train/drift", cfg)
    return above(mean, limit, "nats between the log-probs of trainer and sampler", ".3g")


MONITORS: dict[MonitorName, Callable[[Steps, MonitorsConfig, float], Reading | None]] = {
    "repeated_mistakes": repeated_mistakes,
    "reflection_bottleneck": reflection_bottleneck,
    "pool_overfit": pool_overfit,
    "copying": copying,
    "apology": apology,
    "breaking": breaking,
    "entropy_collapse": entropy_collapse,
    "reflection_length": reflection_length,
    "no_signal": no_signal,
    "truncation": truncation,
    "drift": drift,
}
