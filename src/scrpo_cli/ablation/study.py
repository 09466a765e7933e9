"""A question as a file: arms, claims about them, and how sure the answer has to be. `scrpo ablate --study FILE` adds
seeds until every claim is told to hold or not to hold, or until there are as many as the file allows.

    question: Does reflecting on errors make first answers better than practice at equal tokens?
    recipe: race/base                            # of every arm that names no other
    set: {optim.max_generated_tokens: 60_000}    # recipe keys of all arms
    arms:
      reflecting: {recipe: race/scrpo-best}
      practice: {recipe: race/grpo}
    claims:
      - {of: first answers, arm: reflecting, over: practice, by: 2}    # points, at least
    seeds: {first: 5, most: 20}
    spread: 8                                    # of a claim's difference from seed to seed, points
    effect: 5                                    # a difference beyond `by` that matters
    power: 0.8                                   # and how surely it has to be found

The seeds of one study are looked at after each: `evaluation.sequential` has the intervals that allow it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from scrpo_cli.ablation.grid import Arm, check_arms
from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.errors import UserError, nearest
from scrpo_cli.evaluation.metrics import repair_rate, summarize, two_turn
from scrpo_cli.evaluation.outcomes import Key, Outcomes, side_by_side
from scrpo_cli.evaluation.sequential import interval, normal_outlook, spread_of, values_needed
from scrpo_cli.recipe.document import read_document
from scrpo_cli.recipe.load import STUDIES, SUFFIXES, find_recipe, load_recipe, shipped_studies
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.section import Name, Number, Positive, PositiveInt, Section

LOOKED_AHEAD = 200
"""Seeds, for what a study would take."""

YES, NO, OPEN, CANNOT_TELL = "yes", "no", "open", "cannot tell"


class StudyArm(Section):
    recipe: Name | None = None
    """A shipped recipe or a file; none: the study's."""
    set: dict[Name, Any] = Field(default_factory=dict)
    """Recipe keys."""


class Claim(Section):
    """That one arm is better than another, by so many points at least; by a negative number: hardly worse."""

    of: Literal["first answers", "second answers", "second - first", "repairs"] = "first answers"
    arm: Name
    over: Name
    by: Number = 0.0
    """Points."""

    def __str__(self) -> str:
        return f"{self.of}: {self.arm} - {self.over} >= {self.by:g}"


class StudySeeds(Section):
    first: Annotated[PositiveInt, Field(ge=2)] = 5
    """Runs of each arm before anything is said."""
    most: PositiveInt = 20

    @model_validator(mode="after")
    def _in_order(self) -> StudySeeds:
        if self.most < self.first:
            raise ValueError(f"most is {self.most} and first {self.first}: at most has to be at least first")
        return self


