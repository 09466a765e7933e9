"""What a report is about: a sweep (or several, as one), or runs. A study can give a `Subject` of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.grid import TOKENS, Arm
from scrpo_cli.ablation.outcomes import RunOutcome, read_outcome
from scrpo_cli.ablation.study import Study, StudyArm, find_study, read_study
from scrpo_cli.ablation.sweep import COMMAND, Sweep, done_runs, find_sweep, sweep_of_study
from scrpo_cli.ablation.table import SweepResult, read_result
from scrpo_cli.ablation.tuning import read_trials
from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.held_out import warnings
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.files import file_stem
from scrpo_cli.jobs.compare import adjusted, changes_by_training, compare_runs
from scrpo_cli.numbers import NOTHING, estimate, in_points, p_equals, p_value, percent, points
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StoredEvaluation, evaluations_of, resolve_run
from scrpo_cli.recipe.load import STUDIES, recipe_json, stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.report.tables import Sheet, findings, sheets_of, tuning
from scrpo_cli.section import Section

TRAIN = "train"
STUDY_FILE = "study.yaml"
LONGEST_TITLE = 90
"""Characters."""


@dataclass(frozen=True)
class Subject:
    """`asked` and `found` are sentences, `notes` what a reader has to know beside the numbers; `runs` are those whose
    attempts, pools and warnings are shown, `outcomes` those that have curves; `files`: recipes, and a study, by name;
    `commands` remake it all from these files.
    """

    title: str
    asked: Sequence[str]
    found: Sequence[str]
    notes: Sequence[str]
    protocol: Mapping[str, str]
    sheets: Sequence[Sheet]
    runs: Sequence[RunRow]
    files: Mapping[str, Section] = field(default_factory=dict)
    commands: Sequence[str] = ()
    result: SweepResult | None = None
    outcomes: Sequence[RunOutcome] = ()
    has_arms: bool = False
    """Whether runs are seeds of arms; else each stands for itself."""

    def name_of(self, run: RunRow) -> str:
        """What a run counts as in figures: its arm, or itself."""
        return (self.has_arms and run.arm) or run.id


def find_subject(db: Database, refs: Sequence[str], question: Question | None = None) -> Subject:
    """The sweeps or runs that `refs` name. UserError for both together, and for a question about runs."""
    rows = [row_of(db, ref) for ref in dict.fromkeys(refs)]
    sweeps = [row for row in rows if row.command == COMMAND]
    if sweeps and len(sweeps) < len(rows):
        what = "A report is about sweeps or about runs, not about both"
        raise UserError(what, ", ".join(refs), "Write one report of each.")
    if sweeps:
        return of_sweeps(db, [find_sweep(db, row.id) for row in sweeps], question or question_of(sweeps[0]))
    if question is not None:
        fix = "Drop these options: each run is compared with the first one."
        raise UserError("Arms are those of a sweep, and this is a report of runs", "--against, --pairs, --margin", fix)
    return of_runs(db, rows)


def row_of(db: Database, ref: str) -> RunRow:
    """A run, a sweep, or the newest sweep of a study; where the `last` run is one of a sweep, the sweep."""
    if ref.startswith(STUDIES) or Path(ref).suffix in (".yaml", ".yml"):
        sweep = sweep_of_study(db, read_study(find_study(ref)))
        if sweep is None:
            what = "No sweep of this study, as its file is now, is in the database"
            fix = f"Begin one with `scrpo ablate --study {ref}`, or name a sweep by its id."
            raise UserError(what, f"{db.where}: {ref}", fix)
        ref = sweep.id
    row = resolve_run(db, ref)
    return resolve_run(db, row.sweep) if ref == "last" and row.arm and row.sweep else row


def question_of(row: RunRow) -> Question:
    """What the sweep was asked when it was made, as far as its row says."""
    asked = json.loads(row.summary_json).get("question") or {}
    return Question(asked.get("against", ""), tuple(asked.get("pairs", ())), asked.get("margin"))


# -- sweeps ------------------------------------------------------------------------------------------------------------


def of_sweeps(db: Database, sweeps: Sequence[Sweep], question: Question) -> Subject:
    """The arms of all of them together. A tuning sweep compares no arms: it has the settings that were tried."""
    runs = [run for sweep in sweeps for run in done_runs(db, sweep)]
    if not runs:
        again = db.command("ablate", "--resume", sweeps[0].id)
        raise UserError("No run of the sweep is done", f"sweep {sweeps[0].id}", f"Continue with `{again}`.")
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    result, sheets, outcomes = None, [], [read_outcome(db, run) for run in runs]
    if all(sweep.bases for sweep in sweeps):
        tried = tuning([trial for sweep in sweeps for trial in read_trials(db, sweep)])
        sheets = [tried] if tried else []
    else:
        result, outcomes = read_result(db, sweeps, question)
        sheets = sheets_of(result) if result else []
    files, commands = repeated(db, sweeps, question)
    return Subject(
        title=title_of([arm.name for arm in arms]),
        asked=asked_of_sweeps(sweeps, len(runs), bool(result)),
        found=findings(result) if result else [],
        notes=result.notes if result else [],
        protocol=protocol_of(arms[0].recipe, runs[0]) | {"sweep": ", ".join(sweep.id for sweep in sweeps)},
        sheets=sheets,
        runs=runs,
        files=files,
        commands=commands,
        result=result,
        outcomes=outcomes,
        has_arms=True,
    )


def title_of(arms: Sequence[str]) -> str:
    """The arms, or how many where that is long."""
    names = ", ".join(arms)
    return names if len(names) <= LONGEST_TITLE else f"A sweep of {len(arms)} arms"


def asked_of_sweeps(sweeps: Sequence[Sweep], done: int, compared: bool) -> list[str]:
    """The question in sentences."""
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    first, seeds = arms[0].recipe, sweeps[0].seeds
    keys = list(dict.fromkeys(override.partition("=")[0] for arm in arms for override in arm.overrides))
    what = f"What difference does {' and '.join(keys)} make" if keys else "How do these recipes compare"
    if not compared:
        what = "Which setting of each recipe answers most validation problems"
    question = f"{what}, for the model {first.model.name} on the task {first.task.name}?"
    if sweeps[0].study and len(sweeps) == 1:
        question = sweeps[0].study.question
    every = {len(sweep.seeds) for sweep in sweeps}
    count = f"{len(seeds)}" if len(every) == 1 else f"{min(every)} to {max(every)}"
    cells = sum(len(sweep.cells) for sweep in sweeps)
    return [
        question,
        f"{len(arms)} arms were trained with {count} seed{'s' * (count != '1')} each, every run with a budget of "
        f"{sweeps[0].budget:,} {sweeps[0].match.unit}; {done} of {cells} runs are done.",
    ]


def without_group(recipe: Recipe, sweeps: Sequence[Sweep]) -> Recipe:
    """The recipe as it was before its runs were grouped under the sweep's id in W&B."""
    wandb = recipe.tracking.wandb
    if wandb.group not in {sweep.id for sweep in sweeps}:
        return recipe
    ungrouped = recipe.tracking.model_copy(update={"wandb": wandb.model_copy(update={"group": None})})
    return recipe.model_copy(update={"tracking": ungrouped})


