"""What a report is about: a sweep (or several, as one), or runs. A study can give a `Subject` of its own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scrpo_cli.ablation.comparisons import Question
from scrpo_cli.ablation.outcomes import RunOutcome, read_outcomes
from scrpo_cli.ablation.study import find_study, names_study, read_study
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
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.report.again import fork_command, question_of, runs_left, sweeps_again, train_command
from scrpo_cli.report.tables import Sheet, findings, sheets_of, tuning
from scrpo_cli.section import Section
from scrpo_cli.tracking.activity import now

TRAIN = "train"
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
    """The sweeps or runs that `refs` name; a study is its newest sweep. UserError for both together, and for a question
    about runs.
    """
    rows = [*{row.id: row for row in (row_of(db, ref) for ref in refs)}.values()]
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
    """A run or a sweep; where the `last` run is one of a sweep, the sweep."""
    if names_study(ref):
        return resolve_run(db, of_study(db, ref).id)
    row = resolve_run(db, ref)
    return resolve_run(db, row.sweep) if ref == "last" and row.arm and row.sweep else row


def of_study(db: Database, ref: str) -> Sweep:
    """Its newest sweep. UserError where there is none."""
    if (sweep := sweep_of_study(db, read_study(find_study(ref, ref)))) is None:
        run, ls = (db.command(*words) for words in (("ablate", "--study", ref), ("runs", "ls")))
        fix = f"`{run}` makes one. Was the study changed since? Then name its sweep by the id that `{ls}` has."
        raise UserError("No sweep of the study, as it is now, is in the database", f"{ref}, {db.where}", fix)
    return sweep


# -- sweeps ------------------------------------------------------------------------------------------------------------


def of_sweeps(db: Database, sweeps: Sequence[Sweep], question: Question) -> Subject:
    """The arms of all of them together. A tuning sweep compares no arms: it has the settings that were tried."""
    runs = [run for sweep in sweeps for run in done_runs(db, sweep)]
    if not runs:
        again = db.command("ablate", "--resume", sweeps[0].id)
        raise UserError("No run of the sweep is done", f"sweep {sweeps[0].id}", f"Continue with `{again}`.")
    arms = [arm for sweep in sweeps for arm in sweep.arms]
    result, sheets = None, []
    if all(sweep.bases for sweep in sweeps):
        outcomes = read_outcomes(db, runs)
        tried = tuning([trial for sweep in sweeps for trial in read_trials(db, sweep)])
        sheets = [tried] if tried else []
    else:
        result, outcomes = read_result(db, sweeps, question)
        sheets = sheets_of(result) if result else []
    remade = sweeps_again(db, sweeps, question)
    return Subject(
        title=title_of([arm.name for arm in arms]),
        asked=asked_of_sweeps(sweeps, len(runs), bool(result)),
        found=findings(result) if result else [],
        notes=result.notes if result else [],
        protocol=protocol_of(arms[0].recipe, runs[0]) | {"sweep": ", ".join(sweep.id for sweep in sweeps)},
        sheets=sheets,
        runs=runs,
        files=remade.files,
        commands=remade.commands,
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
        outcomes=read_outcomes(db, trained),
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
    now().stage("comparing the runs", at_once=False)
    for row in now().each(rows):
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
