"""`scrpo train` below the command line: open or resume the session, run the loop, sum up."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from scrpo_cli.errors import ScrpoError
from scrpo_cli.evaluation.held_out import check_held_out, held_out, warnings
from scrpo_cli.jobs.compare import changes_by_training
from scrpo_cli.jobs.limits import warning_before
from scrpo_cli.jobs.published import of_training
from scrpo_cli.jobs.runs import ActiveRun, note_engine, note_fingerprint
from scrpo_cli.methods.parts.pool import reasons
from scrpo_cli.methods.scrpo import pool_rules
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import decisions_of, steps_of
from scrpo_cli.tracking.tracker import HasConsole
from scrpo_cli.training.loop import train
from scrpo_cli.training.session import Session, open_session
from scrpo_cli.training.team import gathered


def run_training(db: Database, run: ActiveRun, console: HasConsole | None) -> dict[str, Any]:
    """Train to the end of the recipe's budget and return the run's summary.

    Raises Interrupted with the command that resumes, after all that is finished has been saved, and KeyboardInterrupt
    while loading and when a second signal asks to wait for nothing.
    """
    if "contamination" not in run.summary:  # of an earlier part of this run
        check_contamination(run, console)
        check_memory(run, console)
    with (
        gathered(run.recipe, run.again) as team,
        open_session(
            run.recipe, db, run.run_id, run.directory, start=run.start, again=run.again, console=console, team=team
        ) as session,
    ):
        note_fingerprint(db, run, session.chat)
        note_engine(db, run, session.engine.name)
        with session.tracker, session.stop.on_signals():
            evaluations = train(session)
            session.mend(session.progress.step)
            for line in phases_never_taken(session):
                session.tracker.event(line)
            step = session.progress.step
            session.tracker.publish(lambda: of_training(db, run.run_id, run.recipe, session.save(), step))
            session.tracker.finish({k: v["avg"] for k, v in evaluations.items() if v})
        for change in changes_by_training(db, run.run_id).values():  # of one split at most
            evaluations["change"] = change
        return {
            "run": run.run_id,
            "status": "done",
            "steps": session.progress.step,
            "generated_tokens": session.progress.generated_tokens,
            "adapter": str(session.save()),
            "metrics": str(run.directory / "metrics.jsonl"),
            "decisions": (decided := decisions_of(db, run.run_id)),
            "reasons": reasons(decided, pool_rules(run.recipe.method)),
            "eval": evaluations,
        }


def phases_never_taken(run: Session) -> list[str]:
    """A line for each kind of step that this run has not seen: ScRPO that never reflected is GRPO."""
    taken = {step.phase for step in steps_of(run.db, run.run_id)}
    missing = [name for name in run.needs.phases if name not in taken]
    return [f"warning: none of the {run.progress.step} steps was a '{name}' step of the method" for name in missing]


def check_contamination(run: ActiveRun, console: HasConsole | None) -> None:
    """Note in the run's summary, and say, which held-out problems are among the training problems."""
    found = check_held_out(run.recipe, run.recipe.task, held_out(run.recipe))
    run.summary["contamination"] = found
    for line in warnings(found):
        if console is not None:
            console.console.print(line, markup=False, soft_wrap=True, style="yellow")


def check_memory(run: ActiveRun, console: HasConsole | None) -> None:
    """Say before the start that the memory will not do, by the estimate. What is wrong with the model itself is said
    where it is loaded.
    """
    with suppress(ScrpoError):
        if (line := warning_before(run.recipe)) and console is not None:
            console.console.print(line, markup=False, soft_wrap=True, style="yellow")
