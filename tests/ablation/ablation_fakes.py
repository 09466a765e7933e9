"""A sweep without training: made-up outcomes, and an executor that writes made-up runs into a real database."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from scrpo_cli.ablation.executors.base import Executor, Finished
from scrpo_cli.ablation.outcomes import RunOutcome
from scrpo_cli.evaluation.outcomes import Outcomes
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, list_runs, record_evaluation, record_step, resolve_run, rewind, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

PROBLEMS = [Problem(f"p{n}", "made-up", f"{n} + 1", str(n + 1)) for n in range(40)]
SAMPLES = 4


def attempt(prefix, part, group, problem, correct, sample=0, parent=None, kind=None):
    kind = kind or (AttemptKind.FIRST if parent is None else AttemptKind.CORRECTION)
    completion = Completion([1], [2, 3], [-0.1, -0.2], "text", FinishReason.STOP)
    grade = Grade(Verdict.CORRECT if correct else Verdict.WRONG, "1", None, "fake")
    key, turn = f"{prefix}:{part}:{group}:{sample}", 1 + (parent is not None)
    return Attempt(key, problem, completion, grade, kind, turn, sample, parent, part, group)


def answers(prefix, accuracy, repair, rng, turns=1):
    """First answers of every problem, a correction of each wrong one, and with two turns a check of each."""
    attempts = []
    for n, problem in enumerate(PROBLEMS):
        for sample in range(SAMPLES):
            first = attempt(prefix, "first", n, problem, rng.random() < accuracy, sample)
            attempts.append(first)
            if not first.reward:
                attempts.append(attempt(prefix, "repair", n, problem, rng.random() < repair, sample, first.id))
            if turns == 2:
                right = rng.random() < (0.9 if first.reward else repair)
                attempts.append(attempt(prefix, "second", n, problem, right, sample, first.id, AttemptKind.CHECK))
    return attempts


def option(arguments, name):
    return arguments[arguments.index(name) + 1] if name in arguments else None


@dataclass
class FakeExecutor(Executor):
    """`after` maps an arm's name to its accuracy after training; `fails` names jobs that end with exit code 1;
    `warning` is a monitor that fires on all steps but the first.
    """

    after: dict[str, float]
    fails: tuple[str, ...] = ()
    stop_after: int | None = None
    tokens: int = 1000
    warning: str | None = None
    seen: list[tuple[str, ...]] = field(default_factory=list)
    takes_over: bool = False

    def run(self, jobs):
        for job in jobs:
            if len(self.seen) == self.stop_after:
                raise KeyboardInterrupt
            self.seen.append(job.arguments)
            yield job
            exit_code = self.train(job)
            yield Finished(job, exit_code, 1.0, "out of memory" if exit_code else "")

    def train(self, job):
        arguments = list(job.arguments)
        with Database.open(option(arguments, "--db")) as db:
            if (run_id := option(arguments, "--resume")) is not None:
                rewind(db, run_id, -1)
                arm = job.name.partition(" seed=")[0]
                seed = int(job.name.partition(" seed=")[2])
            else:
                run_id, arm, seed = (option(arguments, name) for name in ("--run-id", "--arm", "--seed"))
                sets = [value for name, value in pairwise(arguments) if name == "--set"]
                recipe = load_recipe(option(arguments, "--recipe"), [*sets, f"seed={seed}"])
                sweep = option(arguments, "--sweep")
                start_run(
                    db, command="train", recipe=recipe, directory="d", model="m", run_id=run_id, sweep=sweep, arm=arm
                )
            failed = job.name in self.fails
            if not failed:
                self.write(db, run_id, arm, int(seed), turns_of(db, run_id))
            finish_run(db, run_id, "failed" if failed else "done", {})
        return int(failed)

    def write(self, db, run_id, arm, seed, turns):
        rng = np.random.default_rng(seed)
        before = answers(f"{run_id}:b", 0.3, 0.4, rng, turns)
        record_evaluation(db, run_id, 0, "test", {"avg": 0.3}, before, "before")
        for step in range(1, 5):
            metrics = {"tokens/total": self.tokens * step / 4, "first/accuracy": 0.3 + step / 20, "seconds/step": 0.5}
            fired = {f"warn/{self.warning}": float(step > 1)} if self.warning else {}
            record_step(db, run_id, StepRecord(step, "first", [], metrics=metrics | fired))
        rows = answers(f"{run_id}:a", self.after[arm], 0.6, rng, turns)
        record_evaluation(db, run_id, 4, "test", {"avg": self.after[arm]}, rows, "after")


def runs_in(tmp_path, **filters):
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        return [row for row in list_runs(db, **filters) if row.command == "train"]


def turns_of(db, run_id):
    return Recipe.model_validate_json(resolve_run(db, run_id).recipe_json).eval.turns


NAN = np.nan
N = 40


def make_answers(correct_NK, repaired_NK=None, second_NK=None, names=None):
    correct_NK = np.asarray(correct_NK, dtype=float)
    repaired_NK = np.full(correct_NK.shape, NAN) if repaired_NK is None else np.asarray(repaired_NK, float)
    turns = (correct_NK,) if second_NK is None else (correct_NK, np.asarray(second_NK, float))
    problems = names or (("made-up", f"p{n:02d}") for n in range(len(correct_NK)))
    return Outcomes(tuple(problems), turns, repaired_NK)


def run(arm, seed, after_NK, before_NK=None, tokens=1000, **options):
    before = make_answers(np.zeros((len(after_NK), 1)) if before_NK is None else before_NK)
    return RunOutcome(arm, seed, f"{arm}-{seed}", tokens, before, make_answers(after_NK, **options))


def first_solved(k):
    """The first k of N problems are solved, in one sample."""
    return np.array([[float(n < k)] for n in range(N)])
