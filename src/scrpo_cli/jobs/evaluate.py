"""`scrpo eval` below the command line: the benchmarks of a plan, in parts that survive a kill (`evaluation.parts`).

Every number is computed from the stored rows, so a run that was killed anywhere and resumed ends with the same rows and
the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.gate import (
    VALIDATION,
    answer_gated,
    fit_gate,
    measure_gated,
    threshold_of,
    validation_problems,
)
from scrpo_cli.evaluation.held_out import check_held_out, held_out_of, trained_on, warnings
from scrpo_cli.evaluation.metrics import suite_average
from scrpo_cli.evaluation.outcomes import FIRST, Answers, read_answers
from scrpo_cli.evaluation.parts import part_size, parts_left
from scrpo_cli.evaluation.protocol import Protocol, fingerprint
from scrpo_cli.evaluation.runner import Evaluator, Start
from scrpo_cli.hub import files_of
from scrpo_cli.jobs.checks import load
from scrpo_cli.jobs.compare import compare_runs, earlier_run
from scrpo_cli.jobs.runs import ActiveRun, is_alive, note_engine, resumed_run, started_run
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import (
    attempts_of,
    evaluations_of,
    note_run,
    record_answers,
    record_evaluation,
    resolve_run,
    steps_of,
)
from scrpo_cli.recipe.benchmark import EvalPlan, other_prompts, plan
from scrpo_cli.recipe.load import load_recipe, stored_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.prompts import check_prompt_budget
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.guard import stop_on_failures, unreadable_references
from scrpo_cli.tracking.activity import LIBRARIES, now
from scrpo_cli.types import Attempt, Problem

if TYPE_CHECKING:  # what loads torch is imported when a model is loaded: external responses need none
    from scrpo_cli.training.runtime import Runtime

Report = Callable[[str], None]
Draw = Callable[[dict[str, Any], Path], dict[str, str]]
"""Puts figures of the results into a directory: name -> file."""
STEP = 0
TENTHS = 10  # lines of progress a benchmark, at most


def evaluate_model(db: Database, recipe: Recipe, against: str | None, report: Report, draw: Draw) -> dict[str, Any]:
    """A new evaluation of the recipe's model on its benchmarks, compared with the run `against`; its summary."""
    planned = plan(recipe)
    for name, benchmark in planned.benchmarks.items():
        Protocol.of(recipe, benchmark).check()  # before anything is loaded
        if recipe.eval.prompt == "benchmark" and (differ := other_prompts(benchmark, recipe)):
            report(f"{name} is asked with its own {', '.join(differ)}; --set eval.prompt=recipe takes the recipe's")
    found = check_held_out(recipe, trained_on(db, recipe), held_out_of(planned))
    for line in warnings(found):
        report(line)
    other = earlier_run(db, against, graders_of(planned)) if against else None  # before anything is loaded
    options = {"plan": planned.as_dict(), "against": other}
    with started_run(db, "eval", recipe, summary={"options": options, "contamination": found}) as run:
        carry_out(db, run, report, draw)
    return run.summary


def resume_evaluation(db: Database, ref: str, report: Report, draw: Draw) -> dict[str, Any]:
    """An interrupted evaluation, from where it stopped."""
    with resumed_run(db, "eval", ref) as run:
        if "plan" not in run.summary.get("options", {}):
            what = "Only an evaluation that samples can be resumed, and this run has no plan."
            raise UserError(what, f"--resume {run.run_id}", "Run it again.")
        carry_out(db, run, report, draw)
    return run.summary


def carry_out(db: Database, run: ActiveRun, report: Report, draw: Draw) -> None:
    """The plan of a run, from where it stands."""
    options = run.summary["options"]
    planned = EvalPlan.read(options["plan"])
    results = evaluate_plan(db, run, planned, report)
    sum_up(db, run, results, planned.suites, options["against"], draw)


def graders_of(planned: EvalPlan) -> dict[str, str]:
    """Who grades each benchmark of a plan."""
    found = {}
    for name, benchmark in planned.benchmarks.items():
        with closing(make_task(benchmark.task)) as task:
            found[name] = task.grader
    return found


def recipe_of_run(db: Database, ref: str, recipe: str | None, sets: Sequence[str], report: Report) -> Recipe:
    """A training run's newest adapter under its own recipe, or under the one that is named; said where it is not yet
    the last one.
    """
    from scrpo_cli.training.checkpoint import step_of
    from scrpo_cli.training.resume import newest_adapter

    row = resolve_run(db, ref, command="train")
    found = newest_adapter(db, row)
    steps = max(s.step for s in steps_of(db, row.id))
    if is_alive(row):
        report(f"run {row.id} is still training: this is its adapter of {found.name}")
    elif step_of(found) < steps:
        report(f"warning: run {row.id} has {steps} steps, and this is its adapter of {found.name}: later ones are lost")
    sets = [*sets, f"model.adapter={found}"]
    return load_recipe(recipe, sets) if recipe else stored_recipe(row.recipe_json, row.origin, sets)


