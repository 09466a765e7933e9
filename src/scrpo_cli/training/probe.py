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
    """(C, N) scores by each copy of the engine's weights after the last sync, and the trainer's when they last changed:
    what a copy misses adds up from sync to sync until it shows, however small each update is.
    """

    def __post_init__(self) -> None:
        vocabulary = self.policy.model.get_input_embeddings().weight.shape[0]
        ids = generator(0, 0, "probe").integers(0, vocabulary, (ROWS, PROMPT + SCORED)).tolist()
        self.rows = [(row[:PROMPT], row[PROMPT:]) for row in ids]

    def check(self) -> dict[str, float]:
        """`sync/gap`: mean |engine - trainer| in nats; `sync/moved`: the largest change of a score since the last sync;
        `sync/trainer_moved`: that of the trainer's since the engine's last changed. Of several copies, those of the
        worst. RunError where a gap is above tolerance, or where the trainer has moved and a copy has not.
        """
        engine_CN, trainer_N = np.concatenate(self.engine.score(self.rows), axis=1), self.trainer(self.rows, 1.0)
        gap_C = np.abs(engine_CN - trainer_N).mean(axis=1)
        metrics = {"sync/gap": float(gap_C.max())}
        tolerance = TOLERANCE[self.policy.model.dtype]
        first, last_trainer_CN = self.last is None, np.broadcast_to(trainer_N, engine_CN.shape)
        if self.last is not None:
            last_CN, anchor_CN = self.last
            moved_C = np.abs(engine_CN - last_CN).max(axis=1)
            missed_C = np.abs(trainer_N - anchor_CN).max(axis=1)
            metrics |= {"sync/moved": float(moved_C.min()), "sync/trainer_moved": float(missed_C.max())}
            self.refuse_stale(np.where(moved_C == 0, missed_C, 0), tolerance)
            last_trainer_CN = np.where(moved_C[:, None] == 0, anchor_CN, last_trainer_CN)
        self.last = engine_CN, last_trainer_CN
        if metrics["sync/gap"] > tolerance:
            raise RunError(
                f"The engine's log-probs are {gap_C.max():.3g} nats from the trainer's on average; "
                f"{tolerance:g} are allowed.",
                self.place(gap_C),
                "Another base model, adapter, scaling or number format? Set rollout.engine=transformers to see.",
            )
        if first:
            self.check_sampling()
        return metrics

    def refuse_stale(self, missed_C: np.ndarray, tolerance: float) -> None:
        if missed_C.max() > tolerance:
            raise RunError(
                f"The engine samples from old weights: updates moved the trainer's log-probs by {missed_C.max():.3g} "
                "nats, and the engine's not at all.",
                self.place(missed_C),
                "The adapter does not reach it. Restart the servers, or set rollout.engine=transformers.",
            )

    def place(self, worst_C: np.ndarray) -> str:
        name, copy = self.engine.name, self.engine.copies[int(worst_C.argmax())]
        return f"rollout.engine: {name}" + (f", {copy}" if copy != name else "")

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
