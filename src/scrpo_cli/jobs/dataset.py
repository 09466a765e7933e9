"""A run's attempts as a data set that `datasets.load_dataset(DIR, NAME)` reads: a Parquet file for each evaluation and
each phase of training, and a card (docs/exports.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrpo_cli.files import file_stem, write_directory
from scrpo_cli.jobs import cards
from scrpo_cli.jobs.export import phases_to_write, refuse_stream, rows_of
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import EVALUATED, StoredEvaluation

COLUMNS = {
    "id": "the problem's id, unique inside of its source",
    "source": "the data set that the problem is from",
    "problem": "its text",
    "answer": "its reference answer",
    "response": "what the model wrote",
    "sample": "which of the answers to the problem it is, from 0",
    "turn": "1 for first answers; later turns revise the one before",
    "kind": "the question that it answers: first, check, correction, retry, ...; repair in an evaluation",
    "model": "who wrote it",
    "verdict": "correct, wrong, unparsable, timeout, grader_error or ungraded",
    "extracted": "the final answer that the grader found",
    "reason": "why the verdict is none of the answer's",
    "grader": "name and version of the grader",
    "tokens": "of the response, as they were sampled",
    "finish": "stop, length (cut off) or unknown",
    "attempt": "its id in the database",
    "parent": "the attempt that it revises",
    "meta": "what else is known of the problem, as JSON",
    "prefill": "what the chat template puts in front of a response",
    "benchmark": "the evaluation, where it is from one",
    "phase": "the phase of training, where it is from one",
    "run": "the run",
}
"""Every column with what it holds; text but for those of INTEGERS."""
INTEGERS = ("sample", "turn", "tokens")


@dataclass(frozen=True)
class Part:
    """One Parquet file: the config of the data set that has its name."""

    name: str
    phase: str
    rows: int
    problems: int
    verdicts: Counter[str]

    @property
    def split(self) -> str:
        return "test" if self.phase.startswith(EVALUATED) else "train"

    @property
    def path(self) -> str:
        return f"data/{self.name}.parquet"


def export_dataset(db: Database, run: RunRow, folder: Path, *, everything: bool = False) -> int:
    """Write the answers of the run's evaluations, or all attempts; how many. The directory appears whole or not at all;
    UserError where there is something.
    """
    refuse_stream(folder, "parquet")
    phases = phases_to_write(db, run, folder, everything)
    with write_directory(folder) as new:
        (new / "data").mkdir()
        parts = [write_part(db, run, phase, evaluation, new) for phase, evaluation in phases.items()]
        write_card(new, run, parts, [e for e in phases.values() if e and e.metrics])
    return sum(part.rows for part in parts)


def write_part(db: Database, run: RunRow, phase: str, evaluation: StoredEvaluation | None, folder: Path) -> Part:
    rows = [*rows_of(db, run, phase, evaluation)]
    problems = len({(row["source"], row["id"]) for row in rows})
    verdicts = Counter(row["verdict"] for row in rows)
    part = Part(file_stem(phase.replace(":", "-")), phase, len(rows), problems, verdicts)
    write_parquet(rows, folder / part.path)
    return part


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows with the same columns in every file."""
    import datasets

    types = {name: datasets.Value("int32" if name in INTEGERS else "string") for name in COLUMNS}
    written = [{**row, "meta": json.dumps(row["meta"], ensure_ascii=False)} for row in rows]
    columns = {name: [row.get(name) for row in written] for name in COLUMNS}
    datasets.disable_progress_bars()  # they would tear our own display
    datasets.Dataset.from_dict(columns, datasets.Features(types)).to_parquet(str(path))


def write_card(folder: Path, run: RunRow, parts: Sequence[Part], evaluations: Sequence[StoredEvaluation]) -> None:
    """What is in it, how it was made, and what it came to."""
    from huggingface_hub import DatasetCardData

    configs = [{"config_name": p.name, "data_files": [{"split": p.split, "path": p.path}]} for p in parts]
    data = DatasetCardData(configs=configs, tags=["scrpo", "reasoning", "self-correction"])
    files = [
        (cards.code(p.name), cards.code(p.split), f"{p.rows:,}", f"{p.problems:,}", counted(p.verdicts)) for p in parts
    ]
    columns = [(cards.code(name), what) for name, what in COLUMNS.items()]
    cards.write_card(
        folder,
        data,
        f"# Attempts of run {cards.code(run.id)}",
        f"Answers of the model {cards.code(run.model)}, graded. {cards.origin(run)}",
        "The texts of the problems are under the licences of the data sets that they are from.",
        cards.table(("config", "split", "rows", "problems", "verdicts"), files),
        "## Columns",
        cards.table(("column", "what it holds"), columns),
        "## Numbers",
        cards.numbers(evaluations),
        cards.protocols(evaluations),
        *cards.recipe_section(run),
    )


def counted(verdicts: Counter[str]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in verdicts.most_common())
