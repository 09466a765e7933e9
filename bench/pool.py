"""What a run and `scrpo pool` ask of the database, as it grows to a million attempts: milliseconds, bytes per attempt.

python bench/pool.py [--quick] [--sizes N,N] [--tokens N] [--repeats N]
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Grid, machine, options, report, shown, spread
from sqlalchemy import insert

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import list_entries
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY
from scrpo_cli.pool.queries import insert_problems, living_entries, record_step, rewind, start_run
from scrpo_cli.pool.records import TOKEN_COLUMNS, StepRecord, attempt_row
from scrpo_cli.pool.stats import pool_stats
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import KEPT, Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

PROBLEMS = [Problem(f"{i:05}", "math", f"What is {i} times {i + 1}?", str(i * (i + 1))) for i in range(12_000)]
GROUPS, SAMPLES = 16, 8  # of a step
ENTER = 32  # errors that a step of first answers puts into the pool
ALIVE = 256  # errors that wait in a pool; the oldest leaves a full one
SMALL, OTHERS = 2_048, 4  # attempts of the one run that is finished early; runs that share all others
REWOUND = 5  # steps
BATCH = 20_000  # attempts in a transaction of the filling
VOCABULARY = 150_000


class Run:
    """A run as it writes itself: three steps of first answers, then one of corrections of what waits in its pool."""

    def __init__(self, name: str, tokens: int) -> None:
        self.name, self.step, self.rng = name, 0, np.random.default_rng(SAMPLES)
        self.waiting: deque[str] = deque()
        self.answers = [made(self.rng, tokens) for _ in range(64)]

    def next_step(self) -> StepRecord:
        """Its attempts, what enters the pool, and what leaves it."""
        self.step += 1
        corrects = self.step % 4 == 0
        parents = [self.waiting.popleft() if corrects else None for _ in range(GROUPS)]
        attempts = [self.attempt(group, sample, p) for group, p in enumerate(parents) for sample in range(SAMPLES)]
        retired = [(parent, "used") for parent in parents if parent]
        wrong = [] if corrects else [a.id for a in attempts if a.grade.verdict is not Verdict.CORRECT]
        decisions = {a: KEPT if i < ENTER else "no_room" for i, a in enumerate(wrong)}
        self.waiting.extend(wrong[:ENTER])
        while len(self.waiting) > ALIVE:
            retired.append((self.waiting.popleft(), "evicted"))
        phase = "reflect" if corrects else "first"
        return StepRecord(self.step, phase, attempts, decisions, self.name, retired, {"reward/mean": 0.5})

    def attempt(self, group: int, sample: int, parent: str | None) -> Attempt:
        completion, grade = self.answers[self.rng.integers(len(self.answers))]
        problem = PROBLEMS[(self.step * GROUPS * 7 + group * 11) % len(PROBLEMS)]
        kind = AttemptKind.CORRECTION if parent else AttemptKind.FIRST
        name = f"{self.name}:{self.step}:{group}:{sample}"
        return Attempt(name, problem, completion, grade, kind, 1 + bool(parent), sample, parent, group=group)


def made(rng: np.random.Generator, tokens: int) -> tuple[Completion, Grade]:
    """An answer of about `tokens` tokens after a prompt of a hundred, graded. Ids are as frequent as words are (Zipf);
    most log-probs are near 0, as a language model's are.
    """
    ids = np.minimum(rng.zipf(1.3, max(1, int(rng.lognormal(np.log(tokens), 0.5)))), VOCABULARY)
    prompt = np.minimum(rng.zipf(1.3, 100), VOCABULARY)
    sure = rng.random(len(ids)) < 0.6
    logprobs = -np.where(sure, 10 ** rng.uniform(-6, -2, len(ids)), rng.exponential(1.0, len(ids)))
    words = "".join(chr(97 + i % 26) * (1 + i % 5) + " " for i in ids.tolist())
    completion = Completion(prompt.tolist(), ids.tolist(), logprobs.tolist(), words, FinishReason.STOP, 0)
    verdict = (Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG, Verdict.UNPARSABLE)[int(rng.integers(4))]
    found = None if verdict is Verdict.UNPARSABLE else str(rng.integers(20))
    return completion, Grade(verdict, found, None, "bench-1")


class Filler:
    """Writes steps as `record_step` does, but many in one transaction and each answer encoded once, to save time."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.encoded: dict[int, dict[str, Any]] = {}
        self.attempts: list[dict[str, Any]] = []
        self.entries: dict[str, dict[str, Any]] = {}

    def add(self, run: Run) -> int:
        """The next step of `run`; how many attempts it has."""
        record = run.next_step()
        self.attempts += [self.row(run, record, attempt) for attempt in record.attempts]
        for attempt_id in (a for a, decision in record.decisions.items() if decision == KEPT):
            entry = {"pool": run.name, "attempt_id": attempt_id, "run_id": run.name, "added_step": record.step}
            self.entries[attempt_id] = entry | dict.fromkeys(("retired_run_id", "retired_step", "retired_reason"))
        for attempt_id, reason in record.retired:
            left = {"retired_run_id": run.name, "retired_step": record.step, "retired_reason": reason}
            self.entries[attempt_id] |= left
        if len(self.attempts) >= BATCH:
            self.write()
        return len(record.attempts)

    def row(self, run: Run, record: StepRecord, attempt: Attempt) -> dict[str, Any]:
        if (key := id(attempt.completion)) not in self.encoded:
            self.encoded[key] = attempt_row(attempt)
        own = {"id": attempt.id, "problem_id": attempt.problem.id, "kind": attempt.kind.value, "turn": attempt.turn}
        own |= {"sample": attempt.sample, "parent_id": attempt.parent, "group_index": attempt.group}
        own |= {"run_id": run.name, "step": record.step, "phase": record.phase, "model": "tiny"}
        return self.encoded[key] | own | {"decision": record.decisions.get(attempt.id)}

    def write(self) -> None:
        with self.db.write() as connection:
            connection.execute(insert(ATTEMPT), self.attempts)
        self.attempts = []

    def close(self) -> None:
        self.write()
        with self.db.write() as connection:
            connection.execute(insert(POOL_ENTRY), [*self.entries.values()])


