"""The forecast of `--measure`: how long the whole recipe takes, how much memory and how large a database, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scrpo_cli.jobs.budget import Budget, duration, size
from scrpo_cli.jobs.extrapolate import Measured, Total, totals
from scrpo_cli.jobs.limits import notes
from scrpo_cli.layout import Pairs, Prose
from scrpo_cli.recipe.models import Recipe

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Forecast:
    """`fastest` and `slowest` differ where what is sampled decides which steps come how often."""

    measured: Measured
    fastest: Total
    slowest: Total
    at_cap: Total
    """The slowest one if every answer ran to its cap."""
    notes: Sequence[str]
    """What of it is a bound, and what does not fit, with the settings that would change it."""

    @property
    def peak(self) -> int:
        return max(self.measured.peaks.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        totals = {name: getattr(self, name) for name in ("fastest", "slowest", "at_cap")}
        said = {
            name: asdict(total) | {"hours": total.all_seconds / 3600, "dominant": total.dominant[0]}
            for name, total in totals.items()
        }
        return asdict(self) | said | {"peak": self.peak}


def measured(recipe: Recipe, budget: Budget) -> Forecast:
    """Take a micro-step on this machine, and say what it comes to."""
    from scrpo_cli.jobs.measure import measure

    return forecast(recipe, budget, measure(recipe, budget))


def forecast(recipe: Recipe, budget: Budget, taken: Measured) -> Forecast:
    """What the measurement comes to for the whole recipe."""
    fastest, slowest, at_cap = totals(recipe, budget, taken)
    return Forecast(taken, fastest, slowest, at_cap, notes(recipe, budget, taken, fastest, slowest))


def render(found: Forecast) -> RenderableType:
    """The forecast, a line each, and below what of it is a bound and what does not fit."""
    from rich.console import Group

    fast, slow, m = found.fastest, found.slowest, found.measured
    part, share = slow.dominant
    rows = {
        "time": between(duration(fast.all_seconds), duration(slow.all_seconds)),
        "most of it": f"{part}: {share:.0%}",
        "time if every answer ran to its cap": duration(found.at_cap.all_seconds),
        "steps": between(f"{fast.steps:,}", f"{slow.steps:,}"),
        "generated tokens": between(f"{fast.generated_tokens:,}", f"{slow.generated_tokens:,}"),
    }
    rows |= {f"  {name}": duration(seconds) for name, seconds in by_length(slow.seconds)}
    if m.device == "cuda":
        rows |= {f"peak memory, {name}": size(peak) for name, peak in m.peaks.items()}
    rows["peak memory"] = size(found.peak)
    rows[f"memory there is on {m.device}"] = size(m.memory)
    rows["database"] = between(size(fast.database), size(slow.database))
    title = Prose(f"Measured here ({m.engine} on {m.device}) and extrapolated", "italic")
    return Group(title, Pairs(rows), *map(Prose, found.notes))


def by_length(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def between(low: str, high: str) -> str:
    return f"about {high}" if low == high else f"about {low} to {high}"