Again = tuple[Mapping[str, Section], list[str]]
"""Files, and the commands that make runs again from them."""


def repeated(db: Database, sweeps: Sequence[Sweep], question: Question) -> Again:
    """Sweeps that one command can make, by one; others each by its own."""
    recipes = [{f"{arm.file_stem}.yaml": without_group(arm.recipe, sweeps) for arm in sweep.arms} for sweep in sweeps]
    plain = all(not (sweep.fork or sweep.study or sweep.bases) for sweep in sweeps)
    if len(sweeps) > 1 and plain and len({(tuple(sweep.seeds), sweep.match) for sweep in sweeps}) == 1:
        return ablation_again(sweeps[0], {file: recipe for each in recipes for file, recipe in each.items()}, question)
    alone = question if len(sweeps) == 1 else Question()  # arms that are compared may be another sweep's
    studies = [STUDY_FILE] if len(sweeps) == 1 else [f"study-{sweep.id}.yaml" for sweep in sweeps]
    parts = [sweep_again(db, *each, alone) for each in zip(sweeps, recipes, studies, strict=True)]
    files = {name: file for found, _ in parts for name, file in found.items()}
    return files, [command for _, commands in parts for command in commands]


def sweep_again(db: Database, sweep: Sweep, recipes: Mapping[str, Recipe], study: str, question: Question) -> Again:
    """`study`: the file of its study, if it is one."""
    if fork := sweep.fork:
        forks = [fork_command(fork.of, fork.at, file, seed) for file in recipes for seed in sweep.seeds]
        left = runs_left(db, [fork.of])
        return {**left, **recipes}, [*map(train_command, left), *forks]
    if sweep.study:
        return study_again(sweep.study, sweep.arms, recipes, study)
    return as_one_recipe(sweep, recipes, question) or ablation_again(sweep, recipes, question)


