"""Programming problems: the program of a response is run against the problem's tests, sandboxed (docs/data.md)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.base import BaseTask, Judgement, remember
from scrpo_cli.tasks.code.execute import Tests, check, find_isolation
from scrpo_cli.tasks.code.extract import ExtractedProgram, extract_program
from scrpo_cli.tasks.code.isolation import Limits
from scrpo_cli.tasks.code.sources import fenced, load_code
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Grade, Message, Problem, Verdict

VERSION = "code/2"
PATIENCE = 4
"""Seconds on the clock for each second of CPU time that a program may use."""
NO_PROGRAM = {"thinking": "the response never leaves <think>", "nothing": "no program found"}


Submission = tuple[str, Tests]
"""A program and the tests that it is to pass; the cache's key."""


class CodeTask(BaseTask):
    """Problems with tests. Wrong is what does not pass them all, whatever the reason; `timeout` what does not end."""

    name = "code"
    votes = False  # two programs can do the same in different words

    def __init__(self, cfg: TaskConfig) -> None:
        super().__init__(cfg)
        self._isolation = find_isolation(cfg.sandbox.level)
        self._limits = limits_of(cfg)
        self._workers = cfg.grading.processes or max(1, min(8, os.cpu_count() or 1))
        self._cache: dict[Submission, Judgement] = {}
        self.grader = f"{VERSION} python={sys.version_info[0]}.{sys.version_info[1]} sandbox={self._isolation.level}"

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        return load_code(cfg)

    def messages(self, problem: Problem) -> list[Message]:
        """The first turn, after the worked examples of `task.shots` if they are of the problem's source."""
        *system, question = super().messages(problem)
        return [
            *system,
            *(m for shot in self._shots if shot.source == problem.source for m in self._shown(shot)),
            question,
        ]

    @cached_property
    def _shots(self) -> Sequence[Problem]:
        shots = load_code(self.cfg.shots) if self.cfg.shots else []
        if unsolved := [shot.id for shot in shots if not shot.answer]:
            raise UserError(f"the worked example {unsolved[0]} has no solution", "task.shots", "Use another source.")
        return shots

    def _shown(self, shot: Problem) -> list[Message]:
        return [super().messages(shot)[-1], {"role": "assistant", "content": fenced(shot.answer)}]

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        found = [program_of(problem, response) for problem, response in pairs]
        submissions = [submission_of(problem, e.program) for (problem, _), e in zip(pairs, found, strict=True)]
        judged = self._judge([submission for submission in submissions if submission is not None])
        return [self._grade(e, submission, judged) for e, submission in zip(found, submissions, strict=True)]

    def _grade(
        self, found: ExtractedProgram, submission: Submission | None, judged: Mapping[Submission, Judgement]
    ) -> Grade:
        if found.program is None:
            return Grade(Verdict.UNPARSABLE, None, NO_PROGRAM[found.how], self.grader)
        if submission is None:
            reason = "the problem has no tests (meta: entry_point, tests)"
            return Grade(Verdict.GRADER_ERROR, found.program, reason, self.grader)
        return Grade(judged[submission].verdict, found.program, judged[submission].reason, self.grader)

    def _judge(self, submissions: Sequence[Submission]) -> dict[Submission, Judgement]:
        """Each different one once, `workers` at a time. Errors are not remembered: it may have been the machine."""
        new = [submission for submission in dict.fromkeys(submissions) if submission not in self._cache]
        given_up = threading.Event()
        with ThreadPoolExecutor(self._workers) as threads, ExitStack() as stack:
            stack.callback(given_up.set)  # Ctrl-C does not wait for what still runs
            judgements = threads.map(partial(self._check, given_up), new)
            judged = dict(zip(now().each(new), judgements, strict=True))
        known = {s: self._cache[s] for s in submissions if s in self._cache}
        remember(self._cache, {s: j for s, j in judged.items() if j.verdict is not Verdict.GRADER_ERROR})
        return known | judged

    def _check(self, given_up: threading.Event, submission: Submission) -> Judgement:
        program, tests = submission
        return check(program, tests, self._limits, self._isolation, given_up)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Whether two programs do the same is not decidable, and without tests there is nothing to try."""
        fix = "Give rows with prompt, entry_point, tests and response."
        raise UserError("the task 'code' cannot compare two answers without tests", "gold, pred", fix)


def limits_of(cfg: TaskConfig) -> Limits:
    """`task.grading.deadline` bounds the time, `task.sandbox` the rest. Time is CPU time, so that neither the number of
    workers nor what else the machine does changes a verdict; a program that sleeps ends at PATIENCE times as much.
    """
    section, seconds = cfg.sandbox, cfg.grading.deadline
    return Limits(
        wall_s=PATIENCE * seconds,
        cpu_s=seconds,
        memory_mib=section.memory_mib,
        processes=section.processes,
        file_mib=section.file_mib,
        disk_mib=section.disk_mib,
    )


def program_of(problem: Problem, response: str) -> ExtractedProgram:
    """The program of a response to a problem."""
    return extract_program(response, str(problem.meta.get("entry_point", "")), str(problem.meta.get("prompt", "")))


def submission_of(problem: Problem, program: str | None) -> Submission | None:
    """What there is to run; None without a program or without tests."""
    tests, name, modules = (problem.meta.get(field) for field in ("tests", "entry_point", "modules"))
    if program is None or not isinstance(tests, str) or not isinstance(name, str):
        return None
    return program, Tests(tests, name, tuple(sorted((modules or {}).items())))
