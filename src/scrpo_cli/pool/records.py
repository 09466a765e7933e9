"""What is handed to the database in one piece, and rows from and to the types of the program."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scrpo_cli.pool.models import ATTEMPT
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, PoolEntry, Problem, Verdict

INJECTED = "injected:"
IS_INJECTED = ATTEMPT.c.model.startswith(INJECTED)
"""Rows of attempts that an experiment put into a pool: their model is called `injected:KIND`."""
TOKEN_COLUMNS = {"prompt_ids": "<u4", "ids": "<u4", "logprobs": "<f4"}
"""Columns of an attempt with one number of four bytes for each token: uint32 or float32, little-endian."""


@dataclass(frozen=True)
class StepRecord:
    """Everything of one step; it is written whole or not at all.

    `decisions` maps attempt ids to the filter's decision (`kept` enters `pool`), `retired` lists (attempt id, reason)
    of entries of `pool` that end here, `models` names the model of attempts that were not made by the run's own.
    """

    step: int
    phase: str
    attempts: Sequence[Attempt]
    decisions: Mapping[str, str] = field(default_factory=dict)
    pool: str | None = None
    retired: Sequence[tuple[str, str]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


def json_text(data: Mapping[str, Any]) -> str:
    """JSON in ASCII with sorted keys. NaN and infinities, which JSON lacks, become null; numpy values are unpacked."""
    return json.dumps(_plain(data), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def storable(text: str) -> str:
    """`text` as every database takes it: lone surrogates (SQLite) and NUL (PostgreSQL) become replacement marks."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def injected_model(kind: str) -> str:
    return f"{INJECTED}{kind}"


def injected_kind(model: str) -> str:
    """The kind of error that an experiment injected under this model's name; empty for what a model wrote."""
    return model.removeprefix(INJECTED) if model.startswith(INJECTED) else ""


def pack(values: Sequence[float], column: str) -> bytes:
    """One of TOKEN_COLUMNS as it is stored: the first bytes of all its numbers, then the second bytes, and so on, for
    zlib. Ids take about a third so, since their upper bytes hardly differ; log-probs, which stay exact, little less.

    Level 1 of zlib takes half the time of level 6 for 5% more bytes (measured on solutions of MATH).
    """
    numbers_N = np.asarray(values, dtype=TOKEN_COLUMNS[column])
    return zlib.compress(numbers_N.view(np.uint8).reshape(-1, 4).T.tobytes(), level=1)


def unpack(row: Mapping[str, Any], column: str) -> np.ndarray:
    """One of TOKEN_COLUMNS of a row that has `packed`; what earlier versions wrote is not packed."""
    stored = row[column]
    if row["packed"]:
        stored = np.frombuffer(zlib.decompress(stored), dtype=np.uint8).reshape(4, -1).T.tobytes()
    return np.frombuffer(stored, dtype=TOKEN_COLUMNS[column])


def problem_row(problem: Problem) -> dict[str, Any]:
    row = {"source": problem.source, "id": problem.id, "text": problem.text, "answer": problem.answer}
    return {name: storable(text) for name, text in row.items()} | {"meta_json": json_text(problem.meta)}


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """The columns that an attempt itself knows; run, step, phase, model and decision are added by the writer."""
    completion, grade = attempt.completion, attempt.grade
    return {
        "id": attempt.id,
        "problem_source": storable(attempt.problem.source),
        "problem_id": storable(attempt.problem.id),
        "kind": attempt.kind.value,
        "turn": attempt.turn,
        "sample": attempt.sample,
        "parent_id": attempt.parent,
        **{column: pack(getattr(completion, column), column) for column in TOKEN_COLUMNS},
        "packed": 1,
        "text": storable(completion.text),
        "n_prompt_tokens": len(completion.prompt_ids),
        "n_tokens": len(completion.ids),
        "finish": completion.finish.value,
        "policy_version": completion.policy_version,
        "verdict": grade.verdict.value,
        "extracted": None if grade.extracted is None else storable(grade.extracted),
        "reason": None if grade.reason is None else storable(grade.reason),
        "grader": grade.grader,
        "part": attempt.part,
        "group_index": attempt.group,
        "round": attempt.round,
    }


def read_problem(row: Mapping[str, Any]) -> Problem:
    """From the columns of `problem`, with its text under the name `problem_text` so that it can stand in a join."""
    return Problem(
        id=row["problem_id"],
        source=row["problem_source"],
        text=row["problem_text"],
        answer=row["answer"],
        meta=json.loads(row["meta_json"]),
    )


def read_attempt(row: Mapping[str, Any]) -> Attempt:
    """From the columns of `attempt` joined with its problem's; log-probs come back rounded to float32."""
    completion = Completion(
        **{column: unpack(row, column).tolist() for column in TOKEN_COLUMNS},
        text=row["text"],
        finish=FinishReason(row["finish"]),
        policy_version=row["policy_version"],
    )
    return Attempt(
        id=row["id"],
        problem=read_problem(row),
        completion=completion,
        grade=Grade(Verdict(row["verdict"]), row["extracted"], row["reason"], row["grader"]),
        kind=AttemptKind(row["kind"]),
        turn=row["turn"],
        sample=row["sample"],
        parent=row["parent_id"],
        part=row["part"],
        group=row["group_index"],
        round=row["round"],
    )


def read_pool_entry(row: Mapping[str, Any]) -> PoolEntry:
    """What a method sees of an entry, from a row of `select_entries` with the log-probs."""
    injected = injected_kind(row["model"])
    logprobs = unpack(row, "logprobs")
    return PoolEntry(
        attempt_id=row["attempt_id"],
        problem=read_problem(row),
        response=row["text"],
        extracted=row["extracted"],
        added_step=row["added_step"],
        uses=row["uses"],
        repairs=row["repairs"],
        injected=injected,
        confidence=float(logprobs.mean()) if len(logprobs) and not injected else None,
    )
