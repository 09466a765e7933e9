"""Grading processes that can be killed: math-verify hangs on some inputs, and nothing inside a process stops that.

`Judge` gives each comparison its own deadline. What the cheap pass settles never leaves the calling process.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from scrpo_cli.tasks.base import Judgement, remember
from scrpo_cli.tasks.grading.cheap import cheap
from scrpo_cli.tasks.grading.numbers import EXACT, GoldError, Rules
from scrpo_cli.tasks.processes import DeadlineExceeded, KillableProcesses, ProcessExpired
from scrpo_cli.types import Verdict

GRADER = f"math/2 math-verify={version('math-verify')} latex2sympy2-extended={version('latex2sympy2-extended')}"
DEADLINE_S = 5.0
MEMORY_BYTES = 4 << 30  # of one worker's address space: 10^10^10 is a 4 GB integer
MAX_ANSWER = 1_000  # characters; the longest reference answer of the eight sources has 210
MAX_DEPTH = 10  # brackets within brackets, in those reference answers 4; the parser's time doubles with two more
PROBE = "0"  # an answer that is no trouble: what fails with it fails because of the reference answer
TASKS_PER_WORKER = 20_000  # then it is replaced: sympy's caches only grow

_BRACKET = re.compile(r"[()\[\]{}]")


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison: a reference answer, a final answer and the problem's rules. Hashable: it is the cache's key."""

    gold: str
    pred: str
    rules: Rules = EXACT


class Judge:
    """Answers questions in order, the hard ones in killable processes, which start with the first hard one.

    Safe to call from any thread. `deadline_s` bounds each item; a worker that exceeds it is killed and replaced.
    """

    def __init__(self, workers: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self.processes = KillableProcesses(workers, deadline_s, _start_worker, calls=TASKS_PER_WORKER)
        self._cache: dict[Question, Judgement] = {}
        self._lock = threading.Lock()

    def __call__(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement for each question."""
        with self._lock:
            known: dict[Question, Judgement | None] = {q: self._cache.get(q) or judge_cheaply(q) for q in questions}
            hard = [question for question, judgement in known.items() if judgement is None]
            decided = dict(zip(hard, self._judge_hard(hard), strict=True))
            remember(self._cache, {q: judgement for q, judgement in decided.items() if judgement.lasting})
            return [known[q] or decided[q] for q in questions]

    def _judge_hard(self, questions: Sequence[Question]) -> list[Judgement]:
        """An answer that fails its comparison is to blame, unless its reference answer fails by itself.

        Else a policy could learn answers that crash the grader: a `grader_error` is left out of its groups.
        """
        found = self._ask(questions)
        found |= self._ask([q for q in questions if isinstance(found[q], ProcessExpired)])  # killed for another's sake?
        failed = [q for q in questions if isinstance(found[q], BaseException)]
        probes = {q: Question(q.gold, PROBE, q.rules) for q in failed}
        golds = self._ask(list(dict.fromkeys(probes.values())))
        return [self._settled(found[q], golds.get(probes[q]) if q in probes else None) for q in questions]

    def _ask(self, questions: Sequence[Question]) -> dict[Question, Judgement | BaseException]:
        """Each question's judgement, or what its worker ended with."""
        where = f"{self.processes.workers} grading processes (multiprocessing spawn)"
        return dict(zip(questions, self.processes.map(judge_hard, [(q,) for q in questions], where), strict=True))

    def _settled(self, found: Judgement | BaseException, gold: Judgement | BaseException | None) -> Judgement:
        if isinstance(found, Judgement):
            return found
        if isinstance(gold, BaseException):
            reason = f"the reference answer cannot be compared: {self._why(gold)}"
            return Judgement(Verdict.GRADER_ERROR, reason, lasting=not isinstance(gold, ProcessExpired))
        if gold is not None and gold.verdict is Verdict.GRADER_ERROR:
            return gold
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


def judge_cheaply(question: Question) -> Judgement | None:
    """The judgement where it needs no worker."""
    if reason := _runaway(question):
        return Judgement(Verdict.WRONG, reason)
    try:
        same = cheap(question.gold, question.pred, question.rules)
    except GoldError as error:
        return Judgement(Verdict.GRADER_ERROR, str(error))
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
    from scrpo_cli.tasks.grading.symbolic import symbolic  # sympy: the calling process does not need it

    try:
        return _judgement(symbolic(question.gold, question.pred, question.rules))
    except GoldError as error:
        return Judgement(Verdict.GRADER_ERROR, str(error))


def _judgement(same: bool) -> Judgement:
    return Judgement(Verdict.CORRECT if same else Verdict.WRONG)


def _start_worker() -> None:
    """Before the first item, so that no item pays for the import: quiet logs, bounded memory, parser warm."""
    logging.disable(logging.ERROR)
    if sys.platform == "linux":  # macOS refuses it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judge_hard(Question("\\frac{1}{2}", "\\sqrt{2}"))
