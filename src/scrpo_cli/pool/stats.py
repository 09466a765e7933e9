"""What is in the pool, in counts: verdicts, filter decisions, life, use, repair, and mistakes made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, select, union

from scrpo_cli.numbers import wilson
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import known_pool, last_step
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, RUN, RunRow
from scrpo_cli.pool.queries import EVALUATED, located
from scrpo_cli.pool.records import INJECTED, IS_INJECTED, injected_kind
from scrpo_cli.types import Verdict

AGE_BINS = (0, 1, 3, 6, 11, 21, 51, 101)
"""First age of each bin of the histogram, in steps."""
ALIVE = "alive"


def pool_stats(db: Database, pool: str | None = None, top: int = 10) -> dict[str, Any]:
    """Counts over one pool, or over all of them.

    Attempts are those of the runs that filled or used the pool, evaluations and injected errors left out; `repair_rate`
    counts attempts on pooled errors (errors of the grader left out), `entries_repaired` entries that were tried at all.
    """
    mine = [] if pool is None else [POOL_ENTRY.c.pool == known_pool(db, pool)]
    with db.read() as connection:
        scope = _scope(connection, mine)
        attempts = connection.execute(_attempts_query(scope)).all()
        entries = connection.execute(_entries_query(mine)).all()
        children = connection.execute(_children_query(mine)).all()
        injected = connection.execute(_injected_query(mine)).all()
        repeated = connection.execute(_repeated_query(scope)).all()
    verdicts = _sums((verdict, count) for _, verdict, _, count in attempts)
    return {
        "pool": pool,
        "attempts": sum(verdicts.values()),
        "verdicts": verdicts,
        "verdicts_by_kind": {
            kind: _sums((verdict, count) for k, verdict, _, count in attempts if k == kind)
            for kind in sorted({kind for kind, *_ in attempts})
        },
        "decisions": _sums((decision, count) for *_, decision, count in attempts if decision is not None),
        "entries": sum(count for *_, count in entries),
        "alive": sum(count for _, reason, count in entries if reason == ALIVE),
        "retired": _sums((reason, count) for _, reason, count in entries if reason != ALIVE),
        "age_steps": _ages([(age, count) for age, reason, count in entries if reason == ALIVE]),
        "injected": _injected(injected, children),
        **_repairs(children),
        "repeated_mistakes": _repeated(repeated, verdicts.get(Verdict.WRONG.value, 0), top),
    }


def pool_runs(db: Database, pool: str | None = None) -> list[RunRow]:
    """The runs that filled a pool (all pools) or revised its errors, oldest first."""
    mine = [] if pool is None else [POOL_ENTRY.c.pool == known_pool(db, pool)]
    with db.read() as connection:
        ids = connection.scalars(_runs(mine)).all()
        rows = connection.execute(select(RUN).where(RUN.c.id.in_(ids)).order_by(RUN.c.created_at, RUN.c.id)).mappings()
        return [located(db, RunRow(**row)) for row in rows]


def _runs(mine: Sequence[ColumnElement[bool]]) -> Any:
    """(run) of those that added entries, or answered what was wrong in them"""
    child = ATTEMPT.alias("child")
    users = select(child.c.run_id).join(POOL_ENTRY, child.c.parent_id == POOL_ENTRY.c.attempt_id).where(*mine)
    return union(select(POOL_ENTRY.c.run_id).where(*mine), users)


def _entries_query(mine: Sequence[ColumnElement[bool]]) -> Any:
    """(age in steps, why it was retired or `alive`, entries)"""
    reason = func.coalesce(POOL_ENTRY.c.retired_reason, ALIVE).label("reason")
    age = (last_step() - POOL_ENTRY.c.added_step).label("age")
    lives = select(age, reason).where(*mine).subquery()
    return select(lives.c.age, lives.c.reason, func.count()).group_by(lives.c.age, lives.c.reason)


def _scope(connection: Connection, mine: Sequence[ColumnElement[bool]]) -> list[ColumnElement[bool]]:
    """Attempts of the runs that filled the pool or revised its errors; none of evaluations, none that were injected."""
    training: list[ColumnElement[bool]] = [ATTEMPT.c.phase.not_like(f"{EVALUATED}%"), ~IS_INJECTED]
    if not mine:
        return training
    return [*training, ATTEMPT.c.run_id.in_(connection.scalars(_runs(mine)).all())]


def _attempts_query(scope: Sequence[ColumnElement[bool]]) -> Any:
    """(kind, verdict, filter decision, attempts)"""
    key = (ATTEMPT.c.kind, ATTEMPT.c.verdict, ATTEMPT.c.decision)
    return select(*key, func.count()).where(*scope).group_by(*key)


def _children_query(mine: Sequence[ColumnElement[bool]]) -> Any:
    """(pooled attempt, kind of the answers that revise it, their verdict, how many)"""
    pooled = select(POOL_ENTRY.c.attempt_id).where(*mine).distinct().subquery()  # once, in however many pools it is
    query = select(ATTEMPT.c.parent_id, ATTEMPT.c.kind, ATTEMPT.c.verdict, func.count())
    query = query.join(pooled, pooled.c.attempt_id == ATTEMPT.c.parent_id)
    query = query.where(ATTEMPT.c.verdict != Verdict.UNGRADED.value)
    return query.group_by(ATTEMPT.c.parent_id, ATTEMPT.c.kind, ATTEMPT.c.verdict)


def _injected_query(mine: Sequence[ColumnElement[bool]]) -> Any:
    """(pooled attempt, model, pools in which it is, pools in which it is alive) of injected errors"""
    # No join: SQLite would begin with all attempts.
    model = select(ATTEMPT.c.model).where(ATTEMPT.c.id == POOL_ENTRY.c.attempt_id).scalar_subquery().label("model")
    alive = func.count() - func.count(POOL_ENTRY.c.retired_step)
    pooled = select(POOL_ENTRY.c.attempt_id, model, func.count().label("pools"), alive.label("alive")).where(*mine)
    found = pooled.group_by(POOL_ENTRY.c.attempt_id).subquery()
    return select(found).where(found.c.model.startswith(INJECTED))


def _injected(rows: Sequence[Any], children: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """By kind: entries, those alive, and the repair rate of attempts on them."""
    found = {}
    for model in sorted({model for _, model, *_ in rows}):
        mine = [row for row in rows if row[1] == model]
        ids = {row[0] for row in mine}
        repairs = _repairs([child for child in children if child[0] in ids])
        counts = {"entries": sum(row[2] for row in mine), "alive": sum(row[3] for row in mine)}
        found[injected_kind(model)] = counts | {"repair_rate": repairs["repair_rate"]}
    return found


def _repeated_query(scope: Sequence[ColumnElement[bool]]) -> Any:
    """(source, problem, wrong answer, how often), most frequent first, for answers given more than once."""
    key = (ATTEMPT.c.problem_source, ATTEMPT.c.problem_id, ATTEMPT.c.extracted)
    wrong = ATTEMPT.c.verdict == Verdict.WRONG.value
    query = select(*key, func.count().label("n")).where(*scope, wrong, ATTEMPT.c.extracted.is_not(None))
    return query.group_by(*key).having(func.count() > 1).order_by(func.count().desc(), *key)


def _repairs(children: Sequence[Any]) -> dict[str, Any]:
    """Uses and repair rates of `_children_query`'s rows."""
    graded = [
        (parent, kind, verdict, n) for parent, kind, verdict, n in children if verdict != Verdict.GRADER_ERROR.value
    ]
    right = [row for row in graded if row[2] == Verdict.CORRECT.value]
    by_kind = {
        kind: rate(sum(n for _, k, _, n in right if k == kind), sum(n for _, k, _, n in graded if k == kind))
        for kind in sorted({kind for _, kind, *_ in graded})
    }
    return {
        "uses": sum(n for *_, n in children),
        "entries_used": len({parent for parent, *_ in children}),
        "repair_rate": rate(sum(n for *_, n in right), sum(n for *_, n in graded)),
        "repair_rate_by_kind": by_kind,
        "entries_repaired": rate(len({row[0] for row in right}), len({row[0] for row in graded})),
    }


