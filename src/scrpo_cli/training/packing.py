"""Runs that share one frozen base model in one process: each in a thread of its own, one of them at work at a time.

A run's adapter is its own: it has a tree of modules whose base weights are the very tensors of all others. The runs
hand work on before they sample, so that they go forward side by side; answers that two of them ask for with the same
adapter, prompts and draws (before training, those of all arms of a seed) are sampled once. A run does what it does
alone, bit for bit with the transformers engine.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scrpo_cli.recipe.models import Recipe, RolloutConfig, VllmConfig
from scrpo_cli.recipe.shared import check_packed
from scrpo_cli.rollout.base import Around, Engine, Finished, RowKey, Sampling
from scrpo_cli.rollout.engines import open_engine
from scrpo_cli.signals import Stopped
from scrpo_cli.threads import Turn
from scrpo_cli.training.policy import Base, Policy, load_base, policy_over
from scrpo_cli.training.stop import Stop
from scrpo_cli.types import Completion

if TYPE_CHECKING:
    from scrpo_cli.rollout.vllm_engine import Vllm

Question = tuple[Any, ...]


class Packing:
    """What the runs share: the base model, the turn, and the newest answers, `most` of them."""

    def __init__(self, most: int) -> None:
        self.turn, self.most = Turn(), most
        self._first: Recipe | None = None
        self._base: Base | None = None
        self._vllm: Vllm | None = None
        self._answered: OrderedDict[Question, list[Completion]] = OrderedDict()

    def policy(self, recipe: Recipe) -> Policy:
        """A fresh one over the base model, which the first run loads."""
        check_packed([self._first or recipe, recipe])
        if self._base is None:
            self._first, self._base = recipe, load_base(recipe.model)
        own = replace(self._base, model=twin(self._base.model))
        return policy_over(own, recipe.model, recipe.seed)

    def vllm(self, model: Any, source: Mapping[str, Any], cfg: VllmConfig) -> Vllm:
        """One for all runs, which the first of them starts."""
        from scrpo_cli.rollout.vllm_engine import Vllm

        if self._vllm is None:
            self._vllm = Vllm(model, source, cfg, self.most)
        return self._vllm

    def close(self) -> None:
        if self._vllm is not None:
            self._vllm.close()

    def known(self, question: Question) -> list[Completion] | None:
        return self._answered.get(question)

    def keep(self, question: Question, answer: list[Completion]) -> None:
        self._answered[question] = answer
        while len(self._answered) > self.most:
            self._answered.popitem(last=False)


@dataclass
class Seat:
    """A run's place among the packed. It works inside `working`."""

    packing: Packing
    stop: Stop = field(default_factory=Stop)
    waited: float = 0.0
    """Seconds, for its turn."""

    @contextmanager
    def working(self) -> Iterator[None]:
        """The turn, with this as the seat of the thread."""
        _seat.set(self)
        self.take()
        try:
            yield
        finally:
            self.packing.turn.give()

    def take(self) -> None:
        began = time.perf_counter()
        self.packing.turn.take()
        self.waited += time.perf_counter() - began

    def let_others(self) -> None:
        with self.away():
            pass

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, others work."""
        self.packing.turn.give()
        try:
            yield
        finally:
            self.take()

    def policy(self, recipe: Recipe) -> Policy:
        return self.packing.policy(recipe)

    def engine(self, cfg: RolloutConfig, policy: Policy, source: Mapping[str, Any], run: str = "scrpo") -> Engine:
        return TakingTurns(open_engine(cfg, policy, source, run, self.packing.vllm), policy, self)


_seat: ContextVar[Seat | None] = ContextVar("seat", default=None)


def seat() -> Seat | None:
    """Of this thread's run; None where it is not packed."""
    return _seat.get()


def own_time() -> float:
    """Seconds of a clock that stands while a packed run waits for its turn."""
    mine = seat()
    return time.perf_counter() - (mine.waited if mine else 0.0)


def twin(model: Any) -> Any:
    """Another tree of modules over the very same tensors."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class TakingTurns(Around):
    """A run's engine. One that has the weights elsewhere, on a server, works while the others do."""

    def __init__(self, engine: Engine, policy: Policy, seat: Seat) -> None:
        super().__init__(engine)
        self.policy, self.seat = policy, seat

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        """Raises KeyboardInterrupt where the run is stopped, with what is `finished` told."""

        def heard(found: Any) -> None:
            finished(found)
            self.stop_if_asked()

        if self.has_own_weights:
            with self.seat.away():
                answer = self.inner.generate(prompts, sampling, keys, heard)
            self.stop_if_asked()
            return answer
        self.seat.let_others()
        self.stop_if_asked()
        batch_size = getattr(self.inner, "batch_size", None)  # what shares a batch has a say in the last bits
        question = (self.policy.adapter_hash(), batch_size, sampling, tuple(keys), tuple(map(tuple, prompts)))
        found = self.seat.packing.known(question)
        if found is None:
            found = self.inner.generate(prompts, sampling, keys, heard)
            self.seat.packing.keep(question, found)
        return [replace(each, policy_version=self.policy.version) for each in found]

    def stop_if_asked(self) -> None:
        if self.seat.stop.asked:
            raise Stopped
