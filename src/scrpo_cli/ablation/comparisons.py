"""Arms against arms: paired by problem and seed, corrected for the number of comparisons, and what may be said.

A comparison has two p: of these runs, over problems (`p`), and of the settings, over problems and seeds (`p_seeds`).
Each is corrected by Holm's rule over all comparisons of the same kind that a result holds, and verdicts use the
corrected ones. That two arms do equally well is said only by two one-sided tests against a margin that the user gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import turn_values
from scrpo_cli.evaluation.outcomes import Key, Outcomes, problem_means, side_by_side
from scrpo_cli.evaluation.paired import HIGHER, LOWER, compare, holm
from scrpo_cli.evaluation.stats import ALPHA, Estimate, crossed_equivalence_p, crossed_estimate, crossed_p

ENOUGH_SEEDS = 3
"""With two, the interval over seeds holds the truth in 89 to 98% of cases, and is useless or wrong in most."""

Values = Callable[[Outcomes], np.ndarray]


@dataclass(frozen=True)
class Question:
    """What is compared: every arm with `against` (empty: the first), all pairs of the arms whose names match one of the
    patterns `pairs`, and by which `margin` (a share; None: not asked) two arms may differ that do equally well.
    """

    against: str = ""
    pairs: tuple[str, ...] = ()
    margin: float | None = None

    @classmethod
    def of(cls, against: str | None, pairs: Sequence[str] | None, margin_points: float | None) -> Question:
        """As the command line says it."""
        return cls(against or "", tuple(pairs or ()), None if margin_points is None else margin_points / 100)

    @property
    def words(self) -> list[str]:
        """As the command line says it."""
        margin = [] if self.margin is None else ["--margin", f"{100 * self.margin:g}"]
        pairs = [word for pattern in self.pairs for word in ("--pairs", pattern)]
        return [*(["--against", self.against] if self.against else []), *pairs, *margin]

    def reference(self, arms: Sequence[str]) -> str:
        if self.against and self.against not in arms:
            raise UserError(f"There is no arm '{self.against}'", "--against", f"Arms: {', '.join(arms)}.")
        return self.against or arms[0]

    def check(self, arms: Sequence[str]) -> None:
        """UserError where it is about other arms than these."""
        self.reference(arms)
        self.within(arms)

    def within(self, arms: Sequence[str]) -> list[tuple[str, str]]:
        """The pairs (reference, arm) of each family, in the order of the arms, none twice."""
        found: dict[tuple[str, str], None] = {}
        for pattern in self.pairs:
            family = [arm for arm in arms if fnmatchcase(arm, pattern)]
            if len(family) < 2:
                raise UserError("A pattern has to match two arms", f"--pairs {pattern}", f"Arms: {', '.join(arms)}.")
            found |= dict.fromkeys(combinations(family, 2))
        return [*found]


@dataclass(frozen=True)
class Pair:
    """Two arms of a family: `arm` less `against`, of first answers and of second less first answers."""

    arm: str
    against: str
    difference: dict[str, Any] | None
    delta_difference: dict[str, Any] | None


def against(
    first: Sequence[RunOutcome],
    runs: Sequence[RunOutcome],
    problems: Sequence[Key],
    values: Values,
    scale: float = 1.0,
    margin: float | None = None,
) -> dict[str, Any] | None:
    """runs - first after training, on the seeds that both have, problem by problem: `compare` of what `values` gives
    for each answer (differences lie within `scale` of 0), `by_seed`, and over problems and seeds (None with too few of
    them) `ci95_seeds`, `p_seeds` and, with a margin, `ci90_seeds` and `p_equivalent`. None when there is no such seed.
    """
    sides = [{run.seed: run.after for run in arm if run.after and _known(values(run.after))} for arm in (first, runs)]
    seeds = sorted(set.intersection(*map(set, sides)))
    if not seeds:
        return None

    def side(arm: Mapping[int, Outcomes], chosen: Sequence[int]) -> np.ndarray:
        return values(side_by_side([arm[seed] for seed in chosen], problems))

    result = compare(side(sides[0], seeds), side(sides[1], seeds), scale)
    if result is None:
        return None
    by_seed = [[problem_means(side(arm, [seed])) for seed in seeds] for arm in sides]
    differences_NS = np.stack(by_seed[1], axis=1) - np.stack(by_seed[0], axis=1)
    found = {"seeds": seeds, "by_seed": np.nanmean(differences_NS, axis=0).tolist()}
    return result | found | over_both(differences_NS, scale, margin)


def over_both(differences_NS: np.ndarray, scale: float, margin: float | None) -> dict[str, Any]:
    """What is known over problems and seeds."""
    asked: dict[str, Any] = {"margin": margin, "ci90_seeds": None, "p_equivalent": None} if margin is not None else {}
    crossed = partial(crossed_estimate, low=-scale, high=scale)
    interval = over_seeds(differences_NS, crossed)
    if interval is None:
        return {"ci95_seeds": None, "p_seeds": None} | asked
    counted_NS = counted_by_all(differences_NS)
    if margin is not None:
        asked["ci90_seeds"] = list(crossed(counted_NS, alpha=2 * ALPHA).ci95)
        asked["p_equivalent"] = crossed_equivalence_p(counted_NS, margin, scale)
    return {"ci95_seeds": interval, "p_seeds": crossed_p(counted_NS, scale)} | asked


def over_seeds(values_NS: np.ndarray, crossed: Callable[[np.ndarray], Estimate]) -> list[float] | None:
    """The interval over other problems and seeds, of the problems that every seed counts; None with fewer than
    ENOUGH_SEEDS.
    """
    counted_NS = counted_by_all(values_NS)
    enough = len(counted_NS) > 0 and counted_NS.shape[1] >= ENOUGH_SEEDS
    return list(crossed(counted_NS).ci95) if enough else None


def counted_by_all(values_NS: np.ndarray) -> np.ndarray:
    return values_NS[~np.isnan(values_NS).any(axis=1)]


def corrected(comparisons: Sequence[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """The same comparisons as one family: `p_holm`, `p_seeds_holm`, `equivalent`, and the verdict by these."""
    known = [comparison for comparison in comparisons if comparison is not None]
    for key in ("p", "p_seeds", "p_equivalent"):
        those = [comparison for comparison in known if comparison.get(key) is not None]
        for comparison, p in zip(those, holm([comparison[key] for comparison in those]), strict=True):
            comparison[f"{key}_holm"] = p
    for comparison in known:
        comparison["comparisons"] = len(known)
        comparison["verdict"] = verdict(comparison)
        if comparison.get("margin") is not None:
            comparison["equivalent"] = comparison.get("p_equivalent_holm", 1.0) < ALPHA
    return [*comparisons]


def verdict(comparison: Mapping[str, Any]) -> str:
    """What may be said: nothing, something about these runs, or something about the arms; and that they do equally well
    where that was asked and shown.
    """
    said = _difference(comparison)
    if comparison.get("p_equivalent_holm", 1.0) < ALPHA:
        said += f"; equal within {100 * comparison['margin']:g} points"
    return said


def _difference(comparison: Mapping[str, Any]) -> str:
    alone, seeds, interval = comparison["verdict"], len(comparison["seeds"]), comparison["ci95_seeds"]
    but = f"taken alone, but not as one of {comparison['comparisons']} comparisons"
    if alone not in (HIGHER, LOWER):
        return alone
    if comparison["p_holm"] >= ALPHA:
        return f"{alone} in these runs {but}"
    if interval is None or interval[0] <= 0 <= interval[1]:
        return f"{alone} in these runs; {seeds} seed{'s' * (seeds > 1)} cannot say it of the setting"
    if comparison["p_seeds_holm"] >= ALPHA:
        return f"{alone} in these runs; of the setting {but}"
    return alone


def first_answers_of(outcomes: Outcomes) -> np.ndarray:
    return outcomes.first_NK


def deltas_of(outcomes: Outcomes) -> np.ndarray:
    return turn_values(outcomes.first_NK, outcomes.second_NK)["delta"]


def _known(values_NK: np.ndarray) -> bool:
    return not np.isnan(values_NK).all()