def ablation_again(sweep: Sweep, recipes: Mapping[str, Recipe], question: Question) -> Again:
    """All recipes as arms, over the seeds of the sweep."""
    named = [word for file in recipes for word in ("--recipe", file)]
    seeds = ["--set", f"seed={sweep.seeds[0]}", "--seeds", str(len(sweep.seeds)), *matched(sweep), *question.words]
    return recipes, [shlex.join(["scrpo", "ablate", *named, *seeds])]


def matched(sweep: Sweep) -> list[str]:
    return [] if sweep.match == TOKENS else ["--match", sweep.match.name]


def study_again(study: Study, arms: Sequence[Arm], recipes: Mapping[str, Recipe], file: str) -> Again:
    """The study with the resolved recipes of its arms."""
    of_arms = {arm.name: StudyArm(recipe=file) for arm, file in zip(arms, recipes, strict=True)}
    whole = study.model_copy(update={"recipe": None, "set": {}, "arms": of_arms})
    return {file: whole, **recipes}, [shlex.join(["scrpo", "ablate", "--study", file])]


def runs_left(db: Database, ids: Iterable[str]) -> dict[str, Recipe]:
    """The recipes of the runs that forks go on from: whoever makes a fork again makes such a run first."""
    rows = [resolve_run(db, of) for of in dict.fromkeys(ids)]
    return {f"{row.id}.yaml": stored_recipe(row.recipe_json, row.origin) for row in rows}


def fork_command(of: str, at: int, file: str, seed: int) -> str:
    return shlex.join(["scrpo", "fork", of, "--at", str(at), "--recipe", file, "--seed", str(seed)])


def train_command(file: str) -> str:
    return shlex.join(["scrpo", "train", "--recipe", file])


def as_one_recipe(sweep: Sweep, recipes: Mapping[str, Recipe], question: Question) -> Again | None:
    """One file and the keys that are varied, where that makes the very same arms; else None."""
    base, *_ = recipes.values()
    axes: dict[str, dict[str, None]] = {}
    for arm in sweep.arms:
        for override in arm.overrides:
            key, _, value = override.partition("=")
            axes.setdefault(key, {})[value] = None
    grid = [tuple(f"{k}={v}" for k, v in zip(axes, values, strict=True)) for values in product(*axes.values())]
    if not axes or grid != [arm.overrides for arm in sweep.arms]:
        return None
    made = (stored_recipe(recipe_json(base), "report", arm.overrides) for arm in sweep.arms)
    if any(one != other for one, other in zip(made, recipes.values(), strict=True)):
        return None
    file = f"{file_stem(base.name)}.yaml"
    varied = [word for key, values in axes.items() for word in ("--vary", f"{key}={','.join(values)}")]
    seeds = ["--seeds", str(len(sweep.seeds)), *matched(sweep), *question.words]
    return {file: base}, [shlex.join(["scrpo", "ablate", "--recipe", file, *varied, *seeds])]


