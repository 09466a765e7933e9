"""Does the engine sample from the weights that are trained? A few fixed rows, scored by both after each sync.

An engine with weights of its own can go on with an old adapter, with another one, or with one that it scales twice, and
nothing of that shows but in the log-probs of its answers. The rows are token ids drawn once; both score them at
temperature 1. Once, at the first sync, the trainer also scores what the engine samples at the recipe's temperature: an
engine may report log-probs of another distribution than it draws from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scrpo_cli.errors import RunError
from scrpo_cli.rng import generator
from scrpo_cli.rollout.base import Engine, RowKey, Sampling
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.policy import Policy

ROWS, PROMPT, SCORED = 4, 8, 8
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Nats between the two scores of a token, on average over the probe."""


@dataclass
class Probe:
    engine: Engine
    policy: Policy
    temperature: float = 1.0
    rows: list[tuple[list[int], list[int]]] = field(init=False)
    last: tuple[np.ndarray, np.ndarray] | None = None
    """The scores of engine and trainer after the last sync."""

    def __post_init__(self) -> None:
        vocabulary = self.policy.model.get_input_embeddings().weight.shape[0]
        ids = generator(0, 0, "probe").integers(0, vocabulary, (ROWS, PROMPT + SCORED)).tolist()
        self.rows = [(row[:PROMPT], row[PROMPT:]) for row in ids]

    def check(self) -> dict[str, float]:
        """`sync/gap`: mean |engine - trainer| in nats; `sync/moved`, `sync/trainer_moved`: the largest change since the
        last sync. RunError where the gap is above tolerance, or where the trainer has moved and the engine has not.
        """
        engine_N, trainer_N = np.concatenate(self.engine.score(self.rows)), self.trainer(self.rows, 1.0)
        gap = float(np.abs(engine_N - trainer_N).mean())
        metrics = {"sync/gap": gap}
        tolerance = TOLERANCE[self.policy.model.dtype]
        moved = trainer_moved = None
        if self.last is not None:
            moved, trainer_moved = (
                float(np.abs(now - then).max()) for now, then in zip((engine_N, trainer_N), self.last, strict=True)
            )
            metrics |= {"sync/moved": moved, "sync/trainer_moved": trainer_moved}
        self.last = engine_N, trainer_N
        if moved == 0 and trainer_moved is not None and trainer_moved > tolerance:
            raise RunError(
                f"The engine samples from old weights: the update moved the trainer's log-probs by {trainer_moved:.3g} "
                "nats, and the engine's not at all.",
                f"rollout.engine: {self.engine.name}",
                "The adapter does not reach it. Restart the servers, or set rollout.engine=transformers.",
            )
        if gap > tolerance:
            raise RunError(
                f"The engine's log-probs are {gap:.3g} nats from the trainer's on average; {tolerance:g} are allowed.",
                f"rollout.engine: {self.engine.name}",
                "Another base model, adapter, scaling or number format? Set rollout.engine=transformers to see.",
            )
        if moved is None:
            self.check_sampling()
        return metrics

    def check_sampling(self) -> None:
        """RunError where sampled log-probs are not those of the distribution at the recipe's temperature."""
        keys = [RowKey(0, 0, "probe", i) for i in range(ROWS)]
        sampled = self.engine.generate([prompt for prompt, _ in self.rows], Sampling(self.temperature, SCORED), keys)
        told_N = np.concatenate([c.logprobs for c in sampled])
        gap = np.abs(told_N - self.trainer([(c.prompt_ids, c.ids) for c in sampled], self.temperature)).mean()
        if gap > TOLERANCE[self.policy.model.dtype]:
            raise RunError(
                f"The engine's log-probs of its own samples are {gap:.3g} nats from the trainer's on average.",
                f"rollout.engine: {self.engine.name}, temperature {self.temperature:g}",
                "Start a server with --logprobs-mode processed_logprobs.",
            )

    @torch.no_grad()
    def trainer(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float) -> np.ndarray:
        logp_N, _ = completion_logprobs(self.policy.model, rows, temperature, ROWS * SCORED)
        return logp_N.double().cpu().numpy()
