"""Advantages inside a group and token weights across a batch, as pure functions.

Shapes: G completions of one prompt; rows are completions, T their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scrpo_cli.types import Credit

EPS = 1e-4  # keeps (r - mean) / std finite; small beside the std of any group that is not skipped


def has_signal(rewards_G: np.ndarray, advantage: str = "group_norm") -> bool:
    """Whether the group teaches anything: its raw outcomes differ or, without a baseline (`raw`), one is not 0.

    Exact equality on the raw outcome, never on a shaped reward.
    """
    valid_G = rewards_G[~np.isnan(rewards_G)]
    if advantage == "raw":
        return bool(np.any(valid_G != 0))
    return valid_G.size > 1 and bool(np.any(valid_G != valid_G[0]))


def group_norm(rewards_G: np.ndarray, ddof: int = 0, eps: float = EPS) -> np.ndarray:
    """GRPO (arXiv 2402.03300): (r - mean) / (std + eps), population std unless ddof is 1. NaN rewards stay NaN."""
    return (rewards_G - np.nanmean(rewards_G)) / (np.nanstd(rewards_G, ddof=ddof) + eps)


def group_mean(rewards_G: np.ndarray) -> np.ndarray:
    """Dr. GRPO (arXiv 2503.20783): r - mean, no division."""
    return rewards_G - np.nanmean(rewards_G)


def leave_one_out(rewards_G: np.ndarray) -> np.ndarray:
    """RLOO (arXiv 2402.14740): r minus the mean of the others; needs G >= 2."""
    n = np.sum(~np.isnan(rewards_G))
    return (rewards_G - np.nanmean(rewards_G)) * n / (n - 1)


def raw(rewards_G: np.ndarray) -> np.ndarray:
    """REINFORCE without a baseline."""
    return rewards_G.astype(float)


ADVANTAGES = {"group_norm": group_norm, "group_mean": group_mean, "raw": raw, "leave_one_out": leave_one_out}
SIGNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "both": lambda advantages_G: advantages_G,
    "positive": lambda advantages_G: np.maximum(advantages_G, 0.0),
    "negative": lambda advantages_G: np.minimum(advantages_G, 0.0),
}
"""What is left of advantages where answers of one sign alone earn credit; NaN stays NaN."""


def token_weights(credits: Sequence[Credit], normalizer: str, max_tokens: int) -> list[np.ndarray]:
    """mask / denominator for every token of a batch, so that the loss is one plain sum over tokens.

    The denominator belongs to the whole optimizer step; how the batch is later cut into micro-batches cannot change it.

    sequence_mean  mean over a row's trained tokens, then over all rows (GRPO)
    sequence_sum   sum over a row's trained tokens, mean over all rows (RLOO, SCoRe)
    masked_tokens  all trained tokens of the batch (DAPO's token-level loss)
    all_tokens     all generated tokens of the batch, trained or not
    constant       rows x max_tokens (Dr. GRPO)
    """
    masks = [c.mask_T for c in credits]
    if normalizer == "sequence_mean":
        return [m / (max(m.sum(), 1.0) * len(masks)) for m in masks]
    denominator = {
        "sequence_sum": len(masks),
        "masked_tokens": sum(m.sum() for m in masks),
        "all_tokens": sum(m.size for m in masks),
        "constant": len(masks) * max_tokens,
    }[normalizer]
    return [m / max(float(denominator), 1.0) for m in masks]
