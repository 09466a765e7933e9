"""Whether reflecting on errors is likely to pay, and how often: the rule of `scrpo advise`, a pure function of what
`evaluation.worth` measures.

Three conditions, each of which the data can meet, fail or leave open:

    repairs    a reflection repairs more errors than a fresh try does, or it is no repair
    transfers  first answers check themselves now and then, so that they can hold what a reflection teaches
    cheaper    reflecting finds more groups with signal per generated token than practising

Reflecting is likely to pay where all three are met, unlikely where one fails. The rule is a hypothesis [I].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LIKELY, UNLIKELY, UNDECIDED = "likely", "unlikely", "undecided"
BASIS = (
    "The rule is a hypothesis: its thresholds were set by hand. In a small world "
    "(docs/results/when-reflection-pays.md), cells that it calls likely were 4.7 points ahead [0.2, 9.2] where hardly "
    "any group had signal, in a test planned beforehand; cells that it calls unlikely were behind where 5% of the "
    "groups and more had signal, and not where fewer had. It has not been validated on other models and problems."
)
"""What the rule rests on; shown with every advice."""
EVERY_AT_PAR = 5
"""First-answer steps for each reflection step where both find as many groups with signal per token; fewer in
proportion to what practising finds less [I]."""
MOST_PROBLEMS = 16
"""Times as many problems as were sampled: what is undecided after that is not worth a sample [I]."""
MOSTLY = 0.5
"""Of the problems with errors: where the filter takes fewer, and as many have only errors, these should be admitted."""


@dataclass(frozen=True)
class Rule:
    """The thresholds. `gain`: of the repair rate over that of a fresh try; `held`: of the share of first answers that
    check themselves; `ratio`: of groups with signal per token, reflecting over practising.
    """

    gain: float = 0.02
    held: float = 0.1
    ratio: float = 1.0


@dataclass(frozen=True)
class Condition:
    """A number against its threshold. `met` is None where the interval holds the threshold, or nothing is known."""

    name: str
    value: float | None
    ci95: tuple[float, float] | None
    threshold: float

    @property
    def met(self) -> bool | None:
        if self.ci95 is None:
            return None
        low, high = self.ci95
        return True if low > self.threshold else False if high < self.threshold else None

    @property
    def times(self) -> float | None:
        """How many times the problems it would take to decide, if the number stayed: intervals shrink with their root.
        None where no number would.
        """
        if self.value is None or self.ci95 is None or self.value == self.threshold:
            return None
        nearer = self.ci95[0] if self.value > self.threshold else self.ci95[1]
        return ((nearer - self.value) / (self.threshold - self.value)) ** 2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def conditions(measured: Mapping[str, Any], rule: Rule = Rule()) -> list[Condition]:
    """The three conditions, of what `evaluation.worth.measure` found."""
    first, reflection, gain = measured["first"], measured["reflection"], measured["gain"]
    held = first["self_checking"]
    repairs = Condition("repairs", None, None, rule.gain)
    if gain is not None:
        repairs = Condition("repairs", gain["difference"], tuple(gain["ci95"]), rule.gain)
    transfers = Condition("transfers", held["value"], tuple(held["ci95"]), rule.held)
    cheaper = Condition("cheaper", None, None, 0.0)
    if reflection is not None:
        lead = surplus(reflection["per_1000_tokens"], first["per_1000_tokens"], rule.ratio)
        cheaper = Condition("cheaper", *lead, 0.0)
    return [repairs, transfers, cheaper]


def surplus(ours: Mapping[str, Any], theirs: Mapping[str, Any], ratio: float) -> tuple[float, tuple[float, float]]:
    """ours - ratio x theirs with its interval, from those of the two (MOVER, Zou & Donner 2008, Statistics in Medicine
    27:1693), which are taken as independent.
    """
    a, b = ours["value"], ratio * theirs["value"]
    (a_low, a_high), (b_low, b_high) = ours["ci95"], (ratio * end for end in theirs["ci95"])
    below, above = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    return a - b, (a - b - below, a - b + above)


def verdict(found: Sequence[Condition]) -> str:
    """`likely` where all conditions are met, `unlikely` where one fails, else `undecided`."""
    met = [condition.met for condition in found]
    return UNLIKELY if False in met else UNDECIDED if None in met else LIKELY


def advise(measured: Mapping[str, Any], rule: Rule = Rule()) -> dict[str, Any]:
    """The verdict with its conditions, `keys` of a recipe of method scrpo that follow from it, `more_problems` that
    would decide what is open (None: nothing is, or none would) and what all this rests on.
    """
    found = conditions(measured, rule)
    answer = verdict(found)
    return {
        "verdict": answer,
        "conditions": [condition.as_dict() for condition in found],
        "keys": recipe_keys(measured, answer),
        "more_problems": more_problems(found, measured["problems"]) if answer == UNDECIDED else None,
        "basis": BASIS,
    }


def recipe_keys(measured: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """How often to reflect and, where the filter would keep most errors out, on which."""
    if answer != LIKELY:
        return {"method.reflect_every": "never"} if answer == UNLIKELY else {}
    keys: dict[str, Any] = {"method.reflect_every": reflect_every(measured)}
    pooled = measured["pooled"]
    of = pooled["with_errors"]
    if pooled["kept"] < MOSTLY * of and pooled["all_wrong"] >= MOSTLY * of:
        keys["method.filter.all_wrong"] = "admit"
    return keys


def reflect_every(measured: Mapping[str, Any]) -> int:
    """First-answer steps for each reflection step."""
    practising, reflecting = (measured[kind]["per_1000_tokens"]["value"] for kind in ("first", "reflection"))
    return max(1, min(EVERY_AT_PAR, round(EVERY_AT_PAR * practising / reflecting)))


def more_problems(found: Sequence[Condition], problems: int) -> int | None:
    """Problems that would decide every open condition, if its number stayed as it is; at least twice as many as were
    sampled. None where that is more than MOST_PROBLEMS times as many. Where nothing is known yet: twice as many.
    """
    times = [2.0 if condition.value is None else condition.times for condition in found if condition.met is None]
    known = [each for each in times if each is not None]
    if len(known) < len(times) or max(known) > MOST_PROBLEMS:
        return None
    return math.ceil(problems * max(2.0, *known))
