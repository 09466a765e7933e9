"""Answers graded per second: a simple and a hard mix, one and two workers, against plain math-verify on the same pairs.

python bench/grading.py [--quick] [--repeats N]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from measuring import Grid, machine, options, report, shown, spread

from scrpo_cli.tasks.grading.workers import GRADER, Judge, Question
from scrpo_cli.types import Verdict

Pair = tuple[str, str, bool]  # reference, answer, whether they are equal

SIMPLE: list[Callable[[int], Pair]] = [
    lambda i: (f"{i}", f"{i}", True),
    lambda i: (f"{i}", f"{i + 1}", False),
    lambda i: (f"{1000 * i}", f"\\${1000 * i:,}.00", True),
    lambda i: (f"\\frac{{{i}}}{{{i + 1}}}", f"{i}/{i + 1}", True),
    lambda i: (f"{i}.5", f"\\frac{{{2 * i + 1}}}{{2}}", True),
    lambda i: (f"{i}", f"{i} \\text{{ apples}}", True),
    lambda i: (f"({i}, {i + 1})", f"({i}, {i + 2})", False),
    lambda i: ("\\text{(C)}", f"(C) {i}", True),
]
HARD: list[Callable[[int], Pair]] = [
    lambda i: (f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}", True),
    lambda i: (f"(x+{i})^2", f"x^2+{2 * i}x+{i * i + 1}", False),
    lambda i: (f"\\frac{{1}}{{\\sqrt{{{i}}}}}", f"\\frac{{\\sqrt{{{i}}}}}{{{i}}}", True),
    lambda i: (f"y = {i}x + 1", f"y - {i}x = 1", True),
    lambda i: (f"(-\\infty, {i}) \\cup ({i + 5}, \\infty)", f"({i + 5}, \\infty) \\cup (-\\infty, {i})", True),
    lambda i: (f"{i}\\pi", f"{i}\\pi^2", False),
    lambda i: (f"\\binom{{{i + 5}}}{{2}}", f"{(i + 5) * (i + 4) // 2}", True),
    lambda i: (f"\\frac{{x+{i}}}{{x^2-1}}", f"\\frac{{x-{i}}}{{x^2-1}}", False),
]


def pairs(mix: list[Callable[[int], Pair]], count: int, start: int) -> list[Pair]:
    """`count` pairs, all different from those of another start: nothing is remembered from one repeat to the next."""
    return [mix[i % len(mix)](start + i + 2) for i in range(count)]


def ours(judge: Judge, asked: list[Pair]) -> tuple[float, int]:
    """Seconds for all pairs, and how many verdicts are as expected."""
    questions = [Question(gold, pred) for gold, pred, _ in asked]
    start = time.perf_counter()
    judged = judge(questions)
    seconds = time.perf_counter() - start
    return seconds, sum((j.verdict is Verdict.CORRECT) == same for j, (*_, same) in zip(judged, asked))


def theirs(asked: list[Pair]) -> tuple[float, int]:
    """The same with `verify(parse(...), parse(...))`, as its documentation has it."""
    from math_verify import parse, verify

    start = time.perf_counter()
    judged = [verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{pred}}}")) for gold, pred, _ in asked]
    seconds = time.perf_counter() - start
    return seconds, sum(bool(found) == same for found, (*_, same) in zip(judged, asked))


def measured(mix: list[Callable[[int], Pair]], count: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Spread of answers per second, by grader, the graders in turn; the first round warms up."""
    judges = {f"scrpo, {n} worker{'s' * (n > 1)}": Judge(workers=n) for n in (1, 2)}
    graders: dict[str, Callable[[list[Pair]], tuple[float, int]]] = {
        name: lambda asked, judge=judge: ours(judge, asked) for name, judge in judges.items()
    }
    graders["math-verify, 1 process"] = theirs
    speeds: dict[str, list[float]] = {name: [] for name in graders}
    expected = dict.fromkeys(graders, 0)
    for repeat in range(repeats + 1):
        asked = pairs(mix, count, repeat * count)
        for name, grader in graders.items():
            seconds, agreed = grader(asked)
            if repeat:
                speeds[name].append(count / seconds)
                expected[name] += agreed
    for judge in judges.values():
        judge.close()
    return {
        name: {"answers_per_s": spread(speeds[name]), "as_expected": expected[name] / (count * repeats)}
        for name in graders
    }


def grid(found: dict[str, dict[str, dict[str, Any]]]) -> Grid:
    lines = []
    for mix, rows in found.items():
        base = rows["math-verify, 1 process"]["answers_per_s"]["median"]
        for name, row in rows.items():
            speed = row["answers_per_s"]
            ratio = f"{speed['median'] / base:,.1f}"
            lines.append([mix, name, shown(speed, 0), ratio, f"{row['as_expected']:.1%}"])
    return Grid("Grading, medians (quartiles)", ["mix", "grader", "answers/s", "ratio", "as expected"], lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats (default 5)")
    args = parser.parse_args()
    repeats, scale = (2, 5) if args.quick else (args.repeats, 1)
    before = machine()
    counts = {"simple": (SIMPLE, 400 // scale), "hard": (HARD, 200 // scale)}
    found = {name: measured(mix, count, repeats) for name, (mix, count) in counts.items()}
    report("grading", [grid(found)], {"grader": GRADER, "before": before, "mixes": found}, args.out)


if __name__ == "__main__":
    main()
