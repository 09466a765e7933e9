"""The output layer on a chunk of tokens: log-probs of given tokens, and entropies, with few arrays of the logits' size.

Autograd through a linear layer and a softmax holds up to five arrays (C, V) at a time, and 1,024 tokens of a vocabulary
of 151,936 take 0.6 GB each in float32. Here two are alive in the forward pass and one in the backward pass, which
computes the logits again: d logp_target / d logits = onehot(target) - softmax(logits).

Shapes: C tokens, V the vocabulary, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch

CPU_LOGITS = 2**24
"""Logits of a chunk on a CPU (64 MiB in float32): larger arrays save no time there, and cost memory."""


class TargetLogprobs(torch.autograd.Function):
    """(hidden_CH, weight_VH, bias_V, targets_C, temperature) to log-probs and entropies, each (C,) and at least
    float32, of softmax(logits / temperature). Only `hidden_CH` gets a gradient, from the log-probs: entropies are a
    metric.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_CH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_C: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp_CV = scaled_logits(hidden_CH, weight_VH, bias_V, temperature)
        normalizer_C1 = logp_CV.logsumexp(-1, keepdim=True)
        logp_CV.sub_(normalizer_C1)
        entropy_C = -logp_CV.exp().mul_(logp_CV).sum(-1)
        ctx.save_for_backward(hidden_CH, weight_VH, bias_V, targets_C, normalizer_C1)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_C)
        return logp_CV.gather(1, targets_C.unsqueeze(1)).squeeze(1), entropy_C

    @staticmethod
    def backward(ctx: Any, grad_C: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden_CH, weight_VH, bias_V, targets_C, normalizer_C1 = ctx.saved_tensors
        grad_C1 = grad_C.unsqueeze(1) / ctx.temperature
        grad_CV = scaled_logits(hidden_CH, weight_VH, bias_V, ctx.temperature).sub_(normalizer_C1).exp_().mul_(-grad_C1)
        grad_CV.scatter_add_(1, targets_C.unsqueeze(1), grad_C1)
        return grad_CV.to(weight_VH.dtype) @ weight_VH, None, None, None, None


def scaled_logits(
    hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """(C, V), a new array in at least float32."""
    logits_CV = torch.nn.functional.linear(hidden_CH, weight_VH, bias_V)
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)).div_(temperature)


def tokens_at_once(chunk: int, words: int, on_cuda: bool) -> int:
    """`chunk`, or fewer on a CPU where the vocabulary is large."""
    return chunk if on_cuda else max(1, min(chunk, CPU_LOGITS // words))
