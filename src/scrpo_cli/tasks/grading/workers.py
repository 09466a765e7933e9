"""Grading processes that can be killed: math-verify hangs on some inputs, and nothing inside a process stops that.

`Judge` gives each comparison its own deadline. What the cheap pass settles never leaves the calling process.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from scrpo_cli.tasks.base import Judgement, remember
from scrpo_cli.tasks.grading.cheap import cheap, plain
from scrpo_cli.tasks.grading.copied import copied
from scrpo_cli.tasks.grading.numbers import EXACT, Rules, normalize
from scrpo_cli.tasks.processes import DeadlineExceeded, KillableProcesses, ProcessExpired
from scrpo_cli.types import Verdict

GRADER = f"math/3 math-verify={version('math-verify')} latex2sympy2-extended={version('latex2sympy2-extended')}"
COPIED = "a formula of the problem, where the reference answer is written differently"
DEADLINE_S = 5.0
MEMORY_BYTES = 4 << 30  # of one worker's address space: 10^10^10 is a 4 GB integer
MAX_ANSWER = 1_000  # characters; the longest reference answer of the eight sources has 210
MAX_DEPTH = 10  # brackets within brackets, in those reference answers 4; the parser's time doubles with two more
TASKS_PER_WORKER = 20_000  # then it is replaced: sympy's caches only grow

_BRACKET = re.compile(r"[()\[\]{}]")


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison: a reference answer, a final answer, the problem's rules and, where it is known, its text.
    Hashable: it is the cache's key.
    """

    gold: str
    pred: str
    rules: Rules = EXACT
    problem: str = ""


