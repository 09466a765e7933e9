"""Policies of a few logits, trained by the real credit, token weights and loss: log-probs without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from scrpo_cli.methods.base import Method
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.training.loss import TokenBatch, policy_gradient_loss
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Group, SampleRequest, Verdict

Logps = Callable[[Sequence[Attempt]], list[torch.Tensor]]
"""(T,) log-probs of each completion's tokens, with gradient."""


def attempt(request: SampleRequest, name: str, ids: Sequence[int], reward: float, text: str = "") -> Attempt:
    completion = Completion([0], list(ids), [0.0] * len(ids), text, FinishReason.STOP)
    verdict = Verdict.CORRECT if reward else Verdict.WRONG
    return Attempt(name, request.problem, completion, Grade(verdict), request.kind, request.turn, 0, request.parent_id)


def train(
    method: Method,
    groups: Sequence[Group],
    logps: Logps,
    optimizer: Any,
    reference: Logps | None = None,
    epochs: int = 1,
) -> None:
    """Optimizer steps on a step's groups: the later epochs are off-policy, so that the clip matters."""
    torch.set_num_threads(1)  # tensors of this size are slower with more
    attempts = [a for g in groups for a in g.attempts]
    with torch.no_grad():
        old = logps(attempts)
        ref = (reference or logps)(attempts)
    credits = method.credit(groups, [(o - r).numpy() for o, r in zip(old, ref, strict=True)])
    rows = credits.rows
    weights = [credits.scale * w for w in token_weights(rows, credits.normalizer, max_tokens=2)]
    for _ in range(epochs):
        batch = TokenBatch(
            torch.cat(logps(attempts)),
            torch.cat(old),
            torch.cat(ref),
            flat([r.advantage_T for r in rows]),
            flat(weights),
            flat([r.kl_T for r in rows]),
            torch.repeat_interleave(torch.tensor([len(a.completion.ids) for a in attempts])),
        )
        loss, _ = policy_gradient_loss(batch, credits.clip, credits.estimator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def flat(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