def fill(db: Database, size: int, tokens: int) -> list[Run]:
    """`size` attempts: a small run, then others side by side, as those of a sweep are. Returns the runs."""
    runs = [Run(f"20261120-{i:06}-abcd", tokens) for i in range(1 + OTHERS)]
    for run in runs:
        start_run(db, command="train", recipe=Recipe(name="bench"), directory="d", model="tiny", run_id=run.name)
    with db.write() as connection:
        insert_problems(db, connection, PROBLEMS)
    filler, written = Filler(db), 0
    turns = cycle(runs[1:])
    while written < size:
        written += filler.add(runs[0] if written < SMALL else next(turns))
    filler.close()
    return runs


@dataclass
class World:
    """A filled database and its runs: `small` was over early, `run` goes on from step to step and is rewound."""

    db: Database
    small: str
    run: str
    last: int
    steps: Sequence[StepRecord]
    fill_s: float

    @classmethod
    def make(cls, path: Path, size: int, tokens: int) -> World:
        db, start = Database.open(str(path)), time.perf_counter()
        runs = fill(db, size, tokens)
        seconds, last = time.perf_counter() - start, runs[-1].step
        steps = [runs[-1].next_step() for _ in range(REWOUND)]
        return cls(db, runs[0].name, runs[-1].name, last, steps, seconds)

    def timed(self) -> dict[str, list[float]]:
        """Milliseconds by operation, each once, but every step that is recorded and rewound."""
        reads: dict[str, Callable[[], Any]] = {
            f"draw from {ALIVE} living errors": lambda: living_entries(self.db, self.run),
            "pool ls, 20 rows of one pool": lambda: list_entries(self.db, pool=self.run, limit=20),
            "pool ls, 20 rows of all pools": lambda: list_entries(self.db, limit=20),
            f"pool stats of a run with {SMALL:,} attempts": lambda: pool_stats(self.db, self.small),
            f"pool stats of a run with 1/{OTHERS} of all": lambda: pool_stats(self.db, self.run),
            "pool stats of all": lambda: pool_stats(self.db),
        }
        return {
            f"record a step of {GROUPS * SAMPLES} attempts": [
                clocked(record_step, self.db, self.run, s) for s in self.steps
            ],
            f"rewind {REWOUND} steps": [clocked(rewind, self.db, self.run, self.last)],
            **{name: [clocked(read)] for name, read in reads.items()},
        }


