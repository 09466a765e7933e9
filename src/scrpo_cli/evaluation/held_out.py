"""Held-out problems against training problems: what is warned before training and before an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.contamination import Corpus, Kind, leaked, overlaps
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import list_runs
from scrpo_cli.recipe.benchmark import EvalPlan, plan
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import ProblemsConfig, Recipe, TaskConfig
from scrpo_cli.recipe.references import BUILT_IN
from scrpo_cli.tasks import make_task

GENERATED = ("tiny", "think")
SHOWN, KEPT = 3, 50  # pairs named in a warning, and in a run's summary
NO_DATA = "no data"


@dataclass(frozen=True)
class ProblemSet:
    """A set of problems, and the task that reads it."""

    task: TaskConfig
    cfg: ProblemsConfig

    def __str__(self) -> str:
        return f"{self.cfg.source} ({self.cfg.split})"

    @property
    def reference(self) -> str:
        """As `scrpo overlap` takes it."""
        return self.cfg.source if self.cfg.source.endswith((".jsonl", ".gz")) else f"{self.cfg.source}:{self.cfg.split}"

    def corpus(self) -> Corpus:
        with closing(make_task(self.task)) as task:
            return Corpus(task.problems(self.cfg))


def held_out(recipe: Recipe) -> dict[str, ProblemSet]:
    """What a recipe measures itself on, by name: task.validation, task.test and the benchmarks."""
    found = held_out_of(plan(recipe)) if recipe.eval.benchmarks else {}
    for split in ("test", "validation"):
        if cfg := getattr(recipe.task, split):
            found[f"task.{split}"] = ProblemSet(recipe.task, cfg)
    return found


def held_out_of(planned: EvalPlan) -> dict[str, ProblemSet]:
    """The benchmarks of an evaluation."""
    return {name: ProblemSet(b.task, b.problems) for name, b in planned.benchmarks.items()}


def trained_on(db: Database, recipe: Recipe) -> TaskConfig:
    """The task section of the run that trained the recipe's adapter; the recipe's own where no run here did."""
    adapter = Path(recipe.model.adapter or "").resolve()
    runs = (run for run in list_runs(db) if run.command == "train") if recipe.model.adapter else ()
    found = next((run for run in runs if adapter.is_relative_to(run.directory)), None)
    return stored_recipe(found.recipe_json, found.origin).task if found else recipe.task


def contamination(trained: TaskConfig, held: Mapping[str, ProblemSet]) -> dict[str, Any]:
    """For every held-out set how many of its problems are among the training problems, or why that was not checked.

    A set that cannot be read here is no error: the run that needs it says so itself.
    """
    train = ProblemSet(trained, trained.train)
    corpus = cache(lambda: _corpus(train))  # read only if there is something to hold against it
    known: dict[str, dict[str, Any]] = {}
    for each in held.values():
        key = repr(each)
        known[key] = known.get(key) or _compared(train, corpus, each)
    return {"train": str(train), "sets": {name: known[repr(each)] for name, each in held.items()}}


def _corpus(problems: ProblemSet) -> Corpus | str:
    try:
        return problems.corpus()
    except UserError as error:
        return f"{NO_DATA}: {error.what}"


def _compared(train: ProblemSet, corpus: Any, held: ProblemSet) -> dict[str, Any]:
    if {train.cfg.source, held.cfg.source} & {*GENERATED}:
        apart = train.cfg.split != held.cfg.split or train.cfg.source != held.cfg.source
        reason = "generated problems: the splits are disjoint by construction" if apart else "the same generated split"
        return {"checked": False, "reason": reason}
    second = _corpus(held)
    first = corpus() if isinstance(second, Corpus) else second
    if not isinstance(second, Corpus) or not isinstance(first, Corpus):
        return {"checked": False, "reason": first}
    found = leaked(overlaps(first, second))
    pairs = [
        {"train": o.first.id, "problem": o.second.id, "kind": o.kind.value, "similarity": round(o.similarity, 3)}
        for o in found
    ]
    return {
        "checked": True,
        "problems": len(second.texts),
        "affected": len({(o.second.source, o.second.id) for o in found}),
        **{kind.value: sum(o.kind is kind for o in found) for kind in (Kind.EXACT, Kind.NEAR)},
        "pairs": pairs[:KEPT],
        "command": f"scrpo overlap {train.reference} {held.reference}"
        if train.task.name in BUILT_IN["task.name"]
        else None,
    }


def warnings(report: Mapping[str, Any]) -> list[str]:
    """One line for every contaminated set, and one for all that could not be checked for want of data."""
    lines = []
    for name, row in report.get("sets", {}).items():
        if row.get("affected"):
            first = ", ".join(f"{p['problem']} = {p['train']}" for p in row["pairs"][:SHOWN])
            counts = f"{row['exact']} exact, {row['near']} reworded"
            more = f"; all: {row['command']}" if row["command"] else ""
            what = f"{row['affected']} of {row['problems']} problems are among the training problems {report['train']}"
            lines.append(f"Contamination: {name}: {what} ({counts}: {first}{more})")
    missing = [name for name, row in report.get("sets", {}).items() if str(row.get("reason")).startswith(NO_DATA)]
    if missing:
        lines.append(f"Not checked for contamination, as there is no data: {', '.join(missing)}")
    return lines


def check_held_out(recipe: Recipe, trained: TaskConfig, held: Mapping[str, ProblemSet]) -> dict[str, Any]:
    """The report as `eval.contamination` wants it: empty with `off`; UserError with `refuse` when a set is affected."""
    if recipe.eval.contamination == "off":
        return {}
    report = contamination(trained, held)
    affected = [name for name, row in report["sets"].items() if row.get("affected")]
    if affected and recipe.eval.contamination == "refuse":
        fix = "Leave those problems out of the training set, or set eval.contamination=warn."
        raise UserError(" ".join(warnings(report)), "eval.contamination: refuse", fix)
    return report
