"""What is kept of a step that a signal or a failing engine stopped: its finished answers, in a file of its own.

They are no rows of the run, which a step adds whole or not at all. A step that samples them anew draws the same, so the
file saves time and decides nothing: where it is not of this step, policy and recipe, or damaged, it is dropped.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scrpo_cli.errors import Interrupted, RunError
from scrpo_cli.files import write_atomically
from scrpo_cli.rollout.base import RowKey
from scrpo_cli.types import Completion, FinishReason

FILE = "half_step.bin"
"""A SHA-256, and what it is of: an archive of numpy's."""
DIGEST = hashlib.sha256().digest_size
Answers = dict[RowKey, Completion]
Stamp = Mapping[str, Any]
"""Of which step, policy and recipe they are, as JSON values."""


@contextmanager
def keeping(
    directory: Path, step: int, stamp: Callable[[int], Stamp], again: str, say: Callable[[str], None]
) -> Iterator[Answers]:
    """The answers that the step had when the run of this directory was stopped in it. Those that join them inside are
    kept where a signal ends it, which becomes Interrupted, or a RunError. Once the step is recorded, `drop` them.
    """
    file, of_step = directory / FILE, partial(stamp, step)
    answers = take_up(file, of_step)
    if answers:
        say(f"Step {step} goes on with the {len(answers)} answers that it had when it was stopped.")
    try:
        yield answers
    except RunError:
        with suppress(RunError):  # what failed first is what has to be mended
            put_down(file, of_step(), dict(answers), again)
        raise
    except KeyboardInterrupt:
        kept = dict(answers)  # a thread of the engine may still add to the other
        put_down(file, of_step(), kept, again)
        what = f"Stopped in step {step}: {len(kept)} finished answers of it are kept, and all steps before are saved."
        raise Interrupted(what, str(directory), again) from None


def drop(directory: Path) -> None:
    """What was kept, if anything: its step is recorded."""
    (directory / FILE).unlink(missing_ok=True)


def put_down(file: Path, stamp: Stamp, answers: Answers, again: str) -> None:
    """Write the file whole or not at all. RunError when the disk is full; `again` says how to go on then."""
    data = packed(stamp, answers)
    try:
        with write_atomically(file) as new:
            new.write_bytes(hashlib.sha256(data).digest() + data)
    except OSError as error:
        what = f"The finished answers of the step could not be kept, and will be sampled again: {error}"
        raise RunError(what, str(file), f"Free some space. {again}".strip()) from error


def take_up(file: Path, stamp: Callable[[], Stamp]) -> Answers:
    """The answers of the file, if there is one and it is of this `stamp`; else it is deleted."""
    if not file.exists():
        return {}
    data = file.read_bytes()
    if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
        with np.load(io.BytesIO(data[DIGEST:]), allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            if head["stamp"] == stamp():
                return unpacked(head["rows"], arrays)
    file.unlink()
    return {}


def packed(stamp: Stamp, answers: Answers) -> bytes:
    """Numbers as arrays, all rows one after another; the rest as JSON."""
    rows = [
        [key.seed, key.step, key.purpose, key.index, len(c.prompt_ids), len(c.ids), c.text, c.finish, c.policy_version]
        for key, c in answers.items()
    ]
    file = io.BytesIO()
    np.savez(
        file,
        head=np.frombuffer(json.dumps({"stamp": stamp, "rows": rows}).encode(), dtype=np.uint8),
        prompts=joined([c.prompt_ids for c in answers.values()], np.uint32),
        ids=joined([c.ids for c in answers.values()], np.uint32),
        logprobs=joined([c.logprobs for c in answers.values()], np.float64),
    )
    return file.getvalue()


def joined(rows: Sequence[Sequence[Any]], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in [[], *rows]])


def unpacked(rows: Sequence[Sequence[Any]], arrays: Mapping[str, np.ndarray]) -> Answers:
    prompts, ids, logprobs = (arrays[name].tolist() for name in ("prompts", "ids", "logprobs"))
    answers: Answers = {}
    p = t = 0
    for seed, step, purpose, index, n_prompt, n_ids, text, finish, version in rows:
        prompt, own = slice(p, p + n_prompt), slice(t, t + n_ids)
        answers[RowKey(seed, step, purpose, index)] = Completion(
            prompts[prompt], ids[own], logprobs[own], text, FinishReason(finish), version
        )
        p, t = prompt.stop, own.stop
    return answers
