"""Generated traces that the tiny model is pre-trained on: attempts with blind spots, reflections, repairs.

The student of this world computes a line in one go and sometimes forgets the carry (or the borrow). It has
*blind spots*: operations (such as minus a number that ends in 7) at which it forgets far more often than elsewhere, so
errors stick to a problem instead of being washed out by trying again. When it reflects it writes the digits out, which
is longer and more reliable. What a trace may contain, and how often, is in `World`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scrpo_cli.tasks.tiny import Chain, Step, draw_chain, split_of

TOLD_WRONG = "Your answer is wrong. Find the mistake, then solve again."
CHECK = "Check your answer. Correct it if needed."
RETRY = "Your answer is wrong. Solve again."


@dataclass(frozen=True)
class World:
    """Rates of the pre-training world; all are probabilities."""

    forget_blind: float = 0.85  # forget the carry at a blind spot, writing the line in one go
    forget: float = 0.07  # ... elsewhere
    slip: float = 0.02  # any line: a random wrong digit
    told_miss: float = 0.25  # told that it is wrong, reflecting: fails to see a wrong line
    told_false: float = 0.05  # ... and takes a right line for a wrong one
    check_miss: float = 0.8  # asked to check: fails to see a wrong line
    check_false: float = 0.25  # ... takes a right line for a wrong one
    seed: int = 0

    def blind(self, step: Step) -> bool:
        """Whether this line is a blind spot: half of the unit digits 2 to 9 of the second number, for each operator."""
        digits = random.Random(f"blind:{self.seed}:{step.op}").sample(range(2, 10), 4)
        return step.carries and step.b % 10 in digits


def forgotten(step: Step) -> int:
    """The line's result without its carry or borrow (tens off by one)."""
    return step.result + (-10 if step.op == "+" else 10)


def quick_result(step: Step, world: World, rng: random.Random) -> int:
    """A line written in one go, with the student's errors."""
    if rng.random() < world.slip:
        return max(0, step.result + rng.choice((-10, -2, -1, 1, 2, 10)))
    if step.carries and rng.random() < (world.forget_blind if world.blind(step) else world.forget):
        return forgotten(step)
    return step.result


def line(step: Step, result: int) -> str:
    return f"{step.a}{step.op}{step.b}={result}"


Lines = list[tuple[Step, int]]


class OutOfRange(ValueError):
    """The student's errors led to a line that cannot be written; the trace is drawn again."""


def attempt(chain: Chain, world: World, rng: random.Random, keep: Lines | None = None) -> Lines:
    """Solve line by line, after the lines to keep (a correction keeps what was right)."""
    lines: Lines = list(keep or [])
    value = lines[-1][1] if lines else chain.start
    for op, n in chain.terms[len(lines) :]:
        step = Step(value, op, n)
        value = quick_result(step, world, rng)
        if min(value, step.result) < 0:  # a wrong line can lead a chain below zero
            raise OutOfRange
        lines.append((step, value))
    return lines


def solution(lines: Lines) -> str:
    return "\n".join(line(s, r) for s, r in lines) + f"\n\\boxed{{{lines[-1][1]}}}"


def worked(step: Step, result: int) -> str:
    """The digits of a line written out so that they lead to `result` (right, or with the carry forgotten)."""
    ta, ua, tb, ub = step.a // 10, step.a % 10, step.b // 10, step.b % 10
    carry = step.carries and result != forgotten(step)
    if step.op == "+":
        units, tens = f"{ua}+{ub}={ua + ub}", f"{ta}+{tb}" + ("+1" if carry else "") + f"={ta + tb + carry}"
    else:
        top = ua + 10 if step.carries else ua
        units, tens = f"{top}-{ub}={top - ub}", f"{ta}-{tb}" + ("-1" if carry else "") + f"={ta - tb - carry}"
    return f"{step.a}{step.op}{step.b}: {units} {tens} "


def reflect(chain: Chain, lines: Lines, told: bool, world: World, rng: random.Random) -> tuple[str, Lines]:
    """Check line by line up to the first one held for wrong; correct from there."""
    miss, false = (world.told_miss, world.told_false) if told else (world.check_miss, world.check_false)
    analysis = []
    for i, (step, result) in enumerate(lines):
        right = result == step.result
        if right and step.carries and rng.random() < false:
            verdict = forgotten(step)
        elif not right and result == forgotten(step) and rng.random() < miss:
            verdict = result  # works it out with the same forgotten carry, and agrees with itself
        else:
            verdict = step.result
        if verdict == result:
            analysis.append(f"{worked(step, verdict)}{verdict} ok")
            continue
        analysis.append(f"{worked(step, verdict)}{verdict} not {result}")
        return "\n".join(analysis), attempt(chain, world, rng, [*lines[:i], (step, verdict)])
    return "\n".join(analysis), lines


def second_turn(analysis: str, lines: Lines) -> str:
    return f"Analysis:\n{analysis}\nCorrected Solution:\n{solution(lines)}"


def conversation(chain: Chain, world: World, rng: random.Random) -> list[tuple[str, str]]:
    """Two turns [(user, assistant), (user, assistant)]: an attempt, then a reflection, a check or a retry."""
    first = attempt(chain, world, rng)
    turns = [(chain.text, solution(first))]
    wrong = first[-1][1] != chain.answer
    roll = rng.random()
    if wrong and roll < 0.12:
        return [*turns, (RETRY, solution(attempt(chain, world, rng)))]
    told = wrong and roll < 0.6
    analysis, lines = reflect(chain, first, told, world, rng)
    return [*turns, (TOLD_WRONG if told else CHECK, second_turn(analysis, lines))]


def draw_conversation(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """A conversation on a problem of the train split."""
    while True:
        chain = draw_chain(rng)
        if split_of(chain.text) != "train":
            continue
        try:
            return conversation(chain, world, rng)
        except OutOfRange:
            continue
