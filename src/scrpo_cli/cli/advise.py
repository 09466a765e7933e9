"""`scrpo advise`: whether reflecting on errors is likely to pay for a recipe's model and problems."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    AdapterOption,
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    named,
    refuse_with_resume,
    sets_of,
)
from scrpo_cli.errors import UserError
from scrpo_cli.numbers import LARGEST
from scrpo_cli.tracking.activity import LIBRARIES, now

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.layout import Table
    from scrpo_cli.pool.db import Database

DEFAULT_PROBLEMS = 64
KEYS = {"--adapter": "model.adapter"}
WORDS = "--reflection-words"


def advise(
    context: typer.Context,
    recipe: RecipeOption = None,
    problems: Annotated[
        int | None,
        typer.Option(
            "--problems",
            min=2,
            max=LARGEST,
            metavar="N",
            show_default=str(DEFAULT_PROBLEMS),
            help="Training problems to sample, rollout.group_size answers each.",
        ),
    ] = None,
    reflection_words: Annotated[
        str | None,
        typer.Option(
            WORDS,
            metavar="W,W",
            show_default="check,wait,verify,...",
            help="Words or phrases by which an answer checks itself.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Sample first answers and reflections on their errors; say whether reflecting is likely to pay, and how often."""
    output = Output(json, quiet)
    options = {"problems": problems or DEFAULT_PROBLEMS, "words": split_words(reflection_words)}
    database, start = sampled_run(context, output, "advise", recipe, resume, options, db)
    with start as run:
        now().stage(f"run {run.run_id}: {LIBRARIES}")
        from scrpo_cli.jobs.advise import sample_and_advise

        asked = run.summary["problems"]
        run.summary |= sample_and_advise(database, run, output.say)
    output.result(run.summary, *closing(run.summary, asked))


def sampled_run(
    context: typer.Context,
    output: Output,
    command: str,
    recipe: str | None,
    resume: str | None,
    options: Mapping[str, Any],
    db: str | None,
) -> tuple[Database, AbstractContextManager[ActiveRun]]:
    """A new run of a command that samples from the recipe alone, with its `options`, or one that is taken up again."""
    refuse_with_resume(context, resume)
    output.begin(f"scrpo {command}: {named(resume, recipe)}")
    from scrpo_cli.recipe.load import load_recipe

    resolved = load_recipe(recipe or DEFAULT_RECIPE, sets_of(context, KEYS))
    from scrpo_cli.jobs.checks import check_sampling
    from scrpo_cli.jobs.runs import resumed_run, started_run
    from scrpo_cli.pool.db import Database

    if resume is None:
        check_sampling(resolved)
    database = Database.open(db)
    if resume:
        return database, resumed_run(database, command, resume)
    return database, started_run(database, command, resolved, summary=dict(options))


def split_words(given: str | None) -> list[str] | None:
    """The words of `W,W`; None where the user names none."""
    if given is None:
        return None
    words = [word.strip() for word in given.split(",")]
    if not all(words):
        raise UserError("A word is empty.", f"{WORDS} {given}", "For example wait,let me check.")
    return words


def closing(found: Mapping[str, Any], asked: int) -> list[RenderableType]:
    from scrpo_cli.layout import Prose

    advice = found["advice"]
    return [table(found), *map(Prose, [*in_words(found), "", headline(advice["verdict"]), *what_to_do(advice, asked)])]


def table(found: Mapping[str, Any]) -> Table:
    from scrpo_cli.layout import Column, Table
    from scrpo_cli.numbers import NOTHING, estimate

    kinds = [found["first"], found["reflection"]]
    title = f"{found['problems']} problems, {found['shown']} errors shown; 95% intervals, clustered by problem"
    shown = Table(Column("", "words"), "first answers", "reflections", title=title)

    def add(label: str, cell: Any) -> None:
        shown.add_row(label, *(NOTHING if kind is None else cell(kind) for kind in kinds))

    add("right", lambda kind: estimate(kind["right"]))
    add("groups with signal", lambda kind: estimate(kind["signal"]))
    add("answers that check themselves", lambda kind: estimate(kind["self_checking"]))
    add("cut off at rollout.max_tokens", lambda kind: estimate(kind["truncated"]))
    add("tokens of an answer", lambda kind: number(kind["tokens"], 0))
    add("tokens of a group", lambda kind: f"{kind['group_tokens']:,.0f}")
    add("groups with signal per 1,000 tokens", lambda kind: number(kind["per_1000_tokens"], 3))
    return shown


def number(found: Mapping[str, Any], decimals: int) -> str:
    low, high = found["ci95"]
    return f"{found['value']:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def in_words(found: Mapping[str, Any]) -> list[str]:
    """What the table cannot hold: the control of the repairs, and what the pool would take."""
    from scrpo_cli.numbers import estimate, in_points

    lines = []
    if found["fresh"] is not None:
        fresh, gain = estimate(found["fresh"]), in_points(found["gain"])
        lines.append(f"a fresh try at the problem of an error is right in {fresh}; a reflection against it: {gain}")
    pool = found["pooled"]
    if pool["with_errors"]:
        share = f"{pool['kept']} of {pool['with_errors']} problems with errors ({pool['all_wrong']} with nothing else)"
        lines.append(f"the recipe's filter lets errors of {share} into the pool")
    if found["not_graded"]:
        lines.append(f"{found['not_graded']} answers could not be graded and are left out")
    return lines


HEADLINES = {
    "likely": "Reflecting on errors is likely to pay.",
    "unlikely": "Reflecting on errors is unlikely to pay.",
    "undecided": "Undecided: the sample is too small to say whether reflecting on errors pays.",
}
CONDITIONS = {
    "repairs": (
        "a reflection repairs more than a fresh try",
        "a reflection repairs no more than a fresh try",
        "whether a reflection repairs more than a fresh try",
    ),
    "transfers": (
        "first answers check themselves, so they can hold what a reflection teaches",
        "first answers hardly ever check themselves: what a reflection teaches has no place in them",
        "whether first answers check themselves",
    ),
    "cheaper": (
        "reflecting finds more groups with signal per token than practising",
        "practising finds more groups with signal per token than reflecting",
        "which of the two finds more groups with signal per token",
    ),
}
"""Of each condition: met, failed, open."""


def headline(verdict: str) -> str:
    return HEADLINES[verdict]


def what_to_do(advice: Mapping[str, Any], asked: int) -> list[str]:
    """The conditions, recipe keys that follow, what would decide, and what the rule rests on."""
    marks = {True: ("yes", 0), False: ("no", 1), None: ("open", 2)}
    lines = []
    for condition in advice["conditions"]:
        mark, which = marks[condition["met"]]
        lines.append(f"  {mark}: {CONDITIONS[condition['name']][which]}")
    if advice["keys"]:
        keys = " ".join(f"--set {key}={value}" for key, value in advice["keys"].items())
        lines.append(f"with method scrpo: {keys}")
    if advice["verdict"] == "undecided":
        more = advice["more_problems"]
        lines.append(
            f"sample more: --problems {more or 4 * asked}" + ("" if more else ", which may not decide it either")
        )
    return [*lines, advice["basis"]]