def rate(successes: int, trials: int) -> dict[str, Any]:
    """A proportion with its Wilson 95% interval (Wilson 1927); null where nothing was tried."""
    if not trials:
        return {"value": None, "ci95": None, "successes": 0, "trials": 0}
    share = successes / trials
    return {"value": share, "ci95": [*wilson(share, trials)], "successes": successes, "trials": trials}


def _ages(counts: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    """Quantiles and histogram of the ages of living entries, from (age, entries)."""
    if not counts:
        return None
    ages = np.repeat([age for age, _ in counts], [count for _, count in counts])
    quantiles = {name: float(np.quantile(ages, q)) for name, q in (("median", 0.5), ("p90", 0.9))}
    ends = [*(start - 1 for start in AGE_BINS[1:]), None]
    bins = np.bincount(np.searchsorted(AGE_BINS, ages, side="right") - 1, minlength=len(AGE_BINS))
    labels = [_label(start, end) for start, end in zip(AGE_BINS, ends, strict=True)]
    histogram = dict(zip(labels, bins.tolist(), strict=True))
    return {"min": int(ages.min()), **quantiles, "max": int(ages.max()), "histogram": histogram}


def _label(start: int, end: int | None) -> str:
    if end is None:
        return f"{start}+"
    return str(start) if start == end else f"{start}-{end}"


def _repeated(rows: Sequence[Any], n_wrong: int, top: int) -> dict[str, Any]:
    attempts = sum(n for *_, n in rows)
    names = ("problem_source", "problem_id", "extracted", "attempts")
    return {
        "mistakes": len(rows),
        "attempts": attempts,
        "share_of_wrong": attempts / n_wrong if n_wrong else None,
        "top": [dict(zip(names, row, strict=True)) for row in rows[:top]],
    }


def _sums(pairs: Iterable[Any]) -> dict[str, int]:
    """Sums by name, largest first, ties by name."""
    counts: Counter[str] = Counter()
    for name, count in pairs:
        counts[name] += count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
