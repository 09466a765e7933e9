"""The forward passes that an update needs, and no more of them: what policy and reference give to tokens.

A token without a weight in the loss is read, where a later one has a weight, and is not given to the output layer. The
reference reads only rows with a KL coefficient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training import prefixes
from scrpo_cli.training.logprobs import Rows, Wanted, completion_divergences, completion_logprobs, completion_states
from scrpo_cli.training.loss import EXACT, TokenBatch, corrections
from scrpo_cli.training.policy import Policy
from scrpo_cli.types import Completion, Credit


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A completion up to its last trained token, its credit and its token weights (T,) inside its optimizer step."""

    completion: Completion
    credit: Credit
    weight_T: np.ndarray
    old_W: np.ndarray | None = None
    """The trainer's own log-probs of the wanted tokens before the step's first update, where they are not what was
    sampled with."""

    @property
    def pair(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.completion.prompt_ids, self.completion.ids

    @property
    def has_kl(self) -> bool:
        return bool((self.credit.kl_T[self.weight_T > 0] > 0).any())

    @property
    def read_by_reference(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.credit.reference_prompt or self.completion.prompt_ids, self.completion.ids

    @property
    def read(self) -> Sequence[int]:
        """The longest row that a forward pass reads for it."""
        prompt = max(self.completion.prompt_ids, self.credit.reference_prompt, key=len)
        return [*prompt, *self.completion.ids]


def sampled_otherwise(engine: str, policy: Policy) -> bool:
    """Whether the log-probs of an engine differ from the trainer's by more than the last digits of float32: those of
    other engines, and in 16 bits those of other batches.
    """
    return engine != "transformers" or policy.model.dtype.itemsize < 4


class Scorer:
    """Scores rows with the policy and with its reference.

    `corrects`: whether the log-probs that were sampled with differ from the trainer's, so that the clip's old ones are
    the trainer's own, and the difference is corrected for (`rollout.correction`).
    """

    def __init__(self, policy: Policy, recipe: Recipe, corrects: bool) -> None:
        self.policy, self.recipe, self.optim = policy, recipe, recipe.optim
        self.corrects, self.recorded = corrects, False
        self.shares_prefixes = shares_prefixes(policy, self.optim.share_prefixes)
        self.microbatch_tokens = self.optim.tokens_per_microbatch

    @property
    def temperature(self) -> float:
        """Of the log-probs: that of sampling, or 1 for recorded examples."""
        return 1.0 if self.recorded else self.recipe.rollout.temperature

    def log_ratios(self, completions: Sequence[Completion]) -> list[np.ndarray]:
        """(T,) log pi - log pi_ref of every token, one array a completion."""
        return self.of_all_tokens(completions, lambda *rows: self.logprobs(*rows) - self.reference_logprobs(*rows))

    def of_all_tokens(self, completions: Sequence[Completion], score: Callable[..., torch.Tensor]) -> list[np.ndarray]:
        """What `score` finds of every token (T,), one array a completion."""
        pairs = [(c.prompt_ids, c.ids) for c in completions]
        return self.by_row(pairs, [np.ones(len(c.ids), dtype=bool) for c in completions], score)

    def own_logprobs(self, rows: Sequence[TrainRow]) -> list[np.ndarray]:
        """(W,) log-probs of the wanted tokens as they are now, one array a row."""
        return self.by_row([row.pair for row in rows], [self.wanted(row) for row in rows], self.logprobs)

    def wanted(self, row: TrainRow) -> np.ndarray:
        """Which tokens (T,) of the row are given to the output layer: those with a weight. A correction by sequence is
        the ratio of all tokens that were sampled up to them.
        """
        whole = self.corrects and not self.recorded and self.recipe.rollout.correction.level == "sequence"
        return np.ones_like(row.weight_T, dtype=bool) if whole else row.weight_T > 0

    @torch.no_grad()
    def by_row(self, pairs: Rows, wanted: Sequence[np.ndarray], score: Callable[..., torch.Tensor]) -> list[np.ndarray]:
        """What `score` finds of the wanted tokens, one array a row."""
        found: dict[int, np.ndarray] = {}
        for part in within_budget([[*p, *c] for p, c in pairs], self.microbatch_tokens, self.shares_prefixes):
            mine = [wanted[i] for i in part]
            cuts = np.cumsum([each.sum() for each in mine])[:-1]
            values_N = score([pairs[i] for i in part], mine).float().cpu().numpy()
            found |= dict(zip(part, np.split(values_N, cuts), strict=True))
        return [found[i] for i in range(len(pairs))]

    def logprobs(self, pairs: Rows, wanted: Wanted) -> torch.Tensor:
        return self.logprobs_and_entropies(pairs, wanted)[0]

    def logprobs_and_entropies(self, pairs: Rows, wanted: Wanted) -> tuple[torch.Tensor, torch.Tensor]:
        return completion_logprobs(self.policy.model, pairs, self.temperature, self.optim.logits_chunk, wanted)

    @torch.no_grad()
    def reference_logprobs(self, pairs: Rows, wanted: Wanted) -> torch.Tensor:
        with self.policy.reference():
            return self.logprobs(pairs, wanted)

    def token_batch(
        self, rows: Sequence[TrainRow], estimator: str = "k3"
    ) -> tuple[TokenBatch, torch.Tensor, torch.Tensor]:
        """The N wanted tokens; the log-probs that they were sampled with, and their entropies, both (N,)."""
        device = self.policy.device
        wanted = [self.wanted(row) for row in rows]

        def of_wanted(values: Iterable[Any]) -> torch.Tensor:
            return flat([np.asarray(v_T)[mine] for v_T, mine in zip(values, wanted, strict=True)], device)

        row_N = torch.repeat_interleave(torch.tensor([int(mine.sum()) for mine in wanted])).to(device)
        old_N = sampled_N = of_wanted(row.completion.logprobs for row in rows)
        logp_N, entropy_N, ref_N, divergence_N = self.passes(rows, wanted, row_N, estimator)
        correction_N = None
        if self.corrects and not self.recorded:
            own = [row.old_W for row in rows if row.old_W is not None]
            old_N = flat(own, device) if own else logp_N.detach()
            correction_N = corrections(old_N - sampled_N, row_N, self.recipe.rollout.correction)
        return (
            TokenBatch(
                logp_N,
                old_N,
                ref_N,
                of_wanted(row.credit.advantage_T for row in rows),
                of_wanted(row.weight_T for row in rows),
                of_wanted(row.credit.kl_T for row in rows),
                row_N,
                divergence_N,
                correction_N,
            ),
            sampled_N,
            entropy_N,
        )

    def passes(
        self, rows: Sequence[TrainRow], wanted: Sequence[np.ndarray], row_N: torch.Tensor, estimator: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Log-probs and entropies of the wanted tokens, then the reference's log-probs or the divergence from it, where
        a KL coefficient needs one; each (N,).

        The reference comes first: it may swap the adapter's weights, which no graph must have seen. It reads the rows
        with a coefficient only; in a divergence, all rows where one has a coefficient.
        """
        pairs, held = [row.pair for row in rows], [i for i, row in enumerate(rows) if row.has_kl]
        if not held:
            return *self.logprobs_and_entropies(pairs, wanted), None, None
        if estimator in EXACT:
            logp_N, entropy_N, divergence_N = self.divergences(
                pairs, [row.read_by_reference for row in rows], wanted, estimator
            )
            return logp_N, entropy_N, None, divergence_N
        found = self.reference_logprobs([rows[i].read_by_reference for i in held], [wanted[i] for i in held])
        logp_N, entropy_N = self.logprobs_and_entropies(pairs, wanted)
        ref_N = logp_N.detach().clone()
        ref_N[torch.isin(row_N, torch.tensor(held, device=row_N.device))] = found
        return logp_N, entropy_N, ref_N, None

    def divergences(
        self, pairs: Rows, read_by_reference: Rows, wanted: Wanted, kind: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs, entropies and the divergence from the reference, which reads the same completions after prompts of
        its own.
        """
        with torch.no_grad(), self.policy.reference():
            reference_NH, _ = completion_states(self.policy.model, read_by_reference, wanted)
        return completion_divergences(
            self.policy.model, pairs, reference_NH, kind, self.temperature, self.optim.logits_chunk, wanted
        )


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
