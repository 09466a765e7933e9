"""Grading processes that can be killed: math-verify hangs on some inputs, and nothing inside a process stops that.

`Judge` gives each comparison its own deadline. What the cheap pass settles never leaves the calling process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as DeadlineExceeded
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version

from pebble import ProcessPool

from scrpo_cli.errors import RunError
from scrpo_cli.tasks.grading.equal import cheap
from scrpo_cli.tasks.grading.rules import EXACT, GoldError, Rules
from scrpo_cli.types import Verdict

GRADER = f"math/2 math-verify={version('math-verify')} latex2sympy2-extended={version('latex2sympy2-extended')}"
DEADLINE_S = 5.0
CACHE_ITEMS = 50_000
MEMORY_BYTES = 4 << 30  # of one worker's address space: 10^10^10 is a 4 GB integer
MAX_ANSWER = 10_000  # characters
TASKS_PER_WORKER = 20_000  # then it is replaced: sympy's caches only grow


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison: a reference answer, a final answer and the problem's rules. Hashable: it is the cache's key."""

    gold: str
    pred: str
    rules: Rules = EXACT


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a question, with the reason where it is a timeout or an error."""

    verdict: Verdict
    reason: str | None = None


class Judge:
    """Answers questions in order, the hard ones in killable processes, which start with the first hard one.

    Safe to call from any thread. `deadline_s` bounds each item; a worker that exceeds it is killed and replaced.
    """

    def __init__(self, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self.workers = workers or max(1, min(8, (os.cpu_count() or 2) - 1))
        self.deadline_s = deadline_s
        self._pool: ProcessPool | None = None
        self._cache: dict[Question, Judgement] = {}
        self._lock = threading.Lock()

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement for each question."""
        with self._lock:
            known: dict[Question, Judgement | None] = {q: self._cache.get(q) or judge_cheaply(q) for q in questions}
            hard = [question for question, judgement in known.items() if judgement is None]
            decided = dict(zip(hard, self._judge_hard(hard), strict=True))
            self._remember(decided)
            return [known[q] or decided[q] for q in questions]

    def _judge_hard(self, questions: Sequence[Question]) -> list[Judgement]:
        if not questions:
            return []
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # forking a process that runs torch's threads deadlocks
            self._pool = ProcessPool(self.workers, TASKS_PER_WORKER, initializer=_start_worker, context=context)
        futures = [self._pool.schedule(judge_hard, args=(q,), timeout=self.deadline_s) for q in questions]
        return [self._outcome(future) for future in futures]

    def _outcome(self, future: Future[Judgement]) -> Judgement:
        error = future.exception()  # waits; every item ends by its own deadline
        if error is None:
            return future.result()
        if isinstance(error, DeadlineExceeded):
            return Judgement(Verdict.TIMEOUT, f"comparing took longer than {self.deadline_s:g} s")
        if isinstance(error, BrokenProcessPool):
            where = f"{self.workers} grading processes (multiprocessing spawn)"
            fix = "a script that grades needs `if __name__ == '__main__':` around its own code; else check the memory"
            raise RunError("the grading processes cannot start", where, fix) from error
        return Judgement(Verdict.ERROR, f"{type(error).__name__}: {error}"[:500])

    def _remember(self, decided: dict[Question, Judgement]) -> None:
        """Errors are asked again: a worker may have died of something else than its item."""
        self._cache.update((q, judgement) for q, judgement in decided.items() if judgement.verdict != Verdict.ERROR)
        for oldest in list(self._cache)[: max(0, len(self._cache) - CACHE_ITEMS)]:
            del self._cache[oldest]

    def close(self) -> None:
        """Ends the workers; the judge can be used again."""
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join()
                self._pool = None


def judge_cheaply(question: Question) -> Judgement | None:
    """The judgement where it needs no worker."""
    if len(question.pred) > MAX_ANSWER > len(question.gold):  # a runaway box; not worth a deadline
        return Judgement(Verdict.WRONG, f"longer than any answer: {len(question.pred)} characters")
    try:
        same = cheap(question.gold, question.pred, question.rules)
    except GoldError as error:
        return Judgement(Verdict.ERROR, str(error))
    return None if same is None else _judgement(same)


def judge_hard(question: Question) -> Judgement:
    """math-verify's judgement; runs in a worker."""
    from scrpo_cli.tasks.grading.symbolic import symbolic  # sympy: the calling process does not need it

    try:
        return _judgement(symbolic(question.gold, question.pred, question.rules))
    except GoldError as error:
        return Judgement(Verdict.ERROR, str(error))


def _judgement(same: bool) -> Judgement:
    return Judgement(Verdict.CORRECT if same else Verdict.WRONG)


def _start_worker() -> None:
    """Before the first item, so that no item pays for the import: quiet logs, bounded memory, parser warm."""
    logging.disable(logging.ERROR)
    if sys.platform == "linux":  # macOS refuses it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judge_hard(Question("\\frac{1}{2}", "\\sqrt{2}"))
