"""`scrpo ablate`: compare recipes, or values of a key, over seeds, at equal budget."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    MarginOption,
    MeasureOption,
    Output,
    PairsOption,
    QuietOption,
    SetOption,
    given_options,
    refuse_idle,
)
from scrpo_cli.cli.sweep import COMPARED, run_sweep
from scrpo_cli.errors import UserError, nearest

if TYPE_CHECKING:
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.cost import SweepCost
    from scrpo_cli.ablation.executors.base import Executor
    from scrpo_cli.ablation.grid import Arm, Match
    from scrpo_cli.ablation.study import Study
    from scrpo_cli.ablation.sweep import Sweep
    from scrpo_cli.pool.db import Database

EXECUTORS = ("local", "packed", "slurm", "ray")
NEW_ARMS = ("--reflect-every", "--vary", "--one-at-a-time", "--set", "--match")
NEW_RUNS = ("--recipe", "--seeds")
"""Options that say what a sweep consists of."""
STARTS = {
    "--resume": (*NEW_RUNS, *NEW_ARMS, "--own-files"),
    "--extend": ("--own-files",),
    "--tune": (*NEW_RUNS, "--reflect-every", "--vary", "--one-at-a-time", "--match", *COMPARED),
    "--race": ("--recipe", *NEW_ARMS),
    "--fork-from": ("--recipe",),
    "--study": (*NEW_RUNS, "--reflect-every", "--vary", "--one-at-a-time", "--match", *COMPARED),
}
"""Options that say where a sweep comes from, and what stands beside none of them."""
KEPT = {
    "--extend": ("Each run of a sweep writes as its first ones did.", "A new sweep may have files of its own."),
    "--resume": ("A resumed sweep keeps the recipes and options of its start.", "`--extend` adds arms and seeds."),
    "--tune": (
        "The plan says which recipes, keys and seeds a tuning sweep has; it compares no arms.",
        "Write the plan.",
    ),
    "--race": ("A race takes recipes and settings from its tuning sweep.", "Tune with a plan that has them."),
    "--study": ("A study says which arms and seeds it has, and what is compared.", "Write that into its file."),
    "--fork-from": ("Forks have the recipe of the run that they leave.", "--set and --vary change its keys."),
}
OF_OLD_RUNS = ("--resume", "--extend", "--race", "--fork-from")
PACKAGES = {"slurm": "submitit", "ray": "ray"}
"""Of executors that need one which is not always installed."""

RecipesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="R",
        autocompletion=completion.several(completion.recipes),
        show_default=DEFAULT_RECIPE,
        help="A shipped recipe or a YAML file; several, or `a,b`, are arms.",
    ),
]

ReflectOption = Annotated[
    str | None, typer.Option("--reflect-every", metavar="N,M,never", help="Arms: a reflection step after every N.")
]
VaryOption = Annotated[
    list[str] | None, typer.Option("--vary", metavar="K=a,b", help="Arms: values of a recipe key; repeat for a grid.")
]

DEFAULT_SEEDS = 2
MOST_JOBS = 256
"""Processes on one machine, each with a model of its own."""
SeedsOption = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        metavar="N",
        show_default=str(DEFAULT_SEEDS),
        help="Runs of each arm, from the recipe's seed on.",
    ),
]

OneAtATimeOption = Annotated[
    bool, typer.Option("--one-at-a-time", help="Not the whole grid: the first values, and each other one alone.")
]
MatchOption = Annotated[
    str,
    typer.Option(
        "--match",
        metavar="WHAT",
        autocompletion=completion.among("tokens", "steps", "seconds"),
        help="What runs spend alike: generated tokens, steps, or seconds of training.",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        max=MOST_JOBS,
        metavar="N",
        show_default="as many as there are GPUs, else cores and memory, for",
        help="Runs at a time.",
    ),
]
GpusPerRunOption = Annotated[
    int | None,
    typer.Option(
        "--gpus-per-run",
        min=0,
        max=MOST_JOBS,
        metavar="N",
        show_default="1 where there are any",
        help="GPUs of each run, with a process for each; 0 lets runs share all.",
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        autocompletion=completion.among(*EXECUTORS),
        help="Where runs run: local, packed (in one process), slurm or ray.",
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="K=V", help="An option of sbatch, e.g. partition=gpu; repeat."),
]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Of a Ray cluster; else this machine.")
]
OwnFilesOption = Annotated[
    bool,
    typer.Option("--own-files", help="Each run writes a database file of its own, which is merged when it ends."),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="SWEEP",
        autocompletion=completion.sweeps,
        help="Run what is missing: an id, a prefix or `last`.",
    ),
]
ExtendOption = Annotated[
    str | None,
    typer.Option(
        "--extend",
        metavar="SWEEP",
        autocompletion=completion.sweeps,
        help="Add arms (--recipe) or seeds (--seeds), and run.",
    ),
]
TuneOption = Annotated[
    Path | None,
    typer.Option("--tune", metavar="PLAN", help="Choose a setting of each recipe of a plan, on task.validation."),
]
RaceOption = Annotated[
    str | None,
    typer.Option(
        "--race",
        metavar="SWEEP",
        autocompletion=completion.sweeps,
        help="Arms: the settings that a tuning sweep chose, on fresh seeds.",
    ),
]
ForkFromOption = Annotated[
    str | None,
    typer.Option(
        "--fork-from",
        metavar="RUN",
        autocompletion=completion.runs,
        help="Arms go on from a checkpoint of RUN, under its recipe.",
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="FILE",
        autocompletion=completion.studies,
        help="Claims about arms: seeds are added until they are told, or `studies/NAME`.",
    ),
]
AtOption = Annotated[
    int | None, typer.Option("--at", min=1, metavar="STEP", help="With --fork-from: of which checkpoint.")
]
AgainstOption = Annotated[
    str | None,
    typer.Option("--against", metavar="ARM", help="The arm that the others are compared with; else the first."),
]


def ablate(
    context: typer.Context,
    recipe: RecipesOption = None,
    reflect_every: ReflectOption = None,
    vary: VaryOption = None,
    one_at_a_time: OneAtATimeOption = False,
    match: MatchOption = "tokens",
    seeds: SeedsOption = None,
    jobs: JobsOption = None,
    gpus_per_run: GpusPerRunOption = None,
    executor: ExecutorOption = "local",
    slurm: SlurmOption = None,
    ray_address: RayAddressOption = None,
    own_files: OwnFilesOption = False,
    resume: ResumeOption = None,
    extend: ExtendOption = None,
    tune: TuneOption = None,
    race: RaceOption = None,
    study: StudyOption = None,
    fork_from: ForkFromOption = None,
    at: AtOption = None,
    against: AgainstOption = None,
    pairs: PairsOption = None,
    margin: MarginOption = None,
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it will cost; nothing runs.")] = False,
    measure: MeasureOption = False,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Recipes or values of a key, over seeds, at equal generated tokens: intervals, paired differences, a plot."""
    output = Output(json, quiet)
    place = Place(executor, jobs, gpus_per_run, tuple(slurm or ()), ray_address)
    refuse_options(context)
    ref = resume or extend
    output.begin("scrpo ablate: " + (f"sweep {ref or race}" if ref or race else "checking the arms"))
    place.check(context)
    from scrpo_cli.ablation.comparisons import Question
    from scrpo_cli.ablation.plan import read_settings
    from scrpo_cli.ablation.sweep import find_sweep, start_sweep, with_own_files
    from scrpo_cli.ablation.tuning import start_race, start_tuning
    from scrpo_cli.jobs.checks import check_trainings
    from scrpo_cli.pool.db import Database

    question = Question.of(against, pairs, margin)
    settings = read_settings(tune, set_ or ()) if tune else None
    asked = StudyArms.read(study, set_ or ()) if study else None
    varied = Varied(tuple(recipe or ()), reflect_every, tuple(vary or ()), tuple(set_ or ()), one_at_a_time, match)
    arms = asked.arms if asked else [] if resume or tune or race or fork_from else varied.arms(extend)
    if arms and extend is None:
        question.check([arm.name for arm in arms])
    trials = settings.trials if settings else arms
    place.check_arms(trials, match)
    count = seeds or DEFAULT_SEEDS
    runs = (settings.seeds, settings.seeds) if settings else asked.study.runs if asked else (count, count)
    if dry_run:
        show_cost(trials, runs, place.at_once(trials, match), measure, output)
        return
    with Database.open(db, create=ref is None and race is None and fork_from is None) as database:
        check_trainings(database, [arm.recipe for arm in arms])
        cost = known_cost(trials, runs) if trials and not ref else None  # of a broken adapter, before there is a sweep
        if ref:
            sweep = find_sweep(database, ref)
        elif settings:
            sweep = start_tuning(database, settings)
        elif race:
            sweep = start_race(database, race, count, question)
        elif asked:
            asked.announce(output)
            sweep = start_sweep(database, arms, asked.study.seeds.first, study=asked.study)
        elif fork_from and at:
            sweep = varied.forks(database, fork_from, at, count, question)
        else:
            sweep = start_sweep(database, arms, count, match=varied.match)
        if own_files:
            sweep = with_own_files(sweep)
        if not ref:
            say_cost(cost or known_cost(sweep.arms, (len(sweep.seeds),) * 2), sweep.directory, output)
        place.check_arms([*sweep.arms, *arms], sweep.match.name)
        more = (arms, seeds) if extend is not None else None
        report = run_sweep(database, sweep, more, question, place.executor(sweep, output), place.words, db, output)
    if report:
        output.result({"sweep": sweep.id, "directory": str(sweep.directory), **report.answer}, report.tables)