class Study(Section):
    question: Name
    recipe: Name | None = None
    set: dict[Name, Any] = Field(default_factory=dict)
    arms: Annotated[dict[Name, StudyArm], Field(min_length=2)]
    claims: Annotated[list[Claim], Field(min_length=1)]
    seeds: StudySeeds = Field(default_factory=StudySeeds)
    spread: Positive
    """Standard deviation over seeds of a claim's difference, points: an earlier sweep's, or a guess on the high side. A
    smaller one that a few seeds happen to have is not believed.
    """
    effect: Positive
    """How far the truth is beyond what is claimed, points, when a study should find it."""
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Of all claims together, at most, in either direction."""

    @model_validator(mode="after")
    def _claims_are_about_arms(self) -> Study:
        for claim in self.claims:
            for name in (claim.arm, claim.over):
                if name not in self.arms:
                    raise ValueError(f"the claim '{claim}' names no arm '{name}'. {nearest(name, self.arms)}".strip())
            if claim.arm == claim.over:
                raise ValueError(f"the claim '{claim}' compares an arm with itself")
        if missing := [name for name, arm in self.arms.items() if arm.recipe is None and self.recipe is None]:
            raise ValueError(f"arm '{missing[0]}' has no recipe, and the study names none for all")
        return self

    @property
    def runs(self) -> tuple[int, int]:
        """Of each arm, at least and at most."""
        return self.seeds.first, self.seeds.most

    @property
    def alpha(self) -> float:
        """Of one claim (Bonferroni)."""
        return self.error / len(self.claims)


@dataclass(frozen=True)
class Judged:
    """What is known of a claim. `by_seed`: differences as shares; `interval`: of the confidence sequence, None while it
    is endless; `needed`: seeds that would tell, were the average and the spread to stay; None for very many.
    """

    claim: str
    by: float
    seeds: list[int]
    by_seed: list[float]
    difference: float | None
    interval: list[float] | None
    confidence: float
    spread: float
    verdict: str
    needed: int | None

    @property
    def is_told(self) -> bool:
        return self.verdict in (YES, NO)


def names_study(ref: str) -> bool:
    """Whether this is how a study is named, and not a run: `studies/NAME` or a YAML file."""
    return ref.startswith(STUDIES) or Path(ref).suffix in SUFFIXES


def find_study(ref: str, where: str = "") -> Path:
    """A shipped study by its name, or a file. `where`: what the user wrote; by default an option."""
    shipped = shipped_studies()
    if ref in shipped:
        return shipped[ref]
    if not (path := Path(ref).expanduser()).is_file():
        fix = f"{nearest(ref, shipped)} Shipped: {', '.join(shipped)}; or name a .yaml file.".strip()
        raise UserError("There is no such study", where or f"--study {ref}", fix)
    return path


def read_study(path: Path) -> Study:
    """UserError names the first mistake with its file and line."""
    document = read_document(path)
    try:
        return Study.model_validate(document.data)
    except ValidationError as error:
        raise document.mistake(error, Study.model_fields, "See docs/studies.md.") from None


def arms_of(study: Study, folder: Path, sets: Sequence[str] = ()) -> list[Arm]:
    """The arms, with `sets` in all; recipes may be files in `folder`. UserError for what cannot be compared."""
    arms = []
    for name, arm in study.arms.items():
        given = {**study.set, **arm.set}
        overrides = tuple(f"{key}={json.dumps(value)}" for key, value in given.items())
        file = find_recipe(arm.recipe or study.recipe or "", folder)
        try:
            arms.append(Arm(name, overrides, load_recipe(file, [*sets, *overrides])))
        except UserError as error:
            raise UserError(error.what, f"arm '{name}' of the study: {error.where}", error.fix) from None
    check_arms(arms)
    check_claims(study.claims, arms[0].recipe)
    return arms


def check_claims(claims: Sequence[Claim], recipe: Recipe) -> None:
    """UserError where the evaluation, which all arms share, never asks for what a claim is about."""
    pairs, reflects = recipe.protocol().turns > 1, recipe.eval.second_turn == "reflect"
    for claim in claims:
        if claim.of == "repairs" and not (recipe.eval.repair or (pairs and reflects)):
            raise UserError(f"No run is asked for repairs: {claim}", "eval.repair: false", "Set eval.repair: true.")
        if claim.of.startswith("second") and not pairs:
            raise UserError(f"No run is asked for second answers: {claim}", "eval.turns: 1", "Set eval.turns: 2.")


def forecast(study: Study, budget: int) -> list[str]:
    """What it takes, in sentences: runs, tokens, and how surely an effect is found."""
    first, most, arms = study.seeds.first, study.seeds.most, len(study.arms)
    told = normal_outlook(study.effect, study.spread, first, max(most, LOOKED_AHEAD), study.alpha)
    power = float(told.right_S[most - 1])
    words = [
        f"{arms} arms x {first} to {most} seeds: {arms * first} to {arms * most} runs of {budget:,} generated tokens, "
        f"{arms * most * budget:,} at most.",
        f"A difference {study.effect:g} points beyond a claim, with a spread of {study.spread:g} points over seeds, is "
        f"found by {most} seeds in {power:.0%} of studies.",
    ]
    if power < study.power:
        needed = told.needed(study.power)
        count = f"{needed} seeds" if needed else f"more than {LOOKED_AHEAD} seeds"
        words.append(f"That is less than the {study.power:.0%} that are wanted: those take {count} (`seeds: most`).")
    return words


def judged(study: Study, outcomes: Sequence[RunOutcome], problems: Sequence[Key]) -> list[Judged]:
    """Every claim by the runs that are done, on the seeds that both of its arms have."""
    by_arm: dict[str, dict[int, RunOutcome]] = {}
    for run in outcomes:
        by_arm.setdefault(run.arm, {})[run.seed] = run
    is_last = len({run.seed for run in outcomes}) >= study.seeds.most
    return [judge(claim, study, differences(claim, by_arm, problems), is_last) for claim in study.claims]


def differences(
    claim: Claim, by_arm: Mapping[str, Mapping[int, RunOutcome]], problems: Sequence[Key]
) -> dict[int, float]:
    """By seed, of those that both arms have and that have such a number."""
    found = {}
    arm, over = by_arm.get(claim.arm, {}), by_arm.get(claim.over, {})
    for seed in sorted(arm.keys() & over.keys()):
        one, other = (measured(claim.of, side[seed].after, problems) for side in (arm, over))
        if one is not None and other is not None:
            found[seed] = one - other
    return found


def judge(claim: Claim, study: Study, found: Mapping[int, float], is_last: bool) -> Judged:
    """One claim by its differences; `is_last`: no more seeds will be added."""
    values, least, asked = [*found.values()], study.spread / 100, claim.by / 100
    low, high = interval(values, least, study.alpha) if values else (-np.inf, np.inf)
    verdict = CANNOT_TELL if is_last else OPEN
    if len(values) >= study.seeds.first:
        verdict = YES if low >= asked else NO if high < asked else verdict
    mean, spread = (float(np.mean(values)) if values else None), spread_of(values, least)
    return Judged(
        claim=str(claim),
        by=asked,
        seeds=[*found],
        by_seed=values,
        difference=mean,
        interval=[low, high] if np.isfinite(low) else None,
        confidence=1 - study.alpha,
        spread=spread,
        verdict=verdict,
        needed=None if mean is None else values_needed(mean - asked, spread, study.alpha),
    )


def measured(what: str, after: Outcomes | None, problems: Sequence[Key]) -> float | None:
    """A number of one run after training; None where it has none."""
    if after is None:
        return None
    run = side_by_side([after], problems)
    if what == "first answers":
        return summarize(run.first_NK)["avg"]
    if what == "repairs":
        return repair_rate(run.first_NK, run.repaired_NK)["value"]
    if not run.has_pairs:
        return None
    return two_turn(run.first_NK, run.second_NK)["t2" if what == "second answers" else "delta"]["value"]