# -- runs --------------------------------------------------------------------------------------------------------------


def of_runs(db: Database, rows: Sequence[RunRow]) -> Subject:
    """Runs beside each other: what each scored, before and after training, and each against the first."""
    recipes = {row.id: stored_recipe(row.recipe_json, row.origin) for row in rows if '"task"' in row.recipe_json}
    files = {f"{file_stem(recipe.name)}-{run}.yaml": recipe for run, recipe in recipes.items()}
    changes = changes_of(db, rows)
    forks = {row.id: fork for row in with_recipe(rows) if (fork := json.loads(row.summary_json).get("fork"))}
    left = runs_left(db, (fork["of"] for fork in forks.values() if fork["of"] not in recipes))
    commands = [*map(train_command, left)]
    for row, file in zip(with_recipe(rows), files, strict=True):
        again = shlex.join(["scrpo", row.command, "--recipe", file])
        fork = forks.get(row.id)
        commands.append(fork_command(fork["of"], fork["at"], file, row.seed) if fork else again)
    sheets = [sheet for sheet in (evaluations_sheet(db, rows), changes_sheet(changes)) if sheet]
    trained = [replace_arm(row) for row in rows if row.command == TRAIN]
    first = next(iter(recipes.values()), None)
    return Subject(
        title=", ".join(f"{row.recipe_name or row.command} {row.id}" for row in rows[:3]),
        asked=[asked_of_run(row, recipes.get(row.id)) for row in rows],
        found=[f"{what}: {in_points(n)}, {p_equals(n['p_holm'])}: {n['verdict']}." for what, n in changes],
        notes=[note for _, change in changes for note in change["warnings"]],
        protocol=protocol_of(first, rows[0]) if first else {},
        sheets=sheets,
        runs=rows,
        files=files | left,
        commands=commands,
        outcomes=[read_outcome(db, row) for row in trained],
    )


def with_recipe(rows: Sequence[RunRow]) -> list[RunRow]:
    return [row for row in rows if '"task"' in row.recipe_json]


def replace_arm(row: RunRow) -> RunRow:
    """Runs that are no arms are told apart by their ids."""
    return row.model_copy(update={"arm": row.id})


def asked_of_run(row: RunRow, recipe: Recipe | None) -> str:
    """What a run did, in a sentence."""
    if recipe is None:
        return f"Run {row.id} is a scrpo {row.command}, {row.status}."
    what = f"method {recipe.method.name}, model {row.model}, task {recipe.task.name}, seed {row.seed}"
    return f"Run {row.id} is a scrpo {row.command} of the recipe {row.recipe_name} ({what}), {row.status}."


def changes_of(db: Database, rows: Sequence[RunRow]) -> list[tuple[str, dict[str, Any]]]:
    """Each training run after less before, then each run less the first, where there is something to compare."""
    found = []
    for row in rows:
        changes = adjusted(changes_by_training(db, row.id)) if row.command == TRAIN else {}
        found += [(f"{row.id}, {name}: after less before training", change) for name, change in changes.items()]
    for row in rows[1:]:
        try:
            changes = compare_runs(db, row.id, rows[0].id)
        except UserError:  # they share no scored problem
            continue
        found += [(f"{row.id} less {rows[0].id}, {name}", change) for name, change in changes.items()]
    return found