def evaluate_plan(db: Database, run: ActiveRun, plan: EvalPlan, report: Report) -> dict[str, dict[str, Any]]:
    """The metrics of every benchmark of the plan, by name. Benchmarks and parts that the run has stored are kept."""
    now().stage(f"run {run.run_id}: {LIBRARIES}")
    from scrpo_cli.training.runtime import open_runtime

    with ExitStack() as stack:
        tasks = {name: stack.enter_context(closing(make_task(b.task))) for name, b in plan.benchmarks.items()}
        problems = {name: load(b, tasks[name], run.recipe.eval.limit) for name, b in plan.benchmarks.items()}
        runtime = stack.enter_context(open_runtime(run.recipe, run.run_id))
        identity = model_identity(runtime)
        pin(db, run, identity, problems)
        note_engine(db, run, runtime.engine.name)
        evaluators = {
            name: Evaluator(Protocol.of(run.recipe, b), runtime.engine, runtime.chat, tasks[name])
            for name, b in plan.benchmarks.items()
        }
        for name, evaluator in evaluators.items():
            check(evaluator, name, problems[name], runtime)
            for line in unreadable_references(tasks[name], problems[name], name):
                report(line)
        evaluator = Evaluator(Protocol.of(run.recipe), runtime.engine, runtime.chat, runtime.task)
        threshold = gate_threshold(db, run, evaluator, [*problems.values()], report)
        for name, benchmark in plan.benchmarks.items():
            record = evaluators[name].protocol.record(benchmark, tasks[name], runtime.chat, problems[name])
            one = BenchmarkRun(db, run, name, evaluators[name], problems[name], report)
            one.finish(threshold, record | identity)
    stored = {e.benchmark: e.metrics for e in evaluations_of(db, run.run_id)}
    return {name: stored[name] for name in plan.benchmarks}


def check(evaluator: Evaluator, name: str, problems: Sequence[Problem], runtime: Runtime) -> None:
    """Refuse what cannot work before anything is sampled."""
    protocol = evaluator.protocol
    protocol.check()
    check_prompt_budget(protocol.task, evaluator.task, runtime.chat, problems)
    if positions := getattr(runtime.policy.model.config, "max_position_embeddings", None):
        protocol.check_length(name, evaluator.task, runtime.chat, problems, positions)


def sum_up(
    db: Database,
    run: ActiveRun,
    results: dict[str, Any],
    suites: Mapping[str, list[str]],
    other: str | None,
    draw: Draw,
) -> None:
    """Into the run's summary: the results, the averages of suites, the figures, the comparison with another run."""
    run.summary |= {"run": run.run_id, "benchmarks": results}
    if suites:
        run.summary["suites"] = {name: suite_average(results, members) for name, members in suites.items()}
    if plots := draw(results, run.directory):
        run.summary["plots"] = plots
    if other is not None:
        run.summary["against"] = compare_runs(db, run.run_id, other)


