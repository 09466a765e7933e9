"""What engines with weights of their own have in common: the policy's adapter as versions, and rows that draw by a seed
of their own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.errors import RunError
from scrpo_cli.rollout.adapters import AdapterVersion, Publisher
from scrpo_cli.rollout.base import Finished, Policy, RowKey, Sampling, Synced
from scrpo_cli.rollout.transformers_engine import stop_ids
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Completion, FinishReason

SEEDS = 2**31
LOADED, KEPT = 2, 3
"""Versions that an engine knows, and versions whose files are there: a request that is late may still need them."""


@dataclass(frozen=True)
class Answer:
    """Sampled ids, their log-probs, and those of the tokens that were asked for at the first position."""

    ids: list[int]
    logprobs: list[float]
    asked: Mapping[int, float]
    ended: bool


Heard = Callable[[int, Answer], None]
"""Is told of an answer by the index of its prompt."""


class VersionedEngine(ABC):
    """`ask` samples; `load` and `forget` are told of versions."""

    name: str
    has_own_weights = True

    def __init__(self, policy: Policy, publisher: Publisher) -> None:
        self.policy, self.publisher = policy, publisher
        self.stop_ids = stop_ids(policy.model, policy.tokenizer)
        self.known: list[AdapterVersion] = []
        self.policy_version = policy.version

    @property
    @abstractmethod
    def room(self) -> int:
        """The longest sequence."""

    @abstractmethod
    def load(self, version: AdapterVersion) -> None: ...

    @abstractmethod
    def forget(self, version: AdapterVersion) -> None:
        """It may be forgotten already."""

    @abstractmethod
    def ask(self, prompts: Sequence[Sequence[int]], params: Sequence[dict[str, Any]], what: str, heard: Heard) -> None:
        """With the newest version; `params` are arguments of vLLM's SamplingParams, `what` names it in errors, and
        `heard` is told of each answer when it comes, perhaps from another thread.
        """

    @property
    def copies(self) -> Sequence[str]:
        """Row i of a batch goes to copy i modulo their number."""
        return (self.name,)

    @property
    def current(self) -> AdapterVersion:
        if not self.known:
            self.sync()
        return self.known[-1]

    def sync(self) -> Synced:
        start = time.perf_counter()
        fresh = self.publisher.publish()
        self.load(fresh)
        self.known.append(fresh)
        self.policy_version = self.policy.version
        for old in self.known[:-LOADED]:
            self.forget(old)
        while len(self.known) > KEPT:
            self.publisher.retire(self.known.pop(0))
        return Synced(fresh.bytes, time.perf_counter() - start)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        shared = {
            **PLAIN,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": self.stop_ids,
            "logprobs": 0,  # of the sampled token
        }
        done: dict[int, Completion] = {}

        def heard(row: int, answer: Answer) -> None:
            done[row] = self.completion(prompts[row], answer)
            finished({row: done[row]})
            now().progress(len(done), len(prompts))

        self.checked(prompts, [{**shared, "seed": key.integer(SEEDS)} for key in keys], "sampling", heard)
        return [done[row] for row in range(len(prompts))]

    def completion(self, prompt: Sequence[int], answer: Answer) -> Completion:
        return Completion(
            prompt_ids=list(prompt),
            ids=answer.ids,
            logprobs=answer.logprobs,
            text=self.policy.tokenizer.decode(answer.ids[:-1] if answer.ended else answer.ids),
            finish=FinishReason.STOP if answer.ended else FinishReason.LENGTH,
            policy_version=self.policy_version,
        )

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """One request a token and copy, so it is for few of them. The log-probs of a whole prompt (`prompt_logprobs`)
        come from a path of their own that ignores the temperature and, with an adapter, ends vLLM 0.32 on a CPU.
        """
        every = range(len(self.copies))
        asked = [([*prompt, *ids[:t]], token) for prompt, ids in rows for t, token in enumerate(ids) for _ in every]
        plain = {**PLAIN, "temperature": 1.0, "top_p": 1.0, "max_tokens": 1}
        # two at least: the sampled one comes first in a server's list, which is cut at as many as were asked for
        params = [{**plain, "logprobs": 2, "logprob_token_ids": [token, int(token == 0)]} for _, token in asked]
        answers: dict[int, Answer] = {}
        self.checked([prompt for prompt, _ in asked], params, "scoring", answers.__setitem__)
        found = (answers[row].asked[token] for row, (_, token) in enumerate(asked))
        return [np.array([[next(found) for _ in every] for _ in ids]).T for _, ids in rows]

    def checked(
        self, prompts: Sequence[Sequence[int]], params: Sequence[dict[str, Any]], what: str, heard: Heard
    ) -> None:
        """Refuses what vLLM would cut off at its longest sequence and call too long."""
        if not prompts:
            return
        longest = max(len(prompt) + each["max_tokens"] for prompt, each in zip(prompts, params, strict=True))
        if longest > self.room:
            told = f"A prompt and its answer may take {longest} tokens, and vLLM has room for {self.room}."
            fix = "Raise rollout.vllm.gpu_memory (a server's --max-model-len), or lower rollout.max_tokens."
            raise RunError(told, f"rollout.engine: {self.name}", fix)
        self.ask(prompts, params, what, heard)

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        self.publisher.close()


PLAIN = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
    "detokenize": False,
}
"""Said outright: vLLM takes what is not said from the model's own files. `ignore_eos`: an answer ends at our stop ids,
which the transformers engine has too, and not also at those that vLLM finds there."""
