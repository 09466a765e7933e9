"""Which runs a sweep has: arms (recipes, and sets of dotted overrides) x seeds, all at the same budget of generated
tokens and under the same evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from scrpo_cli.errors import UserError
from scrpo_cli.files import file_stem
from scrpo_cli.numbers import LARGEST
from scrpo_cli.recipe.load import find_recipe, load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.recipe.shared import PROBLEMS, benchmark_of, shared_keys

REFLECT_EVERY = "method.reflect_every"
BUDGET = "optim.max_generated_tokens"
MOST_RUNS = 1000
"""Of one sweep."""
FEWER = f"A sweep has at most {MOST_RUNS:,} runs: vary less at a time, or start several sweeps."
_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # not inside [1, 2] or {a: 1, b: 2}


@dataclass(frozen=True)
class Match:
    """What all arms spend alike: the limit `key` of their recipes, in `unit`. `freed`: limits that a recipe must not
    have, because they could end a run before.
    """

    name: str
    key: str
    unit: str
    example: int
    freed: tuple[str, ...] = ()

    def of(self, recipe: Recipe) -> int | None:
        """The limit."""
        return _optim(recipe, self.key)

    @property
    def sets(self) -> list[str]:
        """Overrides that take the other limits away."""
        return [f"{key}=null" for key in self.freed]


def _optim(recipe: Recipe, key: str) -> int | None:
    limit: int | None = getattr(recipe.optim, key.removeprefix("optim."))
    return limit


TOKENS = Match("tokens", BUDGET, "generated tokens", 400_000)
SECONDS = Match("seconds", "optim.max_seconds", "seconds of training", 600, (BUDGET,))
STEPS = Match("steps", "optim.steps", "steps", 500, (BUDGET, SECONDS.key))
MATCHES = {match.name: match for match in (TOKENS, STEPS, SECONDS)}


@dataclass(frozen=True)
class Arm:
    """One setting that is compared: its name, the varied keys (`KEY=VALUE`) that it sets, and its resolved recipe.
    `of`: in a tuning sweep, the name of the recipe whose setting it is.
    """

    name: str
    overrides: tuple[str, ...]
    recipe: Recipe
    of: str = ""

    @property
    def file_stem(self) -> str:
        """The name as part of a file's name."""
        return file_stem(self.name)


@dataclass(frozen=True)
class Cell:
    """One run of the grid: an arm's name and a seed."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm} seed={self.seed}"


def make_arms(
    recipes: Sequence[str],
    reflect_every: str | None = None,
    vary: Sequence[str] = (),
    sets: Sequence[str] = (),
    *,
    named: bool,
    one_at_a_time: bool = False,
    read: Callable[[str, Sequence[str]], Recipe] = load_recipe,
) -> list[Arm]:
    """Every recipe under every setting of what is varied, in the order given, and `sets` on all of them; `read`
    resolves a recipe under overrides. `one_at_a_time`: only the first value of each key together, and then the others
    of one key at a time.

    `reflect_every` is "5,10,never"; each of `vary` is "KEY=a,b". Names depend on nothing else: `grpo optim.lr=1e-3`;
    the recipe's file name is a part of them where arms are to be `named` by it.
    """
    axes = [_axis(f"{REFLECT_EVERY}={reflect_every}", "--reflect-every")] if reflect_every else []
    axes += [_axis(text, f"--vary {text}") for text in vary]
    if not axes and not named:
        fix = "For example --reflect-every 5,10,never, or --vary optim.lr=1e-3,2e-3, or several --recipe."
        raise UserError("Nothing is varied", "scrpo ablate", fix)
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise UserError("The same key is varied twice", ", ".join(keys), "Give all its values in one --vary.")
    if idle := [key for item in sets if (key := item.partition("=")[0].strip()) in keys]:
        raise UserError(f"--set {idle[0]} has no effect: the key is varied", "scrpo ablate", "Leave out one of them.")
    if one_at_a_time and len(axes) < 2:
        fix = "Vary a second key, or leave it out."
        raise UserError("--one-at-a-time has no effect: one key is varied", "scrpo ablate", fix)
    sizes = [len(values) for _, values in axes]
    count = len(recipes) * (1 + sum(sizes) - len(sizes) if one_at_a_time else math.prod(sizes))
    if count > MOST_RUNS:  # before any is made
        raise UserError(f"That would be {count:,} arms, each with its seeds", ", ".join(keys), FEWER)
    points = _one_at_a_time if one_at_a_time else product
    settings = [_overrides(keys, values) for values in points(*(values for _, values in axes))]
    return [_arm(recipe, overrides, sets, named, read) for recipe in recipes for overrides in settings]


def split_recipes(given: Iterable[str]) -> list[str]:
    """`--recipe a,b --recipe c` as [a, b, c]."""
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _axis(text: str, where: str) -> tuple[str, list[str]]:
    key, equals, listed = text.partition("=")
    values = [value.strip() for value in _COMMA.split(listed)]
    if not equals or not key.strip() or not all(values):
        raise UserError("A varied key takes values: KEY=a,b", where, "For example --vary optim.lr=1e-6,2e-6.")
    if len(set(values)) < len(values):
        raise UserError("A value is given twice", where, "Name each value once; --seeds repeats runs.")
    return key.strip(), values


def _one_at_a_time(*axes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    base = tuple(values[0] for values in axes)
    yield base
    for i, values in enumerate(axes):
        yield from ((*base[:i], value, *base[i + 1 :]) for value in values[1:])


def _overrides(keys: Iterable[str], values: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))


def _arm(
    recipe: str,
    overrides: tuple[str, ...],
    sets: Sequence[str],
    named: bool,
    read: Callable[[str, Sequence[str]], Recipe],
) -> Arm:
    parts = [find_recipe(recipe).stem] if named else []
    name = " ".join([*parts, *(override.removeprefix("method.") for override in overrides)])
    return Arm(name, overrides, read(recipe, [*sets, *overrides]))


def make_cells(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that a sweep that is stopped early has pairs to compare."""
    return [Cell(arm.name, seed) for seed in seeds for arm in arms]


