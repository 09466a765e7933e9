"""What is kept of a step that a signal stopped while it sampled: its finished answers, in a file of its own.

They are no rows of the run, which a step adds whole or not at all. A step that samples them anew draws the same, so the
file saves time and decides nothing: where it is not of this step, policy and recipe, or cannot be read, it is dropped.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scrpo_cli.errors import RunError
from scrpo_cli.files import write_atomically
from scrpo_cli.rollout.base import RowKey
from scrpo_cli.types import Completion, FinishReason

FILE = "half_step.npz"
Answers = dict[RowKey, Completion]
Stamp = Mapping[str, Any]
"""Of which step, policy and recipe they are, as JSON values."""
DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile)
"""What comes of reading a file that is not as it was written: a zip archive has a checksum of each of its members."""


def put_down(file: Path, stamp: Stamp, answers: Answers, again: str) -> None:
    """Write the file whole or not at all. RunError when the disk is full; `again` says how to go on then."""
    rows = [
        [key.seed, key.step, key.purpose, key.index, len(c.prompt_ids), len(c.ids), c.text, c.finish, c.policy_version]
        for key, c in answers.items()
    ]
    try:
        with write_atomically(file) as new, new.open("wb") as out:
            np.savez(
                out,
                head=np.frombuffer(json.dumps({"stamp": stamp, "rows": rows}).encode(), dtype=np.uint8),
                prompts=joined([c.prompt_ids for c in answers.values()], np.uint32),
                ids=joined([c.ids for c in answers.values()], np.uint32),
                logprobs=joined([c.logprobs for c in answers.values()], np.float64),
            )
    except OSError as error:
        what = f"The finished answers of the step could not be kept, and will be sampled again: {error}"
        raise RunError(what, str(file), f"Free some space. {again}".strip()) from error


def take_up(file: Path, stamp: Callable[[], Stamp]) -> Answers:
    """The answers of the file, if there is one and it is of this `stamp`; else it is deleted."""
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["stamp"] == stamp():
                return read_answers(head["rows"], arrays)
    except DAMAGED:
        pass
    file.unlink()
    return {}


def read_answers(rows: list[list[Any]], arrays: Mapping[str, np.ndarray]) -> Answers:
    prompts, ids, logprobs = (arrays[name].tolist() for name in ("prompts", "ids", "logprobs"))
    answers: Answers = {}
    p = t = 0
    for seed, step, purpose, index, n_prompt, n_ids, text, finish, version in rows:
        cut = slice(t, t + n_ids)
        answers[RowKey(seed, step, purpose, index)] = Completion(
            prompts[p : p + n_prompt], ids[cut], logprobs[cut], text, FinishReason(finish), version
        )
        p, t = p + n_prompt, t + n_ids
    return answers


def joined(rows: list[Any], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in [[], *rows]])
