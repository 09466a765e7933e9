"""The life of the pool and the warning signs, over the tokens of each run: tables and figures of a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select

from scrpo_cli.ablation.outcomes import WARN
from scrpo_cli.numbers import NOTHING, estimate, percent
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, RunRow
from scrpo_cli.pool.queries import StepMetrics, steps_of
from scrpo_cli.pool.stats import pool_stats
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.report.tables import Sheet
from scrpo_cli.training.monitors import watch
from scrpo_cli.types import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVENTS = ("added", "used", "repaired", "retired")
"""What happens to errors: each is a sum over the run; used and repaired count corrections."""
MOST_ROWS = 30
"""Lines of the figure of warning signs, at most."""
TOP_MISTAKES = 10


@dataclass(frozen=True)
class Life:
    """One run, which counts as `name` (its arm) and is called `label`: the tokens (T,) generated up to each step, how
    many errors had been added, used, repaired and retired by then, the share of repeated mistakes among the pooled ones
    (NaN where it was not measured), and on which steps each monitor fired.
    """

    name: str
    label: str
    run: RunRow
    steps: Sequence[StepMetrics]
    tokens_T: np.ndarray
    events: Mapping[str, np.ndarray]
    repeated_T: np.ndarray
    fired: Mapping[str, np.ndarray]
    stats: Mapping[str, Any] | None

    @property
    def has_pool(self) -> bool:
        return bool(self.stats and self.stats["entries"])

    @property
    def has_repeated(self) -> bool:
        """Whether some mistake was ever in the pool twice."""
        return bool(np.nansum(self.repeated_T))


def read_life(db: Database, run: RunRow, name: str, label: str) -> Life:
    """What the database knows of one run's pool and steps."""
    steps = steps_of(db, run.id)
    at_T = np.array([s.step for s in steps], dtype=int)
    counts = event_counts(db, run.id)
    fired: dict[str, np.ndarray] = {}
    for key in sorted({key for s in steps for key in s.metrics if key.startswith(WARN)}):
        fired[key.removeprefix(WARN)] = np.array([bool(s.metrics.get(key)) for s in steps])
    return Life(
        name,
        label,
        run,
        steps,
        np.array([s.metrics.get("tokens/total") or 0.0 for s in steps]),
        {
            event: np.array([sum(n for step, n in found if step <= at) for at in at_T])
            for event, found in counts.items()
        },
        np.array([np.nan if (v := s.metrics.get("pool/repeated_share")) is None else v for s in steps]),
        {key: where for key, where in fired.items() if where.any()},
        pool_stats(db, run.id, TOP_MISTAKES) if counts["added"] else None,
    )


def event_counts(db: Database, run_id: str) -> dict[str, list[tuple[int, int]]]:
    """(step, how many) of each kind of event of a run's own pool."""
    mine = POOL_ENTRY.c.pool == run_id
    child = ATTEMPT.alias("child")
    used = select(child.c.step, func.count()).join(POOL_ENTRY, child.c.parent_id == POOL_ENTRY.c.attempt_id)
    used = used.where(mine, child.c.run_id == run_id, child.c.verdict != Verdict.UNGRADED.value).group_by(child.c.step)
    gone = POOL_ENTRY.c.retired_step
    queries = {
        "added": select(POOL_ENTRY.c.added_step, func.count()).where(mine).group_by(POOL_ENTRY.c.added_step),
        "used": used,
        "repaired": used.where(child.c.verdict == Verdict.CORRECT.value),
        "retired": select(gone, func.count()).where(mine, gone.is_not(None)).group_by(gone),
    }
    with db.read() as connection:
        return {event: [(int(a), int(b)) for a, b in connection.execute(query)] for event, query in queries.items()}


# -- tables ------------------------------------------------------------------------------------------------------------


def pool_sheet(lives: Sequence[Life]) -> Sheet | None:
    """The pools at the end of each run; None where no run filled one."""
    filled = [life for runs in by_name(lives).values() for life in runs if life.has_pool]
    if not filled:
        return None
    stats = [life.stats or {} for life in filled]
    reasons = sorted({reason for each in stats for reason in each["retired"]})
    columns = {
        "run": [life.label for life in filled],
        "added": [f"{s['entries']:,}" for s in stats],
        "used": [f"{s['entries_used']:,}" for s in stats],
        "corrections tried": [f"{s['uses']:,}" for s in stats],
        "of them right": [estimate(s["repair_rate"]) for s in stats],
        "errors repaired": [estimate(s["entries_repaired"]) for s in stats],
        **{f"retired: {reason}": [f"{s['retired'].get(reason, 0):,}" for s in stats] for reason in reasons},
        "alive at the end": [f"{s['alive']:,}" for s in stats],
        "wrong answers given again": [percent(s["repeated_mistakes"]["share_of_wrong"]) for s in stats],
    }
    title = "the error pool of each run; 95% intervals of shares are Wilson's, over answers or over errors"
    notes = (
        "An error is repaired when at least one of the corrections tried on it is right; shares are of the errors that "
        "were tried.",
        "Wrong answers given again: the share of a run's wrong answers that give the same final answer to the same "
        "problem as another one of them.",
    )
    return Sheet("pool", title, columns, notes=notes)