def changes_sheet(changes: Sequence[tuple[str, Mapping[str, Any]]]) -> Sheet | None:
    """The paired differences of first answers."""
    if not changes:
        return None
    numbers = [number for _, number in changes]
    columns = {
        "compared": [what for what, _ in changes],
        "problems": [str(n["n"]) for n in numbers],
        "a": [percent(n["a"]) for n in numbers],
        "b": [percent(n["b"]) for n in numbers],
        "b - a": [points(n["difference"], n["ci95"]) for n in numbers],
        "p": [p_value(n["p"]) for n in numbers],
        "p, corrected": [p_value(n["p_holm"]) for n in numbers],
        "verdict": [n["verdict"] for n in numbers],
    }
    title = "paired differences of first answers, in points; 95% intervals, clustered by problem"
    return Sheet("changes", title, columns, notes=["p is corrected for the benchmarks of one comparison (Holm)."])


def in_time(evaluations: Sequence[StoredEvaluation]) -> list[StoredEvaluation]:
    """Those that have numbers, as a run went on."""
    return sorted((e for e in evaluations if e.metrics.get("avg") is not None), key=lambda e: (e.step, e.name))


def evaluations_sheet(db: Database, rows: Sequence[RunRow]) -> Sheet | None:
    """Every evaluation of the runs."""
    found = [(row, e) for row in rows for e in in_time(evaluations_of(db, row.id))]
    if not found:
        return None
    metrics = [e.metrics for _, e in found]
    columns = {
        "run": [row.id for row, _ in found],
        "evaluation": [e.name for _, e in found],
        "step": [str(e.step) for _, e in found],
        "problems x samples": [f"{m['n']} x {m['samples']}" if "n" in m else NOTHING for m in metrics],
        "first answers": [percent(m["avg"], m.get("ci95")) for m in metrics],
        "repairs of wrong ones": [estimate(m.get("repair_rate")) for m in metrics],
    }
    if any("t2" in m for m in metrics):
        columns |= {"second answers": [estimate(m.get("t2")) for m in metrics]}
        deltas = [m.get("delta") or {"value": None, "ci95": None} for m in metrics]
        columns |= {"second - first": [points(d["value"], d["ci95"]) for d in deltas]}
    return Sheet("evaluations", "accuracy; 95% intervals, clustered by problem", columns)


# -- how it was made ---------------------------------------------------------------------------------------------------


def protocol_of(recipe: Recipe, run: RunRow) -> dict[str, str]:
    """How the numbers were made, as pairs for a reader; the recipe has all of it."""
    protocol, problems = Protocol.of(recipe), recipe.task.test or recipe.task.validation
    turns = f"{protocol.turns} turns ({protocol.second_turn})" if protocol.turns > 1 else "1 turn"
    found = {
        "model": " ".join(filter(None, (recipe.model.name, recipe.model.revision, recipe.model.adapter))),
        "task": recipe.task.name,
        "training problems": described(recipe.task.train),
        "evaluated problems": described(problems) if problems else "none",
        "answers to each": f"{protocol.samples} at temperature {protocol.temperature:g}, top-p {protocol.top_p:g}, "
        f"at most {protocol.max_tokens:,} tokens; {turns}",
        "repairs": "each wrong first answer is shown to the model once" if protocol.repair else "not asked for",
        "intervals": "95%, over problems with their samples; where seeds are enough, also over problems and seeds",
        "tests": "paired by problem, corrected for the number of comparisons (Holm)",
        "made by": " ".join(filter(None, ("scrpo", run.scrpo_version, run.git_commit))),
    }
    contamination = json.loads(run.summary_json).get("contamination")
    return found | ({"among the training problems": said_contamination(contamination)} if contamination else {})


def described(cfg: Any) -> str:
    """`math, split test, the first 100`"""
    limit = f", the first {cfg.limit:,}" if cfg.limit else ""
    return f"{cfg.source}, split {cfg.split}{limit}"


def said_contamination(found: Mapping[str, Any]) -> str:
    """Whether evaluated problems were among the training problems, of each set."""
    if lines := warnings(found):
        return " ".join(lines)
    checked = {name: each.get("reason") or f"0 of {each['problems']} problems" for name, each in found["sets"].items()}
    return "; ".join(f"{name}: {said}" for name, said in checked.items())
