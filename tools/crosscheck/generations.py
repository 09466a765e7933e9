"""One file of generations for every grader: real model solutions, reference solutions, wrong answers and other formats.

    python tools/crosscheck/generations.py --out generations.jsonl

Reads gsm8k, math500, minerva_math and olympiadbench of SCRPO_DATA_DIR. Deterministic: no randomness, no clock. A row is
one response in the interchange shape (docs/data.md) plus `row`, `key` (problem and kind, unique), `kind`,
`reference` (the data set's own solution, which the harnesses read their gold from) and `expected`: OpenAI's label for
the model solutions, by construction for the rest.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from formats import HEDGES, RESPONSES, bare, kind, near_miss, rewritings, slips

from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.sources import find_file, load_problems, read_rows
from scrpo_cli.types import Problem

SOURCES = ("math500", "minerva_math", "olympiadbench")
GSM8K_EVERY, CUT_EVERY = 4, 4
PLAIN = ("integer", "fraction", "decimal", "e")
RULES = ("is_multiple_answer", "rel_tol", "error")  # of a problem's meta, all that our grader looks at


def generations() -> Iterator[dict[str, Any]]:
    """All rows, in a fixed order."""
    gsm8k = load_problems(ProblemsConfig(source="gsm8k", split="test"))
    yield from model_solutions({problem.id: problem for problem in gsm8k})
    for n, problem in enumerate(gsm8k[::GSM8K_EVERY]):
        yield _row(problem, "reference", problem.meta["solution"], True)
        yield from right_ones(problem, n)
    for source in SOURCES:
        yield from of_source(load_problems(ProblemsConfig(source=source, split="test")))


def model_solutions(problems: dict[str, Problem]) -> Iterator[dict[str, Any]]:
    """Real model text with OpenAI's labels."""
    for solution, _ in read_rows(find_file("gsm8k", "model_solutions")):
        problem = problems[solution["problem_id"]]
        kind_ = f"model {solution['model']}"
        yield _row(problem, kind_, solution["model_solution"], solution["is_correct"])


def of_source(problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
    """Reference solutions, right answers in other formats, wrong answers, and solutions cut off before their end."""
    for n, problem in enumerate(problems):
        solution = str(problem.meta.get("solution") or "")
        closing = "" if "\\boxed" in solution else f"\n\nSo the final answer is $\\boxed{{{bare(problem.answer)}}}$."
        yield _row(problem, "reference", solution + closing, True)
        yield from right_ones(problem, n)
        yield from wrong_ones(problem, n, problems)
        if n % CUT_EVERY == 0 and solution:
            before = re.split(r"\\f?boxed", solution)[0]
            cut = before[: len(before) * 3 // 5]
            if "answer" not in cut.lower():  # some solutions begin with theirs
                yield _row(problem, "cut off", cut, False)


def right_ones(problem: Problem, n: int) -> Iterator[dict[str, Any]]:
    """Two right responses: the answer in another format, and the answer as it is in another kind of sentence."""
    answer = bare(problem.answer)
    others = rewritings(answer, bool(problem.meta.get("is_multiple_answer")))
    wrong = near_miss(answer, 0) or "17"
    if others:
        name = list(others)[n % len(others)]
        closing = (
            "We add it all up.\n#### {}" if problem.source == "gsm8k" else "So the final answer is $\\boxed{{{}}}$."
        )
        yield _row(problem, f"format: {name}", closing.format(others[name]), True)
    name = list(RESPONSES)[n % len(RESPONSES)]
    said = problem.answer if "bare" in name else answer  # a line may hold several formulas, a formula may not
    yield _row(problem, f"sentence: {name}", RESPONSES[name](said, wrong), True)


def wrong_ones(problem: Problem, n: int, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
    """Two wrong responses: a near miss or another problem's answer, and one that says the right answer as well.

    Answers that are no plain numbers get up to five slips more: there a lenient comparison shows.
    """
    answer, others = bare(problem.answer), _of_another(n, problems)
    miss = near_miss(answer, n // 4) if n % 2 else None
    name, wrong = ("near miss", miss) if miss else ("another problem's answer", others)
    mention = f"It looks like ${answer}$, but that cannot be. " if n % 4 < 2 else ""
    yield _row(
        problem, name + (", right one mentioned" if mention else ""), mention + RESPONSES["box"](wrong, ""), False
    )
    if kind(answer) not in PLAIN:
        for name, slip in slips(answer).items():
            yield _row(problem, f"slip: {name}", RESPONSES["box"](slip, ""), False)
    name = list(HEDGES)[n % len(HEDGES)]
    yield _row(problem, name, HEDGES[name](answer, near_miss(answer, 0) or others), False)


def _of_another(n: int, problems: Sequence[Problem]) -> str:
    """The answer of the next problem whose answer is of the same sort and another text."""
    own = bare(problems[n].answer)
    following = (bare(problem.answer) for problem in [*problems[n + 1 :], *problems[:n]])
    return next(answer for answer in following if kind(answer) == kind(own) and _squeeze(answer) != _squeeze(own))


def _squeeze(answer: str) -> str:
    return re.sub(r"\s|\\left|\\right|[dt](?=frac)", "", answer)


def _row(problem: Problem, kind_: str, response: str, expected: bool) -> dict[str, Any]:
    meta = {name: problem.meta[name] for name in RULES if problem.meta.get(name) is not None}
    row = {"key": f"{problem.id}/{kind_}", "id": problem.id, "source": problem.source, "kind": kind_}
    text = {"problem": problem.text, "answer": problem.answer, "response": response}
    reference = str(problem.meta.get("solution") or "")
    return row | text | {"expected": expected, "reference": reference, "meta": meta}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rows = [{"row": n, **row} for n, row in enumerate(generations())]
    assert len({row["key"] for row in rows}) == len(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    main()
