"""An engine that answers from a function: for tests of everything around sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.types import Completion, FinishReason


class FakeEngine:
    """`answer(prompt text, key)` is the completion's text; the log-prob of each of its tokens is -1."""

    def __init__(self, tokenizer: Any, answer: Callable[[str, RowKey], str]) -> None:
        self.tokenizer, self.answer, self.version = tokenizer, answer, 0

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[RowKey]
    ) -> list[Completion]:
        return [self.complete(list(p), sampling, k) for p, k in zip(prompts, keys, strict=True)]

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

    def sync(self, version: int) -> None:
        self.version = version

    def close(self) -> None: ...