class Judge:
    """Answers questions in order, the hard ones in killable processes, which start with the first hard one.

    Whether a reference answer can be read is decided by it alone, before any answer to it is compared: so no answer can
    have itself left out. Safe to call from any thread. `deadline_s` bounds each item; a worker that exceeds it is
    killed and replaced.
    """

    def __init__(self, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self.processes = KillableProcesses(workers, deadline_s, _start_worker, calls=TASKS_PER_WORKER)
        self._cache: dict[Question, Judgement] = {}
        self._golds: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement for each question."""
        with self._lock:
            unreadable = self._read(q.gold for q in questions)
            known = {q: _unread(unreadable.get(q.gold)) or self._cache.get(q) or judge_cheaply(q) for q in questions}
            hard = [question for question, judgement in known.items() if judgement is None]
            decided = dict(zip(hard, self._judge_hard(hard), strict=True))
            remember(self._cache, decided)
            return [known[q] or decided[q] for q in questions]

    def unreadable(self, golds: Iterable[str]) -> dict[str, str]:
        """The reference answers that cannot be read, each with the reason."""
        with self._lock:
            return self._read(golds)

    def _read(self, golds: Iterable[str]) -> dict[str, str]:
        """See `unreadable`; what is known of a reference answer is kept as long as the judge is."""
        wanted = list(dict.fromkeys(golds))
        new = {gold: normalize(gold) for gold in wanted if gold not in self._golds}
        hard = [gold for gold, text in new.items() if text and not plain(text)]
        self._golds |= {gold: None if text else "the reference answer is empty" for gold, text in new.items()}
        found = self._ask(read_reference, hard)
        again = [gold for gold in hard if isinstance(found[gold], BaseException)]  # it may have been the machine
        found |= self._ask(read_reference, again)
        for gold, reads in found.items():
            if reads is not True:
                why = f" ({self._why(reads)})" if isinstance(reads, BaseException) else ""
                self._golds[gold] = f"the reference answer cannot be read: {gold[:80]!r}{why}"
        return {gold: reason for gold in wanted if (reason := self._golds[gold])}

    def _judge_hard(self, questions: Sequence[Question]) -> list[Judgement]:
        """An answer that fails its comparison is to blame: its reference answer could be read without it.

        Else a policy could learn answers that crash the grader: a `grader_error` is left out of its groups.
        """
        found = self._ask(judge_hard, questions)
        found |= self._ask(judge_hard, [q for q in questions if isinstance(found[q], ProcessExpired)])  # another's?
        return [self._settled(found[q]) for q in questions]

    def _ask(self, function: Callable[[Any], Any], items: Sequence[Any]) -> dict[Any, Any]:
        """What the function says of each item, or what its worker ended with."""
        where = f"{self.processes.workers} grading processes (multiprocessing spawn)"
        return dict(zip(items, self.processes.map(function, [(item,) for item in items], where), strict=True))

    def _settled(self, found: Judgement | BaseException) -> Judgement:
        if isinstance(found, Judgement):
            return found
        if isinstance(found, DeadlineExceeded | ProcessExpired | MemoryError | RecursionError):
            return Judgement(Verdict.TIMEOUT, f"comparing {self._why(found)}")
        return Judgement(Verdict.WRONG, f"the answer cannot be compared: {self._why(found)}")

    def _why(self, error: BaseException) -> str:
        if isinstance(error, DeadlineExceeded):
            return f"took longer than {self.deadline_s:g} s"
        if isinstance(error, MemoryError):
            return f"took more than {MEMORY_BYTES >> 30} GiB"
        if isinstance(error, RecursionError):
            return "went too deep"
        if isinstance(error, ProcessExpired):
            return f"ended its process (exit code {error.exitcode}), which may have run out of memory"
        return f"{type(error).__name__}: {error}"[:500]

    def close(self) -> None:
        """Ends the workers; the judge can be used again."""
        with self._lock:
            self.processes.close()


def _unread(reason: str | None) -> Judgement | None:
    """The judgement on every answer to a reference that cannot be read."""
    return Judgement(Verdict.GRADER_ERROR, reason) if reason else None


def judge_cheaply(question: Question) -> Judgement | None:
    """The judgement where it needs no worker."""
    if reason := _runaway(question):
        return Judgement(Verdict.WRONG, reason)
    same = cheap(question.gold, question.pred, question.rules)
    if same and question.problem and copied(question.pred, question.problem, question.gold):
        return Judgement(Verdict.WRONG, COPIED)
    return None if same is None else _judgement(same)


def _runaway(question: Question) -> str | None:
    """Why an answer is wrong without a look: how long a parser takes over it depends on the machine."""
    gold, pred = question.gold, question.pred
    if len(pred) > max(MAX_ANSWER, 4 * len(gold)):
        return f"longer than any answer: {len(pred)} characters"
    if len(pred) > MAX_DEPTH and (nested := depth(pred)) > MAX_DEPTH and nested > depth(gold):
        return f"nested deeper than any answer: {nested} brackets"
    return None


def depth(text: str) -> int:
    """How many brackets are open at once at most; those that never close count too."""
    deepest = now = 0
    for bracket in _BRACKET.finditer(text):
        now = max(0, now + (1 if bracket[0] in "([{" else -1))
        deepest = max(deepest, now)
    return deepest


def judge_hard(question: Question) -> Judgement:
    """math-verify's judgement; runs in a worker."""
    from scrpo_cli.tasks.grading.symbolic import restated, symbolic  # sympy: the calling process does not need it

    gold, pred, problem = question.gold, question.pred, question.problem
    same = symbolic(gold, pred, question.rules)
    if same and problem and (copied(pred, problem, gold) or restated(pred, problem, gold)):
        return Judgement(Verdict.WRONG, COPIED)
    return _judgement(same)


def read_reference(gold: str) -> bool:
    """Whether a reference answer can be read; runs in a worker."""
    from scrpo_cli.tasks.grading.symbolic import readable

    return readable(gold)


def _judgement(same: bool) -> Judgement:
    return Judgement(Verdict.CORRECT if same else Verdict.WRONG)


def _start_worker() -> None:
    """Before the first item, so that no item pays for the import: quiet logs, bounded memory, parser warm."""
    logging.disable(logging.ERROR)
    if sys.platform == "linux":  # macOS refuses it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judge_hard(Question("\\frac{1}{2}", "\\sqrt{2}"))
