"""Hits and shares: what the measurements of embedded models share."""

from __future__ import annotations

import numpy as np


def is_right(text: str, answer: int) -> bool:
    """The last boxed integer is the answer; for second turns only after the solution marker."""
    tail = text.rsplit("Corrected Solution:", 1)[-1]
    return tail.rstrip().endswith(f"\\boxed{{{answer}}}")


def ratio(hits_N: np.ndarray, cases_N: np.ndarray) -> dict[str, float]:
    """Sum of hits over sum of cases with a 95% interval clustered by problem (delta method)."""
    p = hits_N.sum() / cases_N.sum()
    se = np.sqrt(((hits_N - p * cases_N) ** 2).sum()) / cases_N.sum()
    return {"value": round(float(p), 4), "lo": round(float(p - 1.96 * se), 4), "hi": round(float(p + 1.96 * se), 4)}