def show_cost(arms: Sequence[Arm], seeds: tuple[int, int], jobs: int, measured: bool, output: Output) -> None:
    from scrpo_cli.ablation.cost import cost_of, render

    cost = cost_of(arms, seeds, jobs, measured)
    output.result(cost.as_dict(), *render(cost))


def known_cost(arms: Sequence[Arm], seeds: tuple[int, int]) -> SweepCost:
    """Without a measurement."""
    from scrpo_cli.ablation.cost import cost_of  # loads torch, which no mistyped name should wait for

    return cost_of(arms, seeds)


def say_cost(cost: SweepCost, folder: Path, output: Output) -> None:
    """Before anything runs: tokens and disk of all runs, and whether there is as much."""
    from scrpo_cli.ablation.cost import over_the_disk, whole

    for line in (whole(cost), over_the_disk(cost, folder)):
        if line:
            output.say(line)


def refuse_options(context: typer.Context) -> None:
    """UserError for what cannot stand beside --resume, --tune or --race, and for an --extend that adds nothing."""
    given = given_options(context)
    starts = [name for name in STARTS if name in given]
    if len(starts) > 1:
        raise UserError(f"{' and '.join(starts)} exclude each other", "scrpo ablate", "Give one of them.")
    for start in starts:
        if extra := [name for name in given if name in STARTS[start]]:
            what, fix = KEPT[start]
            raise UserError(what, f"{start} {given[start]}", f"Drop {', '.join(extra)}. {fix}")
    if "--extend" in given and "--recipe" not in given:
        if extra := [name for name in given if name in NEW_ARMS]:
            raise UserError("New arms need a recipe", ", ".join(extra), "Name it with --recipe.")
        if "--seeds" not in given:
            where = f"--extend {given['--extend']}"
            raise UserError("Nothing is added", where, "Give --recipe for arms, --seeds for seeds.")
    refuse_idle(context, {"--at": "--fork-from", "--measure": "--dry-run"})
    if "--dry-run" in given and (old := next((name for name in OF_OLD_RUNS if name in given), None)):
        what = "What a sweep will cost is told of a new one"
        raise UserError(what, f"--dry-run {old} {given[old]}", "`scrpo runs show SWEEP` says what of it is done.")
    if "--fork-from" in given and "--at" not in given:
        raise UserError("From which step?", f"--fork-from {given['--fork-from']}", "Add --at STEP.")