def clocked(work: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work(*arguments)
    return 1000 * (time.perf_counter() - start)


def measured(worlds: dict[int, World], repeats: int) -> dict[str, dict[int, dict[str, float | int]]]:
    """Spread of milliseconds by operation and size, the sizes in turn; the first round warms up."""
    found: dict[str, dict[int, list[float]]] = {}
    for repeat in range(repeats + 1):
        for size, world in worlds.items():
            for name, times in world.timed().items():
                found.setdefault(name, {}).setdefault(size, []).extend(times if repeat else [])
    return {name: {size: spread(times) for size, times in sizes.items()} for name, sizes in found.items()}


def stored(path: Path) -> dict[str, Any]:
    """Bytes per attempt: in all (without pages that a rewind has freed), by table and index, and of the large columns;
    tokens beside them.
    """
    sizes = ", ".join(f"avg(length({column}))" for column in ("text", *TOKEN_COLUMNS))
    with closing(sqlite3.connect(path)) as db:
        count, *means = db.execute(
            f"SELECT count(*), avg(n_prompt_tokens), avg(n_tokens), {sizes} FROM attempt"
        ).fetchone()
        parts = db.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC").fetchall()
    columns = dict(zip(("prompt_tokens", "tokens", "text", *TOKEN_COLUMNS), means, strict=True))
    by_part = {name: size / count for name, size in parts}
    return {"all": sum(by_part.values()), "columns": columns, "parts": by_part}


def times(found: dict[str, dict[int, dict[str, float | int]]]) -> Grid:
    sizes = list(next(iter(found.values())))
    lines = []
    for name, row in found.items():
        ratio = row[sizes[-1]]["median"] / row[sizes[0]]["median"]
        lines.append([name, *(shown(row[size], 1) for size in sizes), f"{ratio:,.1f}"])
    heads = [f"{size:,} attempts, ms" for size in sizes]
    return Grid("The error pool, medians (quartiles)", ["operation", *heads, "last / first"], lines)


def bytes_each(files: dict[int, dict[str, Any]]) -> Grid:
    """The mean tokens of prompt and answer stand beside their columns."""
    first = next(iter(files.values()))["columns"]
    tokens = {"prompt_ids": first["prompt_tokens"], "ids": first["tokens"], "logprobs": first["tokens"]}
    lines = [["in all", *(f"{file['all']:,.0f}" for file in files.values())]]
    lines.append(["indices of attempt", *(f"{indices(file['parts']):,.0f}" for file in files.values())])
    for column in ("text", *TOKEN_COLUMNS):
        name = f"{column}, {tokens[column]:,.0f} tokens" if column in tokens else column
        lines.append([name, *(f"{file['columns'][column]:,.0f}" for file in files.values())])
    heads = [f"{size:,} attempts" for size in files]
    return Grid("Bytes per attempt, means", ["of", *heads], lines)


def indices(parts: dict[str, float]) -> float:
    """Those of the table `attempt`, that of its key included."""
    return sum(size for name, size in parts.items() if name.startswith(("attempt_", "sqlite_autoindex_attempt_")))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000", metavar="N,N", help="attempts (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=100, help="median length of an answer (default 100)")
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds (default 3)")
    args = parser.parse_args()
    sizes = [3_000, 6_000] if args.quick else [int(size) for size in args.sizes.split(",")]
    before = machine()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as opened:
        paths = {size: Path(directory, f"{size}.db") for size in sizes}
        worlds = {size: World.make(path, size, args.tokens) for size, path in paths.items()}
        for world in worlds.values():
            opened.enter_context(world.db)
        found = measured(worlds, 1 if args.quick else args.repeats)
        files = {size: stored(path) for size, path in paths.items()}
    filled = {size: world.fill_s for size, world in worlds.items()}
    data = {"before": before, "tokens": args.tokens, "ms": found, "bytes": files, "fill_s": filled}
    report("pool", [times(found), bytes_each(files)], data, args.out)


if __name__ == "__main__":
    main()
