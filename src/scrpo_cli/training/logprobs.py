"""Log-probs of completion tokens under the policy, without ever holding the logits of a whole batch.

What rows begin with in common is computed once (`prefixes`); rows are right-padded where the model does not take that.
Only the hidden states that predict a wanted token are kept, as a flat (N, H) matrix, and the output layer is applied to
a chunk of them at a time, recomputed in the backward pass.

`rows` are (prompt ids, completion ids). `wanted` says for each of them which tokens (T,) of the completion are asked
for; without it, all are. The N wanted tokens of all rows stand one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from scrpo_cli.training import prefixes
from scrpo_cli.training.head import TargetLogprobs, tokens_at_once
from scrpo_cli.training.loss import divergence

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]
Wanted = Sequence[np.ndarray] | None


def completion_logprobs(
    model: Any, rows: Rows, temperature: float, chunk: int, wanted: Wanted = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob and entropy (both (N,), at least float32) of every wanted token, of softmax(logits / temperature)."""
    hidden_NH, targets_N = completion_states(model, rows, wanted)
    weight_VH, bias_V = output_layer(model)
    chunk = tokens_at_once(chunk, len(weight_VH), weight_VH.is_cuda)
    parts = [
        chunk_logprobs(h, t, weight_VH, bias_V, temperature)
        for h, t in zip(hidden_NH.split(chunk), targets_N.split(chunk), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def chunk_logprobs(
    hidden_CH: torch.Tensor,
    targets_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    if not weight_VH.requires_grad:
        return TargetLogprobs.apply(hidden_CH, weight_VH, bias_V, targets_C, temperature)
    return checkpoint(trained_head_logprobs, hidden_CH, targets_C, weight_VH, bias_V, temperature, use_reentrant=False)


def trained_head_logprobs(
    hidden_CH: torch.Tensor,
    targets_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`chunk_logprobs` by autograd, where the output layer itself is trained."""
    return of_targets(chunk_distributions(hidden_CH, weight_VH, bias_V, temperature), targets_C)


def chunk_distributions(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Log-probs of the whole vocabulary."""
    logits_CV = torch.nn.functional.linear(hidden_CH, weight_VH, bias_V)
    exact = torch.promote_types(logits_CV.dtype, torch.float32)
    return torch.log_softmax(logits_CV.to(exact) / temperature, dim=-1)


def of_targets(logp_CV: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    entropy_C = -(logp_CV.detach().exp() * logp_CV.detach()).sum(-1)  # a metric: no gradient
    return logp_CV.gather(1, targets_C.unsqueeze(1)).squeeze(1), entropy_C


def completion_divergences(
    model: Any,
    rows: Rows,
    reference_NH: torch.Tensor,
    kind: str,
    temperature: float,
    chunk: int,
    wanted: Wanted = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `completion_logprobs`, and the divergence (N,) of the policy from a reference at every wanted token, over the
    whole vocabulary; `reference_NH` are the reference's `completion_states` of the same tokens.
    """
    hidden_NH, targets_N = completion_states(model, rows, wanted)
    weight_VH, bias_V = output_layer(model)
    parts = [
        checkpoint(chunk_divergences, h, r, t, weight_VH, bias_V, kind, temperature, use_reentrant=False)
        for h, r, t in zip(hidden_NH.split(chunk), reference_NH.split(chunk), targets_N.split(chunk), strict=True)
    ]
    logp_N, entropy_N, divergence_N = (torch.cat(part) for part in zip(*parts, strict=True))
    return logp_N, entropy_N, divergence_N


def chunk_divergences(
    hidden_CH: torch.Tensor,
    reference_CH: torch.Tensor,
    targets_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    kind: str,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logp_CV = chunk_distributions(hidden_CH, weight_VH, bias_V, temperature)
    reference_CV = chunk_distributions(reference_CH, weight_VH, bias_V, temperature).detach()
    return *of_targets(logp_CV, targets_C), divergence(logp_CV, reference_CV, kind)


def completion_states(model: Any, rows: Rows, wanted: Wanted = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (N, H) at the positions that predict the N wanted tokens, and those tokens (N,).

    Token t of a completion is predicted by the state one position earlier, so row i gives states P-1 .. P+T-2. Its last
    token predicts nothing, and is not read.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if wanted is None:
        wanted = [np.ones(len(completion), dtype=bool) for _, completion in rows]
    targets = [np.asarray(completion, dtype=np.int64)[mine] for (_, completion), mine in zip(rows, wanted, strict=True)]
    targets_N = torch.from_numpy(np.concatenate(targets)).to(model.device)
    if base.config._attn_implementation == prefixes.ATTENTION:
        hidden_NH, places = prefixes.states(base.get_decoder(), [[*p, *completion[:-1]] for p, completion in rows])
        starts = [len(prompt) - 1 for prompt, _ in rows]
        predicts = [at[first : first + len(mine)][mine] for at, first, mine in zip(places, starts, wanted, strict=True)]
        return hidden_NH[torch.from_numpy(np.concatenate(predicts)).to(model.device)], targets_N
    return padded_states(base.get_decoder(), rows, wanted), targets_N


def padded_states(decoder: Any, rows: Rows, wanted: Sequence[np.ndarray]) -> torch.Tensor:
    """The states of `completion_states`, every row computed on its own."""
    device = decoder.device
    read = [[*p, *c[:-1]] for p, c in rows]
    ids_BL = torch.zeros((len(rows), max(map(len, read))), dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    predicts_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(rows):  # by lengths, never by token values
        ids_BL[i, : len(read[i])] = torch.tensor(read[i])
        mask_BL[i, : len(read[i])] = 1
        first = len(prompt) - 1
        predicts_BL[i, first : first + len(completion)] = torch.from_numpy(wanted[i])
    hidden_BLH = decoder(
        input_ids=ids_BL.to(device), attention_mask=mask_BL.to(device), use_cache=False
    ).last_hidden_state
    return hidden_BLH[predicts_BL.to(device)]


def output_layer(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    layer = model.get_output_embeddings()
    return layer.weight, getattr(layer, "bias", None)