@dataclass(frozen=True)
class Place:
    """What the command line says of where runs run."""

    name: str
    jobs: int | None
    gpus_per_run: int | None
    slurm: tuple[str, ...]
    ray_address: str | None

    def check(self, context: typer.Context) -> None:
        """UserError before anything is written: no such executor, its package is missing, options that do nothing, or
        GPUs that are not there.
        """
        if self.name not in EXECUTORS:
            raise UserError(f"There is no executor '{self.name}'", "--executor", f"One of: {', '.join(EXECUTORS)}.")
        if self.name == "slurm":
            from scrpo_cli.ablation.executors.slurm import slurm_options

            slurm_options(self.slurm)
        for option, name in (("--slurm", "slurm"), ("--ray-address", "ray")):
            if option in given_options(context) and self.name != name:
                what = f"{option} has no effect with the executor '{self.name}'."
                raise UserError(what, option, f"Add --executor {name}, or leave out {option}.")
        package = PACKAGES.get(self.name)
        if package and importlib.util.find_spec(package) is None:
            what = f"The executor '{self.name}' needs the package {package}, which is not installed."
            raise UserError(what, "--executor", f"`pip install 'scrpo-cli[{self.name}]'` brings it.")
        if self.name == "packed":
            refuse_idle(context, {}, {"--executor": (("--gpus-per-run",), "packed runs share one process")})
        if self.name == "local":
            from scrpo_cli.ablation.executors.local import gpu_slots

            gpu_slots(self.gpus_per_run, self.jobs)

    def check_arms(self, arms: Sequence[Arm], match: str) -> None:
        """UserError where these arms cannot run here."""
        if self.name != "packed":
            return
        from scrpo_cli.recipe.shared import check_packed

        if match == "seconds":
            what = "Packed runs are not matched by seconds: what one has sampled, another may have for nothing."
            raise UserError(what, "--match seconds", "Match tokens or steps, or take another executor.")
        check_packed([arm.recipe for arm in arms])

    @property
    def words(self) -> list[str]:
        """As options, for the command that goes on with the sweep."""
        given: list[tuple[str, object]] = [("--executor", self.name if self.name != "local" else None)]
        given += [("--jobs", self.jobs), ("--gpus-per-run", self.gpus_per_run), ("--ray-address", self.ray_address)]
        given += [("--slurm", each) for each in self.slurm]
        return [word for option, value in given if value is not None for word in (option, str(value))]

    def at_once(self, arms: Sequence[Arm], match: str) -> int:
        """How many runs work at the same time. The packed take turns; where seconds are matched, cores are not shared
        unless the user says so.
        """
        if self.name != "local":
            return 1 if self.name == "packed" else self.jobs or 1
        return self.local_slots(arms, match)[1]

    def local_slots(self, arms: Sequence[Arm], match: str) -> tuple[list[str], int]:
        """The GPUs of each slot of this machine, and how many runs work at the same time."""
        from scrpo_cli.ablation.executors.local import gpu_slots, runs_at_once

        slots, jobs = gpu_slots(self.gpus_per_run, self.jobs)
        return slots, jobs or (1 if match == "seconds" else runs_at_once(arm.recipe for arm in arms))

    def executor(self, sweep: Sweep, output: Output) -> Executor:
        from scrpo_cli.ablation.executors.children import program_of
        from scrpo_cli.ablation.executors.slurm import SlurmExecutor, refuse_living, slurm_options

        program, folder = program_of(self.gpus_per_run), sweep.directory / "slurm"
        if self.name == "slurm":
            options = slurm_options(self.slurm)
            return SlurmExecutor(folder, options, self.jobs, self.gpus_per_run, program=program)
        refuse_living(folder)
        if self.name == "packed":
            from scrpo_cli.ablation.executors.packed import PackedExecutor

            return PackedExecutor(sweep.directory / "packed", self.jobs)
        if self.name == "ray":
            from scrpo_cli.ablation.executors.ray_tasks import RayExecutor

            return RayExecutor(self.ray_address, self.jobs, self.gpus_per_run, program)
        from scrpo_cli.ablation.executors.local import LocalExecutor

        slots, jobs = self.local_slots(sweep.arms, sweep.match.name)
        return LocalExecutor(jobs, program, say=output.say, slots=slots)


