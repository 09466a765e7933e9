"""An engine that answers from a function: for tests of everything around sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from scrpo_cli.rollout.base import Finished, RowKey, Sampling, Synced
from scrpo_cli.types import Completion, FinishReason


class FakeEngine:
    """`answer(prompt text, key)` is the completion's text; the log-prob of each of its tokens is -1."""

    name = "fake"
    has_own_weights = False
    copies = (name,)

    def __init__(self, tokenizer: Any, answer: Callable[[str, RowKey], str], version: int = 0) -> None:
        self.tokenizer, self.answer, self.version = tokenizer, answer, version

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        done = []
        for prompt, key in zip(prompts, keys, strict=True):
            done.append(self.complete(list(prompt), sampling, key))
            finished({len(done) - 1: done[-1]})
        return done

    def complete(self, prompt: list[int], sampling: Sampling, key: RowKey) -> Completion:
        text = self.answer(self.tokenizer.decode(prompt), key)
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        cut = len(ids) > sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        return Completion(
            prompt,
            ids,
            [-1.0] * len(ids),
            self.tokenizer.decode(ids) if cut else text,
            FinishReason.LENGTH if cut else FinishReason.STOP,
            self.version,
        )

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        return [np.full((1, len(ids)), -1.0) for _, ids in rows]

    def sync(self) -> Synced:
        return Synced()

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None: ...