def mistakes_sheet(lives: Sequence[Life]) -> Sheet | None:
    """The wrong answers that were given most often; None where none was given twice."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for life in lives:
        for each in (life.stats or {}).get("repeated_mistakes", {}).get("top", ()):
            key = each["problem_source"], each["problem_id"], each["extracted"]
            counts[key] += each["attempts"]
    if not counts:
        return None
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP_MISTAKES]
    columns = {
        "problem": [f"{source} {problem}" for (source, problem, _), _ in top],
        "wrong answer": [answer for (_, _, answer), _ in top],
        "times": [f"{n:,}" for _, n in top],
    }
    title = f"the wrong answers given most often in training, among the {TOP_MISTAKES} most frequent ones of each run"
    return Sheet("mistakes", title, columns)


def warnings_sheet(lives: Sequence[Life]) -> Sheet | None:
    """Each warning sign of each run: when it first fired, how often, and what it said then; None where none fired."""
    found = [(life, name, fired) for life in lives for name, fired in life.fired.items()]
    if not found:
        return None
    columns = {
        "run": [life.label for life, _, _ in found],
        "warning sign": [name for _, name, _ in found],
        "first at step": [str(life.steps[int(fired.argmax())].step) for life, _, fired in found],
        "on steps": [f"{fired.sum()} of {len(fired)}" for _, _, fired in found],
        "what was measured then": [said_first(life, name) for life, name, _ in found],
    }
    return Sheet("signs", "warning signs during training", columns)


def said_first(life: Life, name: str) -> str:
    """What the monitor measured when it first fired, by the recipe's thresholds."""
    until = int(life.fired[name].argmax()) + 1
    news = watch(life.steps[:until], stored_recipe(life.run.recipe_json, life.run.origin).monitors).news
    line = next((line for sign, line in news.items() if sign == name), "")
    return line.partition("): ")[2].partition("; see ")[0] or NOTHING


# -- figures -----------------------------------------------------------------------------------------------------------


def by_name(lives: Iterable[Life]) -> dict[str, list[Life]]:
    """The runs of each arm."""
    found: dict[str, list[Life]] = defaultdict(list)
    for life in lives:
        found[life.name].append(life)
    return found


def draw_events(axes: Axes, lives: Sequence[Life], title: str) -> None:
    """Sums of what happened to the errors of one arm's pools, means of its runs."""
    tokens_T = common_tokens(lives)
    for index, event in enumerate(EVENTS):
        runs_ST = np.array([held(life.tokens_T, life.events[event], tokens_T) for life in lives])
        axes.plot(tokens_T, runs_ST.mean(axis=0), color=f"C{index}", label=event)
        axes.fill_between(tokens_T, runs_ST.min(axis=0), runs_ST.max(axis=0), color=f"C{index}", alpha=0.2, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="generated tokens", ylabel="errors, corrections", title=title)
    axes.legend()


def draw_repeated(axes: Axes, lives: Sequence[Life]) -> None:
    """The share of repeated mistakes in the pools, a line and a band for each arm."""
    for index, (name, runs) in enumerate(by_name(lives).items()):
        tokens_T = common_tokens(runs)
        runs_ST = 100 * np.array([held(r.tokens_T, last_known(r.repeated_T), tokens_T) for r in runs])
        axes.plot(tokens_T, runs_ST.mean(axis=0), color=f"C{index % 10}", label=name)
        low_T, high_T = runs_ST.min(axis=0), runs_ST.max(axis=0)
        axes.fill_between(tokens_T, low_T, high_T, color=f"C{index % 10}", alpha=0.2, linewidth=0)
    axes.set_ylim(0, max(5.0, axes.get_ylim()[1]))
    axes.set(xlabel="generated tokens", ylabel="of the errors in the pool (%)", title="repeated mistakes")
    axes.legend()


def draw_warnings(axes: Axes, lives: Sequence[Life]) -> None:
    """A line for each arm and monitor that fired, a mark for each step of each of its runs; runs are laid over each
    other, so that a dark mark is one that many seeds share.
    """
    rows = warning_rows(lives)[:MOST_ROWS]
    for y, (name, sign) in enumerate(rows):
        for life in lives:
            if life.name == name and sign in life.fired:
                at = life.tokens_T[life.fired[sign]]
                axes.plot(at, [y] * len(at), "|", color="C3", markersize=9, markeredgewidth=2, alpha=0.5)
    several = len({life.name for life in lives}) > 1
    axes.set_yticks(range(len(rows)), [f"{name}: {sign}" if several else sign for name, sign in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(life.tokens_T.max() for life in lives if len(life.tokens_T)))
    axes.set(xlabel="generated tokens")


def warning_rows(lives: Sequence[Life]) -> list[tuple[str, str]]:
    """(arm, monitor) pairs that fired, in the order of the arms."""
    return [*dict.fromkeys((life.name, sign) for life in lives for sign in life.fired)]


def common_tokens(lives: Sequence[Life]) -> np.ndarray:
    """Tokens up to where every run has come."""
    return np.linspace(0, min(life.tokens_T[-1] for life in lives), 100)


def held(tokens_T: np.ndarray, value_T: np.ndarray, at_T: np.ndarray) -> np.ndarray:
    """A value that changes at the ends of steps, at other tokens; before the first step it is 0."""
    return np.array([0.0, *value_T])[np.searchsorted(tokens_T, at_T, side="right")]


def last_known(value_T: np.ndarray) -> np.ndarray:
    """Each NaN as the value before it, 0 before the first one: the pool is empty then."""
    known = np.where(np.isnan(value_T), -1, np.arange(len(value_T)))
    last = np.maximum.accumulate(known)
    return np.where(last < 0, 0.0, value_T[last])