class BenchmarkRun:
    """One benchmark of a run: sampled in parts, then measured."""

    def __init__(
        self, db: Database, run: ActiveRun, name: str, evaluator: Evaluator, problems: Sequence[Problem], report: Report
    ) -> None:
        self.db, self.run, self.name, self.report = db, run, name, report
        self.evaluator, self.problems = evaluator, problems

    def finish(self, threshold: float | None, protocol: Mapping[str, Any]) -> None:
        """Sample and store what is missing, then the numbers."""
        if any(e.benchmark == self.name for e in evaluations_of(self.db, self.run.run_id)):
            return
        sampling = self.evaluator.protocol
        self.report(f"{self.name}: {len(self.problems)} problems x {sampling.samples} samples")
        self.sample(self.stored())
        answers = read_answers(self.db, self.run.run_id, f"eval:{self.name}")
        metrics = measure_gated(self.evaluator, answers, threshold) | {"protocol": dict(protocol)}
        record_evaluation(self.db, self.run.run_id, STEP, self.name, metrics, [])

    def stored(self) -> list[Attempt]:
        return attempts_of(self.db, self.run.run_id, phase=f"eval:{self.name}")

    def sample(self, done: Sequence[Attempt]) -> None:
        firsts = Answers.of(done).first
        right, counted = right_of([a for row in firsts for a in row])
        before, total = len(firsts), len(self.problems)
        if firsts:
            self.report(f"{self.name}: {before} of {total} problems were stored already")
        batch, queues = self.run.recipe.rollout.batch_size, self.evaluator.engine.has_own_weights
        size = part_size(batch, self.evaluator.protocol.samples, queues)
        for part in parts_left(self.problems, done, size, self.answer):
            stop_on_failures(self.evaluator.task, str(self.run.directory), self.run.again)
            record_answers(self.db, self.run.run_id, STEP, self.name, part.attempts)
            first = [a for a in part.attempts if a.part == FIRST]
            right, counted = (sum(pair) for pair in zip((right, counted), right_of(first), strict=True))
            if part.problems * TENTHS // total > before * TENTHS // total:
                share = f"{100 * right / max(1, counted):.0f}% of first answers right so far"
                failed = part.problems * self.evaluator.protocol.samples - counted
                share += f", {failed:.0f} not graded" if failed else ""
                self.report(f"{self.name}: {part.problems} of {total} problems, {share}")
            before = part.problems

    def answer(self, batch: Sequence[Problem], start: Start) -> list[Attempt]:
        now().whole(start.problems, len(self.problems))
        now().stage(f"{self.name}: {start.problems} of {len(self.problems)} problems, sampling", at_once=False)
        return answer_gated(self.evaluator, batch, f"{self.run.run_id}:{STEP}:{self.name}", self.name, start)


def right_of(attempts: Sequence[Attempt]) -> tuple[float, float]:
    """How many of the attempts are right, and how many count at all."""
    outcomes = [a.outcome for a in attempts if not isnan(a.outcome)]
    return sum(outcomes), len(outcomes)


def gate_threshold(
    db: Database,
    run: ActiveRun,
    evaluator: Evaluator,
    held_out: Sequence[Sequence[Problem]],
    report: Report,
) -> float | None:
    """None without a gate. A fit is stored as the run's evaluation `validation`: a resumed run takes it from there."""
    gate = evaluator.protocol.gate
    if gate.signal == "none":
        return None
    if gate.threshold is not None:
        return threshold_of(gate.threshold)
    if stored := [e.metrics["gate"] for e in evaluations_of(db, run.run_id) if e.benchmark == VALIDATION]:
        run.summary["gate_fit"] = stored[0]
        return threshold_of(stored[0]["threshold"])
    problems = validation_problems(evaluator)
    report(f"fitting the {gate.signal} gate on {len(problems)} validation problems")
    with now().doing(f"fitting the {gate.signal} gate"):
        fit = fit_gate(evaluator, problems, held_out, f"{run.run_id}:0:{VALIDATION}")
    record_evaluation(db, run.run_id, 0, VALIDATION, fit.evaluation.metrics, fit.evaluation.attempts)
    run.summary["gate_fit"] = fit.metrics
    return fit.threshold


def model_identity(runtime: Runtime) -> dict[str, Any]:
    """Which weights answer: the model by name with its revision or the hash of its files, the adapter by its hash."""
    from scrpo_cli.training.policy import model_path

    cfg = runtime.recipe.model
    path = Path(model_path(cfg.name))
    snapshot = None if path.is_dir() else files_of(cfg.name, cfg.revision)
    return {
        "model": cfg.name,
        "model_revision": snapshot.name if snapshot else cfg.revision,
        "model_sha256": files_hash(path),
        "adapter": cfg.adapter,
        "adapter_sha256": runtime.policy.adapter_hash() if cfg.adapter else None,
        "engine": runtime.engine.name,
        "dtype": str(runtime.policy.model.dtype).removeprefix("torch."),
        "device": runtime.policy.device.type,
    }


def files_hash(folder: Path) -> str | None:
    """SHA-256 over the weight files of a local directory, in name order; None for a name on the hub."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest() if files else None


def pin(db: Database, run: ActiveRun, identity: Mapping[str, Any], problems: Mapping[str, Sequence[Problem]]) -> None:
    """Store what the run is about, and refuse to go on with other weights or problems than it began with."""
    now = {
        "model_sha256": identity["model_sha256"],
        "adapter_sha256": identity["adapter_sha256"],
        "problems": {name: fingerprint(each) for name, each in problems.items()},
    }
    before = run.summary.setdefault("pinned", now)
    for key, value in now.items():
        if before[key] != value:
            what = f"Run {run.run_id} began with another {key.replace('_', ' ')}; its answers would not go together."
            raise UserError(what, key, "Put the files back as they were, or start a new run.")
    note_run(db, run.run_id, run.summary)
