"""Gated reflection: decide from the first answer alone whether a second turn is worth asking. Pure functions.

Reflecting on everything breaks right answers too. A gate asks the second turn where the confidence in the first answer
is below a threshold; `never` and `always` are its two ends. All of this is ours [I]; docs/gate.md has the definitions.

Shapes: N problems, K samples. NaN confidence (nothing is known of the answer) lies below every threshold but `never`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

from scrpo_cli.evaluation.metrics import paired, share

NEVER, ALWAYS = -np.inf, np.inf
Spelled = float | Literal["never", "always"]
_ROUNDING = 12  # decimals; smaller differences of accuracies are rounding


@dataclass(frozen=True)
class GateData:
    """Outcomes of first and second answers, the confidence in the first, and the tokens of each turn and of a question
    that the signal asked.
    """

    first_NK: np.ndarray
    second_NK: np.ndarray
    confidence_NK: np.ndarray
    first_tokens_NK: np.ndarray
    second_tokens_NK: np.ndarray
    signal_tokens_NK: np.ndarray

    @property
    def counted_NK(self) -> np.ndarray:
        """Pairs of which both answers were graded."""
        return ~np.isnan(self.first_NK + self.second_NK)


def reflects(confidence: np.ndarray, threshold: float) -> np.ndarray:
    """True where the second turn is asked."""
    return np.nan_to_num(confidence, nan=-np.inf) < threshold if threshold < ALWAYS else np.ones_like(confidence, bool)


def fit_threshold(data: GateData) -> float:
    """The threshold that maximises gated accuracy; of equals the one with the least coverage.

    Candidates: never, every confidence that occurs (what lies below it is reflected on), always. Problems count
    equally, as in every accuracy here.
    """
    counted_NK = data.counted_NK
    share_NK = counted_NK / np.maximum(1, counted_NK.sum(axis=1, keepdims=True))
    gain_NK = np.where(counted_NK, data.second_NK - data.first_NK, 0.0) * share_NK
    known_NK = np.nan_to_num(data.confidence_NK, nan=-np.inf)
    levels_L, at = np.unique(known_NK[counted_NK], return_inverse=True)
    gain_L = np.bincount(at, weights=gain_NK[counted_NK], minlength=len(levels_L))
    gained_C = np.round(np.concatenate([[0.0], np.cumsum(gain_L)]), _ROUNDING)  # of reflecting on the lowest C levels
    return float([NEVER, *levels_L[1:], ALWAYS][int(gained_C.argmax())])


def gate_metrics(data: GateData, threshold: float) -> dict[str, Any]:
    """Coverage (share of answers that are reflected on), and accuracy gated against never and always reflecting.

    Accuracies with their interval; `against_*` are paired differences, gated minus the other. `tokens`: mean generated
    tokens of an answer under each policy. `auroc`: how well the confidence tells right first answers from wrong ones.
    """
    asked_NK = reflects(data.confidence_NK, threshold)
    never_NK, always_NK = (np.where(data.counted_NK, x, np.nan) for x in (data.first_NK, data.second_NK))
    gated_NK = np.where(asked_NK, always_NK, never_NK)
    return {
        "threshold": spelled(threshold),
        "coverage": share(np.where(data.counted_NK, asked_NK, np.nan)),
        "accuracy": share(gated_NK),
        "never": share(never_NK),
        "always": share(always_NK),
        "against_never": paired(never_NK, gated_NK),
        "against_always": paired(always_NK, gated_NK),
        "auroc": auroc(data.confidence_NK[data.counted_NK], data.first_NK[data.counted_NK]),
        "tokens": tokens(data, asked_NK),
    }


def tokens(data: GateData, asked_NK: np.ndarray) -> dict[str, float]:
    """Mean generated tokens of an answer when the second turn is asked never, where the gate says so, and always."""
    first_NK, second_NK = data.first_tokens_NK, data.second_tokens_NK
    policies = {
        "never": first_NK,
        "gated": first_NK + data.signal_tokens_NK + second_NK * asked_NK,
        "always": first_NK + second_NK,
    }
    return {name: float(tokens_NK[data.counted_NK].mean()) for name, tokens_NK in policies.items()}


def auroc(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """The chance that a right answer has the higher confidence than a wrong one, ties at half (Mann-Whitney): 0.5 says
    that the signal knows nothing. None without an answer of either kind.
    """
    rights, wrongs = int((right == 1).sum()), int((right == 0).sum())
    if not rights or not wrongs:
        return None
    ranks = rankdata(np.nan_to_num(confidence, nan=-np.inf))
    return float((ranks[right == 1].sum() - rights * (rights + 1) / 2) / (rights * wrongs))


def spelled(threshold: float) -> Spelled:
    """JSON and YAML write the two ends as words."""
    return "never" if threshold == NEVER else "always" if threshold == ALWAYS else threshold


def threshold_of(word: Spelled) -> float:
    return {"never": NEVER, "always": ALWAYS}[word] if isinstance(word, str) else float(word)