@dataclass(frozen=True)
class Varied:
    """What the command line says of new arms."""

    recipes: tuple[str, ...]
    reflect_every: str | None
    vary: tuple[str, ...]
    sets: tuple[str, ...]
    one_at_a_time: bool = False
    matched: str = "tokens"

    @property
    def match(self) -> Match:
        """What all arms spend alike. UserError for an unknown word, and for --set of what it takes away."""
        from scrpo_cli.ablation.grid import MATCHES

        if (match := MATCHES.get(self.matched)) is None:
            fix = f"{nearest(self.matched, MATCHES)} It is one of {', '.join(MATCHES)}.".strip()
            raise UserError(f"Arms are not matched by '{self.matched}'", "--match", fix)
        if idle := [key for item in self.sets if (key := item.partition("=")[0].strip()) in match.freed]:
            what = f"--set {idle[0]} has no effect: arms are matched by {match.unit}"
            raise UserError(what, f"--match {match.name}", "Leave out one of them.")
        return match

    def arms(self, extend: str | None) -> list[Arm]:
        """Of the recipes; mistakes show before anything is written."""
        from scrpo_cli.ablation.grid import check_arms, split_recipes

        recipes = split_recipes(self.recipes) or ([] if extend else [DEFAULT_RECIPE])
        if not recipes:
            return []
        named = extend is not None or len(recipes) > 1
        arms = self.make(recipes, named=named)
        check_arms(arms, self.match)
        return arms

    def make(self, recipes: Sequence[str], **how: Any) -> list[Arm]:
        from scrpo_cli.ablation.grid import make_arms

        alone = self.one_at_a_time
        sets = [*self.match.sets, *self.sets]
        return make_arms(recipes, self.reflect_every, self.vary, sets, one_at_a_time=alone, **how)

    def forks(self, database: Database, run: str, at: int, seeds: int, question: Question) -> Sweep:
        """A sweep whose runs branch from the checkpoint of step `at` of a run. Its first seed is that of the run, which
        goes on with the same draws.
        """
        from scrpo_cli.ablation.grid import check_arms
        from scrpo_cli.ablation.sweep import Fork, start_sweep
        from scrpo_cli.jobs.checks import check_trainings
        from scrpo_cli.jobs.fork import check_fork, find_branch

        branch = find_branch(database, run, at)
        arms = self.make([run], named=False, read=lambda _, sets: branch.recipe(sets))
        check_arms(arms, self.match)
        question.check([arm.name for arm in arms])
        for arm in arms:
            check_fork(branch, arm.recipe)
        check_trainings(database, [arm.recipe for arm in arms])
        return start_sweep(database, arms, seeds, fork=Fork(branch.of.id, at), match=self.match)


@dataclass(frozen=True)
class StudyArms:
    """A study file with what it comes to."""

    study: Study
    arms: list[Arm]

    @classmethod
    def read(cls, ref: str, sets: Sequence[str]) -> StudyArms:
        from scrpo_cli.ablation.study import arms_of, find_study, read_study

        path = find_study(ref)
        study = read_study(path)
        return cls(study, arms_of(study, path.parent, sets))

    def announce(self, output: Output) -> None:
        """The question, and what it takes to answer it."""
        from scrpo_cli.ablation.study import forecast

        budget = self.arms[0].recipe.optim.max_generated_tokens or 0
        for line in (self.study.question, *map(str, self.study.claims), *forecast(self.study, budget)):
            output.say(line)
