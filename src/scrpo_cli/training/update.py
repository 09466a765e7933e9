"""An optimizer step from a batch of credited completions: micro-batches by token budget, one global denominator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import Credits, Term
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.activity import now
from scrpo_cli.training import prefixes
from scrpo_cli.training.logprobs import completion_divergences, completion_logprobs, completion_states
from scrpo_cli.training.loss import EXACT, TokenBatch, corrections, policy_gradient_loss
from scrpo_cli.training.policy import Policy, check_trainable
from scrpo_cli.types import Completion, Credit


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A completion up to its last trained token, its credit and its token weights (T,) inside its optimizer step."""

    completion: Completion
    credit: Credit
    weight_T: np.ndarray
    old_T: np.ndarray | None = None
    """The trainer's own log-probs before the step's first update, where they are not what was sampled with."""

    @property
    def read_by_reference(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.credit.reference_prompt or self.completion.prompt_ids, self.completion.ids

    @property
    def read(self) -> Sequence[int]:
        """The longest row that a forward pass reads for it."""
        prompt = max(self.completion.prompt_ids, self.credit.reference_prompt, key=len)
        return [*prompt, *self.completion.ids]


class Updater:
    """Owns the optimizer and the schedule; the policy's version goes up by one at each optimizer step.

    `corrects`: whether the log-probs that were sampled with differ from the trainer's, so that the clip's old ones are
    the trainer's own, and the difference is corrected for (`rollout.correction`).
    """

    def __init__(self, policy: Policy, recipe: Recipe, corrects: bool = False) -> None:
        check_trainable(policy.model, recipe.model)
        self.policy, self.recipe, self.optim = policy, recipe, recipe.optim
        self.corrects, self.recorded = corrects, False
        cfg = recipe.optim
        self.shares_prefixes = shares_prefixes(policy, cfg.share_prefixes)
        self.microbatch_tokens = cfg.tokens_per_microbatch
        self.optimizer = torch.optim.AdamW(
            policy.trainable(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay
        )

    @property
    def temperature(self) -> float:
        """Of the log-probs: that of sampling, or 1 for recorded examples."""
        return 1.0 if self.recorded else self.recipe.rollout.temperature

    def set_reference(self, which: str, share: float) -> None:
        """See `Policy.set_reference`."""
        self.policy.set_reference(which, share)

    def update(self, step: int, completions: Sequence[Completion], credits: Credits) -> dict[str, float]:
        """Train on a step's completions and return metrics; rows without any trained token cost nothing."""
        stats: list[dict[str, torch.Tensor]] = []
        norms = []
        own = self.corrects and not self.recorded and self.optim.minibatches > 1
        old = self.own_logprobs(completions) if own else [None] * len(completions)
        for part in minibatches(len(completions), self.optim.minibatches):
            mine = [[each[i] for i in part] for each in (completions, credits.rows, old)]
            rows = weighted_rows(mine[0], mine[1], credits, self.recipe, mine[2])
            if not rows:
                continue
            stats += self.accumulate(rows, credits)
            norms.append(self.step(step))
        return (
            summary(stats, norms)
            | dict(credits.metrics)
            | {"train/lr": learning_rate(step, self.policy.version, self.recipe)}
        )

    def log_ratios(self, completions: Sequence[Completion]) -> list[np.ndarray]:
        """(T,) log pi - log pi_ref of every token, one array a completion."""
        return self.by_row(completions, lambda pairs: self.logprobs(pairs) - self.reference_logprobs(pairs))

    def own_logprobs(self, completions: Sequence[Completion]) -> list[np.ndarray]:
        """(T,) log-probs of every token, one array a completion."""
        return self.by_row(completions, self.logprobs)

    @torch.no_grad()
    def by_row(self, completions: Sequence[Completion], score: Callable[[Any], torch.Tensor]) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        rows = [(c.prompt_ids, c.ids) for c in completions]
        for part in within_budget([[*p, *c] for p, c in rows], self.microbatch_tokens, self.shares_prefixes):
            pairs = [rows[i] for i in part]
            cuts = np.cumsum([len(ids) for _, ids in pairs])[:-1]
            found |= dict(zip(part, np.split(score(pairs).float().cpu().numpy(), cuts), strict=True))
        return [found[i] for i in range(len(rows))]

    def logprobs(self, pairs: Any) -> torch.Tensor:
        return self.logprobs_and_entropies(pairs)[0]

    def logprobs_and_entropies(self, pairs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return completion_logprobs(self.policy.model, pairs, self.temperature, self.optim.logits_chunk)

    @torch.no_grad()
    def reference_logprobs(self, pairs: Any) -> torch.Tensor:
        with self.policy.reference():
            return self.logprobs(pairs)

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
        """Forward and backward of one micro-batch; gradients add up in the parameters."""
        pairs = [(r.completion.prompt_ids, r.completion.ids) for r in rows]
        batch, entropy_N = self.token_batch(rows, pairs, credits.estimator)
        loss, stats = policy_gradient_loss(batch, credits.clip, credits.estimator)
        loss.backward()
        trained_N = batch.weight_N > 0
        picked = {k: v[trained_N] for k, v in stats.items()}
        sampled_N = flat([np.asarray(r.completion.logprobs) for r in rows], self.policy.device)
        drift_N = (batch.logp_N.detach() - sampled_N).abs()[trained_N]
        picked |= {"loss": loss.detach(), "entropy": entropy_N[trained_N], "drift": drift_N}
        if batch.correction_N is not None:
            picked["correction"] = batch.correction_N[trained_N]
        for part in sorted({r.credit.part for r in rows} - {""}):
            of_part_B = torch.tensor([r.credit.part == part for r in rows], device=batch.row_N.device)
            picked[f"kl_{part}"] = stats["kl"][trained_N & of_part_B[batch.row_N]]
            picked[f"rows_{part}"] = of_part_B.sum()
        return picked

    def token_batch(
        self, rows: Sequence[TrainRow], pairs: Any, estimator: str = "k3"
    ) -> tuple[TokenBatch, torch.Tensor]:
        device = self.policy.device
        kl_N = flat([r.credit.kl_T for r in rows], device)
        ref_N = divergence_N = None
        # the reference comes first: it may swap the adapter's weights, which no graph must have seen
        if not bool((kl_N > 0).any()):
            logp_N, entropy_N = self.logprobs_and_entropies(pairs)
        elif estimator in EXACT:
            logp_N, entropy_N, divergence_N = self.divergences(pairs, [r.read_by_reference for r in rows], estimator)
        else:
            ref_N = self.reference_logprobs([r.read_by_reference for r in rows])
            logp_N, entropy_N = self.logprobs_and_entropies(pairs)
        old_N = sampled_N = flat([np.asarray(r.completion.logprobs) for r in rows], device)
        row_N = torch.repeat_interleave(torch.tensor([len(r.completion.ids) for r in rows])).to(device)
        correction_N = None
        if self.corrects and not self.recorded:
            own = [r.old_T for r in rows if r.old_T is not None]
            old_N = flat(own, device) if own else logp_N.detach()
            correction_N = corrections(old_N - sampled_N, row_N, self.recipe.rollout.correction)
        return TokenBatch(
            logp_N,
            old_N,
            ref_N,
            flat([r.credit.advantage_T for r in rows], device),
            flat([r.weight_T for r in rows], device),
            kl_N,
            row_N,
            divergence_N,
            correction_N,
        ), entropy_N

    def divergences(
        self, pairs: Any, read_by_reference: Any, kind: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs, entropies and the divergence from the reference, which reads the same completions after prompts of
        its own.
        """
        with torch.no_grad(), self.policy.reference():
            reference_NH, _ = completion_states(self.policy.model, read_by_reference)
        return completion_divergences(
            self.policy.model, pairs, reference_NH, kind, self.temperature, self.optim.logits_chunk
        )

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
    completions: Sequence[Completion],
    rows: Sequence[Credit],
    credits: Credits,
    recipe: Recipe,
    old: Sequence[np.ndarray | None] | None = None,
) -> list[TrainRow]:
    """Rows with a trained token, weighted by the denominator of the whole optimizer step."""
    weights = loss_weights(rows, credits, recipe.rollout.max_tokens)
    return [
        up_to_last_trained(completion, credit, weight_T, old_T)
        for completion, credit, weight_T, old_T in zip(
            completions, rows, weights, old or [None] * len(rows), strict=True
        )
        if credit.mask_T.any()
    ]


def up_to_last_trained(
    completion: Completion, credit: Credit, weight_T: np.ndarray, old_T: np.ndarray | None
) -> TrainRow:
    """What follows, as the solution after a trained reflection, reaches no trained token: it needs no forward pass."""
    end = int(np.flatnonzero(credit.mask_T)[-1]) + 1
    arrays = {name: getattr(credit, name)[:end] for name in ("advantage_T", "mask_T", "kl_T")}
    read = replace(completion, ids=completion.ids[:end], logprobs=completion.logprobs[:end])
    return TrainRow(read, replace(credit, **arrays), weight_T[:end], None if old_T is None else old_T[:end])


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


def within_budget(rows: Sequence[Sequence[int]], tokens: int, share: bool = False) -> Iterator[list[int]]:
    """Indices of rows whose size in a forward pass, packed with shared prefixes or padded, stays within `tokens`; a
    longer row stands alone.
    """
    if share:
        yield from prefixes.batches(rows, tokens)
        return
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if batch and len(rows[i]) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def shares_prefixes(policy: Policy, wanted: bool) -> bool:
    """Whether rows that begin alike are computed together; where the architecture cannot, that is said once."""
    base = policy.model.get_base_model()
    if not wanted:
        prefixes.disable(base)
    elif reason := prefixes.enable(base):
        warnings.warn(f"Every row is computed on its own: {reason}.", stacklevel=2)
    return base.config._attn_implementation == prefixes.ATTENTION


def flat(parts: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(device)


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
    """Means over the trained tokens of all micro-batches; `drift` is |log-prob of trainer - of sampler|."""
    if not stats:
        return {"train/tokens": 0.0}

    def tokens(key: str) -> torch.Tensor:
        return torch.cat([s[key] for s in stats if key in s])

    return (
        parts_kl(stats)
        | corrected(stats)
        | {
            "train/tokens": float(tokens("ratio").numel()),
            "train/loss": float(sum(s["loss"] for s in stats)),
            "train/clip_share": float(tokens("clipped").mean()),
            "train/kl": float(tokens("kl").mean()),
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
    """KL of each part of the credit (SCoRe's turns): mean over its tokens, and mean over its rows of their sum."""
    found = {}
    for part in sorted({key.removeprefix("rows_") for s in stats for key in s if key.startswith("rows_")}):
        mine = [s for s in stats if f"rows_{part}" in s]
        kl_N = torch.cat([s[f"kl_{part}"] for s in mine])
        if kl_N.numel():
            found[f"train/kl_{part}"] = float(kl_N.mean())
            found[f"train/kl_{part}_sequence"] = float(kl_N.sum() / sum(s[f"rows_{part}"] for s in mine))
    return found
