"""Score policies that solve nothing, on the benchmarks, with the real grader; a table of docs/validation/grading.md.

    python tools/copying.py                                  # every benchmark, at most 1,000 problems of each
    python tools/copying.py --benchmarks math500 --sample 0  # all problems of one
    python tools/copying.py --json copied.json               # and every answer that counts as correct

A policy makes its answer from the problem's text alone: it copies a formula, hedges with all numbers, or tries to be
left out of the average. What it scores is what a policy in training can earn without solving anything; a last number
is right by chance where a problem happens to name its answer. The data are looked for in SCRPO_DATA_DIR.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import Task, make_task
from scrpo_cli.types import Grade, Problem, Verdict

BENCHMARKS = {
    "gsm8k": ("gsm8k", "test"),
    "math500": ("math500", "test"),
    "math train": ("math", "train"),
    "math test": ("math", "test_minus_500"),
    "olympiadbench": ("olympiadbench", "test"),
    "minerva": ("minerva_math", "test"),
    "aime24": ("aime24", "test"),
    "aime25": ("aime25", "test"),
    "amc23": ("amc23", "test"),
}
"""Name -> source and split."""
FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
FORMULA = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
RELATION = re.compile(r"[=<>≤≥]|\\(?:le|ge|leq|geq|leqslant|geqslant|equiv|in|lt|gt)(?![a-zA-Z])")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")


def formulas(text: str) -> list[str]:
    """What stands between dollars or brackets, in order, without figures and without the last full stop."""
    found = ("".join(groups) for groups in FORMULA.findall(FIGURE.sub("", text)))
    return [formula.strip().rstrip(".,;? ") for formula in found if formula.strip()]


def numbers(text: str) -> list[str]:
    """The different numbers of a text, in order."""
    return list(dict.fromkeys(NUMBER.findall(FIGURE.sub("", text))))


def last(found: Sequence[str]) -> str:
    return found[-1] if found else ""


POLICIES: Mapping[str, Callable[[str], str]] = {
    "last formula": lambda text: last(formulas(text)),
    "longest formula": lambda text: max(formulas(text), key=len, default=""),
    "last relation": lambda text: last([formula for formula in formulas(text) if RELATION.search(formula)]),
    "last number": lambda text: last(NUMBER.findall(FIGURE.sub("", text))),
    "escape": lambda text: "x<2 or x>3",
    "whole problem": lambda text: text,
    "all numbers": lambda text: ", ".join(numbers(text)),
    "any number": lambda text: " or ".join(numbers(text)),
}
"""Name -> from the problem's text to the answer that is boxed; an empty one where the text has nothing to copy."""


@dataclass(frozen=True)
class Copied:
    """An answer of a policy that was graded `correct`."""

    benchmark: str
    policy: str
    id: str
    answer: str
    gold: str


@dataclass(frozen=True)
class Score:
    """What a policy gets on a benchmark, out of `problems`; excluded answers are in no average."""

    benchmark: str
    policy: str
    problems: int
    correct: int
    excluded: int

    def __str__(self) -> str:
        graded = self.problems - self.excluded
        left_out = f" ({self.excluded / self.problems:.1%} excluded)" if self.excluded else ""
        return (f"{self.correct / graded:.1%}" if graded else "-") + left_out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME")
    parser.add_argument("--sample", type=int, default=1000, metavar="N", help="problems of each, 0: all (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores and every correct answer")
    options = parser.parse_args(arguments)
    task = make_task(TaskConfig(name="math"), workers=options.workers)
    scores, copied = [], []
    try:
        print(header(options.policies), flush=True)
        for name in options.benchmarks:
            problems, total = sampled(task, name, options.sample, options.seed)
            for policy in options.policies:
                grades = task.grade(list(attempts(problems, policy)))
                scores.append(scored(name, policy, grades))
                copied += correct(name, policy, problems, grades)
            print(row(name, len(problems), total, scores[-len(options.policies) :]), flush=True)
    finally:
        task.close()
    if options.json:
        found = {"scores": [asdict(s) for s in scores], "correct": [asdict(c) for c in copied], "seed": options.seed}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


def sampled(task: Task, name: str, size: int, seed: int) -> tuple[list[Problem], int]:
    """A random sample of a benchmark's problems, the same for each policy, and how many there are in all."""
    source, split = BENCHMARKS[name]
    problems = list(task.problems(ProblemsConfig(source=source, split=split)))
    chosen = random.Random(seed).sample(problems, size) if 0 < size < len(problems) else problems
    return chosen, len(problems)


def attempts(problems: Sequence[Problem], policy: str) -> Iterator[tuple[Problem, str]]:
    for problem in problems:
        yield problem, f"\\boxed{{{POLICIES[policy](problem.text)}}}"


def scored(benchmark: str, policy: str, grades: Sequence[Grade]) -> Score:
    verdicts = [grade.verdict for grade in grades]
    return Score(
        benchmark, policy, len(verdicts), verdicts.count(Verdict.CORRECT), verdicts.count(Verdict.GRADER_ERROR)
    )


def correct(benchmark: str, policy: str, problems: Sequence[Problem], grades: Sequence[Grade]) -> Iterator[Copied]:
    for problem, grade in zip(problems, grades):
        if grade.verdict == Verdict.CORRECT:
            yield Copied(benchmark, policy, problem.id, POLICIES[policy](problem.text), problem.answer)


def header(policies: Sequence[str]) -> str:
    cells = ["benchmark", "problems", *policies]
    return f"{shown(cells)}\n{shown(['---'] * len(cells))}"


def row(name: str, problems: int, total: int, scores: Sequence[Score]) -> str:
    size = f"{problems:,}" if problems == total else f"{problems:,} of {total:,}"
    return shown([name, size, *map(str, scores)])


def shown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
