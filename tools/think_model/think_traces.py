"""Generated traces that the thinking model is fine-tuned on: attempts that check themselves, reflections, repairs.

The student of this world writes a line in one go and nearly always gets a carry (or a borrow) wrong, by one less. It
can *check* a line: it writes the digits out on a line of its own, says what comes out, and goes on from there. In a
first answer it seldom does; told that it is wrong, it does so often. A check has the same tokens in both places, so a
first answer can hold what a reflection teaches:

    47+38=84
    Check 7+8=15 4+3+1=8 85 not
    85-29=56

Errors have one sign. With errors of either sign a third of the wrong chains would come out right by cancellation, and
luck would be rewarded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scrpo_cli.tasks.tiny import Chain, Step, draw_chain, split_of

TOLD_WRONG = "Your answer is wrong. Find the mistake, then solve again."
ASKED = "Check your answer. Correct it if needed."
RETRY = "Your answer is wrong. Solve again."
DENSE = {"Check every line.": 1.0, "Check most lines.": 0.7, "Check some lines.": 0.4}
"""Requests for a first answer with checks, and how likely a line's check then is."""


@dataclass(frozen=True)
class World:
    """Rates of the fine-tuning world; all are probabilities.

    `check_first` is a line's chance of a check in a first answer, `check_told` the same after being told wrong.
    """

    carry_wrong: float = 0.95  # a line with a carry or a borrow, written in one go, is one too small
    slip: float = 0.005  # ... any other line
    check_first: float = 0.12
    check_told: float = 0.70
    miss: float = 0.05  # a check finds a wrong line right
    false: float = 0.01  # ... and a right line wrong
    asked_slip: float = 0.10  # asked to check without being told, it copies a line one too small, and goes on from it
    asked_redo: float = 0.25  # ... and it solves the problem anew, whatever it found
    dense: float = 0.40  # share of conversations that ask for checks in a first answer
    told: float = 0.40  # ... that are told wrong (where they are)
    retry: float = 0.04  # ... told wrong, without a request to reflect


@dataclass(frozen=True)
class Line:
    """One line: what was written in one go, and the result that its check came to (None: no check)."""

    step: Step
    quick: int
    checked: int | None = None

    @property
    def result(self) -> int:
        """With which the chain goes on."""
        return self.quick if self.checked is None else self.checked

    def text(self) -> str:
        line = f"{self.step.a}{self.step.op}{self.step.b}={self.quick}"
        return line if self.checked is None else f"{line}\n{check(self.step, self.quick, self.checked)}"

    def kept(self) -> Line:
        """As a later solution repeats it: with its result, and without the check."""
        return Line(self.step, self.result)


def check(step: Step, quick: int, found: int) -> str:
    """The digits of a line written out so that they come to `found`: the right result, or one less or more of it."""
    ta, ua, tb, ub = step.a // 10, step.a % 10, step.b // 10, step.b % 10
    off, carry = found - step.result, step.carries
    if step.op == "+":
        units, tens = f"{ua}+{ub}={ua + ub + off}", f"{ta}+{tb}{'+1' * carry}={ta + tb + carry}"
    else:
        top = ua + 10 * carry
        units, tens = f"{top}-{ub}={top - ub + off}", f"{ta}-{tb}{'-1' * carry}={ta - tb - carry}"
    return f"Check {units} {tens} {found} {'ok' if found == quick else 'not'}"


def checked(step: Step, quick: int, miss: float, false: float, rng: random.Random) -> Line:
    """The line with a check, which may miss its mistake or see one where none is."""
    right = quick == step.result
    found = quick - 1 if right and rng.random() < false else quick if rng.random() < miss else step.result
    return Line(step, quick, found)


def attempt(chain: Chain, world: World, rate: float, rng: random.Random, keep: tuple[Line, ...] = ()) -> list[Line]:
    """Solve line by line after the lines to keep, and check each with probability `rate`."""
    lines = list(keep)
    value = lines[-1].result if lines else chain.start
    for op, n in chain.terms[len(lines) :]:
        step = Step(value, op, n)
        wrong = rng.random() < (world.carry_wrong if step.carries else world.slip)
        quick = step.result - wrong
        line = checked(step, quick, world.miss, world.false, rng) if rng.random() < rate else Line(step, quick)
        value = line.result
        if min(value, quick, step.result) < 0:  # a wrong line can lead a chain below zero
            raise OutOfRange
        lines.append(line)
    return lines


class OutOfRange(ValueError):
    """The student's errors led to a line that cannot be written; the trace is drawn again."""


def solution(lines: list[Line]) -> str:
    return "\n".join(line.text() for line in lines) + f"\n\\boxed{{{lines[-1].result}}}"


def second_turn(chain: Chain, first: list[Line], told: bool, world: World, rng: random.Random) -> str:
    """The attempt's lines copied, and a solution after them.

    Told that it is wrong, the student checks most lines, until it finds a mistake, and goes on from there. Asked to
    check without being told, it checks nothing: it agrees with itself, but copies a line wrong now and then, or starts
    anew.
    """
    analysis: list[Line] = []
    for line in first:
        seen = line if told else line.kept()
        if told and line.checked is None and rng.random() < world.check_told:
            seen = checked(line.step, line.quick, world.miss, world.false, rng)
        elif not told and rng.random() < world.asked_slip:
            seen = Line(line.step, line.result - 1)
        analysis.append(seen)
        if seen.result != line.result:
            break
    if min(line.result for line in analysis) < 0:
        raise OutOfRange
    redo = not told and rng.random() < world.asked_redo
    kept = () if redo else tuple(line.kept() for line in analysis)
    repaired = attempt(chain, world, world.check_told if told else 0.0, rng, kept)
    listed = "\n".join(line.text() for line in analysis)
    return f"Analysis:\n{listed}\nCorrected Solution:\n{solution(repaired)}"


def conversation(chain: Chain, world: World, rng: random.Random) -> list[tuple[str, str]]:
    """Turns (user, assistant): an attempt, then a reflection, a check or a retry; or one that was asked for checks.

    The last kind gives a first answer the skill of many checks without the habit: a model without it loses its place in
    the chain as soon as training makes it check more.
    """
    roll = rng.random()
    if roll < world.dense:
        request, rate = rng.choice([*DENSE.items()])
        asked = rng.choice((f"{chain.text}\n{request}", f"{request}\n{chain.text}"))
        return [(asked, solution(attempt(chain, world, rate, rng)))]
    first = attempt(chain, world, world.check_first, rng)
    turns = [(chain.text, solution(first))]
    wrong = first[-1].result != chain.answer
    if wrong and roll < world.dense + world.retry:
        return [*turns, (RETRY, solution(attempt(chain, world, world.check_first, rng)))]
    told = wrong and roll < world.dense + world.retry + world.told
    return [*turns, (TOLD_WRONG if told else ASKED, second_turn(chain, first, told, world, rng))]


def draw_conversation(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """A conversation on a problem of the train split, of one to six lines."""
    while True:
        chain = draw_chain(rng, *[rng.choice((1, 2, 3, 3, 4, 4, 4, 5, 6))] * 2)
        if split_of(chain.text) != "train":
            continue
        try:
            return conversation(chain, world, rng)
        except OutOfRange:
            continue
