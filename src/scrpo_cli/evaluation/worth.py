"""What a generated token buys before anything is trained: groups whose rewards differ, of first answers and of
reflections. Pure functions of graded groups; `scrpo advise` samples them.

A group trains something when its rewards differ (`has_signal`), so groups with signal per 1,000 generated tokens say
what practising and reflecting are worth. Of each problem with an error one is shown, and it stands for all of the
problem: what is said of reflections is a mean over errors, each of which counts once. The control of a repair is a
fresh try at the problem of the same error: the other first answers of its group are exactly that, and cost nothing.

Shapes: N problems, G answers of one prompt. Numbers are {"value", "ci95"}, 95% intervals clustered by problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.evaluation.outcomes import problem_means
from scrpo_cli.evaluation.paired import compare_ratios
from scrpo_cli.evaluation.stats import Estimate, ratio_estimate
from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.parts.advantages import has_signal
from scrpo_cli.types import Attempt, Group

REFLECTION_WORDS = (
    "check", "double-check", "recheck", "verify", "wait", "hmm", "mistake", "reconsider", "re-examine",
)  # fmt: skip
"""By which an answer is taken to check itself, where the user names no others: what reasoning models write, and the
`Check` of task `think` [I]."""
PER_TOKENS = 1000


@dataclass(frozen=True)
class Shown:
    """The corrections of one error, which stands for `errors` of its problem: all that could have been shown."""

    corrections: Group
    errors: int


def measure(firsts: Sequence[Group], reflected: Mapping[int, Shown], words: Sequence[str]) -> dict[str, Any]:
    """The numbers of first answers (`firsts`, one group a problem) and of reflections (`reflected`, by the place of the
    problem in `firsts`). `reflection`, `fresh` and `gain` are None where nothing was shown.
    """
    places = sorted(reflected)
    shown = [reflected[n].corrections for n in places]
    errors = np.array([reflected[n].errors for n in places], dtype=float)
    outcomes = [outcome_rewards(group) for group in firsts]
    return {
        "problems": len(firsts),
        "group_size": max(len(group.attempts) for group in firsts),
        "shown": len(shown),
        "first": of_kind(firsts, np.ones(len(firsts)), words),
        "reflection": of_kind(shown, errors, words) if shown else None,
        **against_fresh([outcomes[n] for n in places], [outcome_rewards(group) for group in shown], errors),
        "not_graded": int(sum(np.isnan(outcome_rewards(group)).sum() for group in (*firsts, *shown))),
    }


def of_kind(groups: Sequence[Group], weight_N: np.ndarray, words: Sequence[str]) -> dict[str, Any]:
    """One group a problem, counting `weight_N` times: what is right, has signal, checks itself, is cut off, and costs.
    `right` is None where nothing could be graded.
    """
    pattern = word_pattern(words)
    lengths = [[len(a.completion.ids) for a in group.attempts] for group in groups]
    tokens_N = np.array([sum(lengths_G) for lengths_G in lengths], dtype=float)
    signal_N = np.array([has_signal(outcome_rewards(group)) for group in groups], dtype=float)
    cost, longest = float((weight_N * tokens_N).sum() / weight_N.sum()), max(map(max, lengths))
    signal = ratio_estimate(weight_N * signal_N, weight_N)
    # tokens in units of the mean group: the same share, whose interval knows that long groups are the hard ones
    per_group = ratio_estimate(weight_N * signal_N, weight_N * tokens_N / cost)
    return {
        "answers": sum(map(len, lengths)),
        "right": _mean([outcome_rewards(group) for group in groups], weight_N),
        "signal": signal.as_dict(),
        "self_checking": _mean([[checks_itself(a, pattern) for a in group.attempts] for group in groups], weight_N),
        "truncated": _mean([[a.truncated for a in group.attempts] for group in groups], weight_N),
        "tokens": _mean([np.array(lengths_G) / longest for lengths_G in lengths], weight_N, longest),
        "group_tokens": cost,
        "per_1000_tokens": _scaled(per_group, PER_TOKENS / cost).as_dict(),
    }


def against_fresh(
    first: Sequence[np.ndarray], corrected: Sequence[np.ndarray], errors_N: np.ndarray
) -> dict[str, dict[str, Any] | None]:
    """`fresh`: how often another try at the problem of an error is right; `gain`: `compare_ratios` of the repair rate
    with it, on the same problems. None where no problem has both.

    Weighted by its errors, the mean of the other answers is unbiased: E[w c / (G - 1)] / E[w] = p for w = G - c. Where
    each problem counted once, those of few errors would be there only because they had one, and the rate too high.
    """
    graded_N = np.array([np.isfinite(outcomes_G).sum() for outcomes_G in first])
    right_N = np.array([np.nansum(outcomes_G) for outcomes_G in first])
    repaired_N = np.array([np.nan if np.isnan(o).all() else np.nanmean(o) for o in corrected])
    both_N = (graded_N > 1) & ~np.isnan(repaired_N)
    if not both_N.any():
        return {"fresh": None, "gain": None}
    weight_N = errors_N[both_N]
    fresh_N = weight_N * right_N[both_N] / (graded_N[both_N] - 1)
    gain = compare_ratios(fresh_N, weight_N, weight_N * repaired_N[both_N], weight_N)
    return {"fresh": ratio_estimate(fresh_N, weight_N).as_dict(), "gain": gain}


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words or phrases, whole, in any case."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def checks_itself(attempt: Attempt, pattern: re.Pattern[str]) -> bool:
    return pattern.search(attempt.completion.text) is not None


def _mean(rows: Sequence[Any], weight_N: np.ndarray, scale: float = 1.0) -> dict[str, Any] | None:
    """The weighted mean over problems of each one's mean; NaN values do not count, and None where none does."""
    means_N = np.array([problem_means(np.asarray([row], dtype=float))[0] for row in rows])
    known_N = ~np.isnan(means_N)
    if not known_N.any():
        return None
    return _scaled(ratio_estimate((weight_N * means_N)[known_N], weight_N[known_N]), scale).as_dict()


def _scaled(estimate: Estimate, scale: float) -> Estimate:
    low, high = estimate.ci95
    return Estimate(scale * estimate.value, (scale * low, scale * high))
