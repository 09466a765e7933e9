"""Our verdicts, through the same reader and grader as `scrpo grade --from-jsonl`. Runs in the project's environment."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scrpo_cli.recipe.models import GradingConfig, TaskConfig
from scrpo_cli.tasks.external import ResponseRow, read_responses
from scrpo_cli.tasks.grading.workers import GRADER
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.types import Verdict

VERDICTS = {Verdict.CORRECT: True, Verdict.WRONG: False, Verdict.UNPARSABLE: False}  # timeout and grader_error: none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generations", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    rows = [row for row in read_responses(args.generations) if isinstance(row, ResponseRow)]
    grader = MathTask(TaskConfig(grading=GradingConfig(processes=args.workers)))
    try:
        grades = grader.grade([(row.as_problem(), row.response) for row in rows])
    finally:
        grader.close()
    with args.out.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"versions": {"scrpo grader": GRADER}}) + "\n")
        for n, grade in enumerate(grades):
            note = " ".join([str(grade.verdict), *([f"({grade.reason})"] if grade.reason else [])])
            verdict = VERDICTS.get(grade.verdict)
            out.write(json.dumps({"row": n, "verdict": verdict, "extracted": grade.extracted, "note": note}) + "\n")


if __name__ == "__main__":
    main()
