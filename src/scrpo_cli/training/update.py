"""An optimizer step from a batch of credited completions: micro-batches by token budget, one global denominator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import Credits, Term
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.loss import policy_gradient_loss
from scrpo_cli.training.policy import Policy, check_trainable
from scrpo_cli.training.scorer import Scorer, TrainRow, within_budget
from scrpo_cli.types import Completion, Credit


class Updater(Scorer):
    """Owns the optimizer and the schedule; the policy's version goes up by one at each optimizer step."""

    def __init__(self, policy: Policy, recipe: Recipe, corrects: bool = False) -> None:
        check_trainable(policy.model, recipe.model)
        super().__init__(policy, recipe, corrects)
        cfg = recipe.optim
        self.optimizer = torch.optim.AdamW(
            policy.trainable(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay
        )

    def set_reference(self, which: str, share: float) -> None:
        """See `Policy.set_reference`."""
        self.policy.set_reference(which, share)

    def update(self, step: int, completions: Sequence[Completion], credits: Credits) -> dict[str, float]:
        """Train on a step's completions and return metrics; rows without any trained token cost nothing."""
        stats: list[dict[str, torch.Tensor]] = []
        norms = []
        parts = [
            weighted_rows([completions[i] for i in part], [credits.rows[i] for i in part], credits, self.recipe)
            for part in minibatches(len(completions), self.optim.minibatches)
        ]
        if self.corrects and not self.recorded and self.optim.minibatches > 1:
            own = iter(self.own_logprobs([row for rows in parts for row in rows]))
            parts = [[replace(row, old_W=next(own)) for row in rows] for rows in parts]
        for rows in filter(None, parts):
            stats += self.accumulate(rows, credits)
            norms.append(self.step(step))
        return (
            summary(stats, norms)
            | dict(credits.metrics)
            | {"train/lr": learning_rate(step, self.policy.version, self.recipe)}
        )

    def accumulate(self, rows: Sequence[TrainRow], credits: Credits) -> list[dict[str, torch.Tensor]]:
        """Gradients of one optimizer step. Out of CUDA memory, it starts over with half the tokens a micro-batch."""
        try:
            parts = microbatches(rows, self.microbatch_tokens, self.shares_prefixes)
            with self.policy.recomputing():
                return [self.backward(micro, credits) for micro in now().each(parts)]
        except torch.cuda.OutOfMemoryError as err:
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            longest = max(len(row.read) for row in rows)
            if self.microbatch_tokens <= longest:
                what = f"Out of CUDA memory with a single row of {longest} tokens."
                fix = "Set model.gradient_checkpointing, or lower rollout.max_tokens or optim.logits_chunk."
                raise RunError(what, f"model.name: {self.recipe.model.name}", fix) from err
            self.microbatch_tokens //= 2
            warnings.warn(f"out of CUDA memory: micro-batches of {self.microbatch_tokens} tokens now", stacklevel=2)
        return Updater.accumulate(self, rows, credits)  # of this process, where it is one of several

    def backward(self, rows: Sequence[TrainRow], credits: Credits) -> dict[str, torch.Tensor]:
        """Forward and backward of one micro-batch; gradients add up in the parameters. Returns what was measured of its
        trained tokens; `kl` is that of those with a KL coefficient.
        """
        batch, sampled_N, entropy_N = self.token_batch(rows, credits.estimator)
        loss, stats = policy_gradient_loss(batch, credits.clip, credits.estimator)
        loss.backward()
        trained_N = batch.weight_N > 0
        has_kl_N = trained_N & (batch.kl_N > 0)
        drift_N = (batch.logp_N.detach() - sampled_N).abs()
        picked = {k: v[trained_N] for k, v in (stats | {"entropy": entropy_N, "drift": drift_N}).items()}
        picked |= {"loss": loss.detach(), "kl": stats["kl"][has_kl_N]}
        if batch.correction_N is not None:
            picked["correction"] = batch.correction_N[trained_N]
        for part in sorted({r.credit.part for r in rows} - {""}):
            of_part_B = torch.tensor([r.credit.part == part for r in rows], device=batch.row_N.device)
            mine_N = has_kl_N & of_part_B[batch.row_N]
            picked[f"kl_{part}"] = stats["kl"][mine_N]
            picked[f"rows_{part}"] = torch.tensor(batch.row_N[mine_N].unique().numel())
        return picked

    def step(self, step: int) -> float:
        """One optimizer step of the training step `step`; the norm of the gradient before it is clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.policy.version + 1, self.recipe)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.trainable(), self.optim.grad_clip)
        if not torch.isfinite(norm):
            what = f"The gradient of step {step} has the norm {norm.item()}; nothing of the step was kept."
            where = f"optimizer step {self.policy.version + 1}"
            raise RunError(what, where, "Start a new run with a lower optim.lr or a higher kl.beta.")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.version += 1
        return float(norm)


def weighted_rows(
    completions: Sequence[Completion], rows: Sequence[Credit], credits: Credits, recipe: Recipe
) -> list[TrainRow]:
    """Rows with a trained token, weighted by the denominator of the whole optimizer step."""
    weights = loss_weights(rows, credits, recipe.rollout.max_tokens)
    return [
        up_to_last_trained(completion, credit, weight_T)
        for completion, credit, weight_T in zip(completions, rows, weights, strict=True)
        if (weight_T > 0).any()
    ]


def up_to_last_trained(completion: Completion, credit: Credit, weight_T: np.ndarray) -> TrainRow:
    """What follows, as the solution after a trained reflection, reaches no trained token: it needs no forward pass."""
    end = int(np.flatnonzero(weight_T > 0)[-1]) + 1
    arrays = {name: getattr(credit, name)[:end] for name in ("advantage_T", "mask_T", "kl_T")}
    read = replace(completion, ids=completion.ids[:end], logprobs=completion.logprobs[:end])
    return TrainRow(read, replace(credit, **arrays), weight_T[:end])


def loss_weights(rows: Sequence[Credit], credits: Credits, max_tokens: int) -> list[np.ndarray]:
    """The factor of every token (T,) in the loss; the rows of each term have a denominator and a scale of their own."""
    found: dict[int, np.ndarray] = {}
    for name, term in {"": Term(credits.normalizer, credits.scale), **credits.terms}.items():
        mine = [i for i, row in enumerate(rows) if (row.part if row.part in credits.terms else "") == name]
        weights = token_weights([rows[i] for i in mine], term.normalizer, max_tokens)
        found |= {i: term.scale * weight_T for i, weight_T in zip(mine, weights, strict=True)}
    return [found[i] for i in range(len(rows))]


def minibatches(rows: int, count: int) -> list[np.ndarray]:
    """Row indices of each optimizer step; rows are dealt like cards so that groups spread evenly."""
    return [np.arange(k, rows, count) for k in range(min(count, rows))]


def microbatches(rows: Sequence[TrainRow], tokens: int, share: bool = False) -> list[list[TrainRow]]:
    return [[rows[i] for i in part] for part in within_budget([row.read for row in rows], tokens, share)]


def learning_rate(step: int, update: int, recipe: Recipe) -> float:
    """Linear warm-up over the first warmup_steps optimizer steps (`update`), and constant, linear or cosine decay over
    the training steps (`step`); both count from 1. A training step may have no optimizer step, or several.
    """
    cfg = recipe.optim
    warm = min(1.0, update / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    done = min(1.0, (step - 1) / cfg.steps)
    decay = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + float(np.cos(np.pi * done)))}[cfg.schedule]
    return cfg.lr * warm * decay


def summary(stats: Sequence[dict[str, torch.Tensor]], norms: Sequence[float]) -> dict[str, float]:
    """Means over the trained tokens of all micro-batches, that of the KL over those of them with a KL coefficient, if
    there are any; `drift` is |log-prob of trainer - of sampler|.
    """
    if not stats:
        return {"train/tokens": 0.0}

    def tokens(key: str) -> torch.Tensor:
        return torch.cat([s[key] for s in stats if key in s])

    kl_N = tokens("kl")
    return (
        ({"train/kl": float(kl_N.mean())} if kl_N.numel() else {})
        | parts_kl(stats)
        | corrected(stats)
        | {
            "train/tokens": float(tokens("ratio").numel()),
            "train/loss": float(sum(s["loss"] for s in stats)),
            "train/clip_share": float(tokens("clipped").mean()),
            "train/entropy": float(tokens("entropy").mean()),
            "train/drift": float(tokens("drift").mean()),
            "train/drift_max": float(tokens("drift").max()),
            "train/grad_norm": float(np.mean(norms)),
        }
    )


def corrected(stats: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """The importance weights between sampler and trainer, where there are any."""
    weights = [s["correction"] for s in stats if "correction" in s]
    if not weights:
        return {}
    weight_N = torch.cat(weights)
    return {
        "correction/mean": float(weight_N.mean()),
        "correction/min": float(weight_N.min()),
        "correction/max": float(weight_N.max()),
        "correction/ess": float(weight_N.sum() ** 2 / (weight_N.square().sum() * len(weight_N)).clamp(min=1e-12)),
    }


def parts_kl(stats: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """KL of each part of the credit (SCoRe's turns), of what has a coefficient: mean over tokens, and mean over rows of
    their sum.
    """
    found = {}
    for part in sorted({key.removeprefix("rows_") for s in stats for key in s if key.startswith("rows_")}):
        mine = [s for s in stats if f"rows_{part}" in s]
        kl_N = torch.cat([s[f"kl_{part}"] for s in mine])
        if kl_N.numel():
            found[f"train/kl_{part}"] = float(kl_N.mean())
            found[f"train/kl_{part}_sequence"] = float(kl_N.sum() / sum(s[f"rows_{part}"] for s in mine))
    return found