def check_size(arms: Sequence[Arm], first_seed: int, seeds: int, match: Match = TOKENS) -> None:
    """UserError, with the price, for a sweep that nobody means, and for seeds beyond what a recipe takes."""
    runs, budget = len(arms) * seeds, match.of(arms[0].recipe) or 0
    if runs > MOST_RUNS:
        each = f"{len(arms):,} arms x {seeds:,} seeds = {runs:,} runs"
        raise UserError(f"{each} of {budget:,} {match.unit}: {runs * budget:,} in all", f"--seeds {seeds}", FEWER)
    if first_seed + seeds - 1 > LARGEST:
        where = f"seed: {first_seed}, --seeds {seeds}"
        raise UserError(f"The last seed would be over {LARGEST:,}", where, "Begin with a smaller seed.")


def check_arms(arms: Sequence[Arm], match: Match = TOKENS) -> None:
    """UserError when arms cannot be told apart, evaluate nothing, have no limit by which they are matched or another
    one beside it, or do not share what makes them comparable (`shared_keys`, and that limit). A key of it that is
    varied on purpose may differ, but not the limit, the problems, how they are graded and how answers are sampled.
    """
    stems = [arm.file_stem for arm in arms]
    if twice := [arm.name for arm in arms if stems.count(arm.file_stem) > 1]:
        fix = "Arms are named after their recipe's file: leave one out, or copy its file under another name."
        raise UserError(f"Two arms are called '{twice[0]}'", "--recipe", fix)
    if any(benchmark_of(arm.recipe) is None for arm in arms):
        fix = "Name problems in task.test, the same for all arms."
        raise UserError("The recipe evaluates nothing, so there is nothing to compare", "task.test", fix)
    for arm in arms:
        if match.of(arm.recipe) is None:
            what = f"Arms are compared at equal {match.unit} and '{arm.name}' has no budget of them"
            raise UserError(what, match.key, f"Give one, for example --set {match.key}={match.example}.")
        if ends := [key for key in match.freed if _optim(arm.recipe, key) is not None]:
            what = f"Arms are compared at equal {match.unit}, and '{arm.name}' may end before that, by {ends[0]}"
            raise UserError(what, ends[0], f"Leave it out: --match {match.name} of a new sweep does.")
    for arm in arms[1:]:
        _check_pair(arms[0], arm, match)


def _check_pair(first: Arm, other: Arm, match: Match) -> None:
    theirs, ours = ({**shared_keys(r), match.key: match.of(r)} for r in (first.recipe, other.recipe))
    varied = {override.partition("=")[0] for override in (*first.overrides, *other.overrides)}
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key) and (key == match.key or not _is_varied(key, varied)):
            what = f"Arms '{first.name}' and '{other.name}' differ in {key}: {theirs.get(key)} and {ours.get(key)}"
            raise UserError(what, key, "Arms are compared under one model, evaluation and budget: give both the same.")


def _is_varied(key: str, varied: Iterable[str]) -> bool:
    fixed = key.startswith(("eval.", "task.test", "task.grading", *(f"task.{name}" for name in PROBLEMS)))
    return not fixed and any(key == name or key.startswith(f"{name}.") for name in varied)
