"""What the generated tokens of a run bought, by phase: how much was sampled, how much of it taught anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scrpo_cli.pool.queries import StepMetrics


@dataclass(frozen=True)
class Spending:
    """Sums over the steps of one phase (`first`, `reflect`, `turns`, ...) of one run or several.

    `signal` adds up the steps' share of groups whose rewards differ, `trained` the tokens with a weight in the loss.
    """

    steps: int = 0
    generated: float = 0.0
    completions: float = 0.0
    signal: float = 0.0
    trained: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.steps + other.steps,
            self.generated + other.generated,
            self.completions + other.completions,
            self.signal + other.signal,
            self.trained + other.trained,
        )


def spending(steps: Sequence[StepMetrics]) -> dict[str, Spending]:
    """By phase, from the metrics of a run's steps. Phases that sample nothing (`fit`) are left out."""
    found: dict[str, Spending] = defaultdict(Spending)
    for step in steps:
        generated = step.metrics.get(f"{step.phase}/tokens") or 0.0
        length = step.metrics.get(f"{step.phase}/length")
        if not generated or not length:
            continue
        signal = 1 - (step.metrics.get("groups/skipped_share") or 0.0)
        trained = step.metrics.get("train/tokens") or 0.0
        found[step.phase] += Spending(1, generated, generated / length, signal, trained)
    return dict(found)


def added(parts: Iterable[Mapping[str, Spending]]) -> dict[str, Spending]:
    """The spending of several runs together."""
    total: dict[str, Spending] = defaultdict(Spending)
    for part in parts:
        for phase, spent in part.items():
            total[phase] += spent
    return dict(total)
