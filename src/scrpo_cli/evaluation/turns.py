"""Accuracy over more than two turns: sequential self-correction (SCoRe, arXiv 2409.12917, section 6.2 and Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from scrpo_cli.evaluation.metrics import paired, two_turn


def by_turn(outcomes_TNK: Sequence[np.ndarray]) -> dict[str, Any]:
    """`accuracy` of each turn, `delta`, `i2c` and `c2i` of each turn against the one before, and `last_first`: last
    minus first, paired by problem. All are over the answers of which every turn was graded, so that the steps add up.
    """
    counted_NK = ~np.isnan(np.sum(outcomes_TNK, axis=0))
    outcomes_TNK = [np.where(counted_NK, outcomes_NK, np.nan) for outcomes_NK in outcomes_TNK]
    steps = [two_turn(before, after) for before, after in pairwise(outcomes_TNK)]
    return {
        "accuracy": [steps[0]["t1"], *(step["t2"] for step in steps)],
        **{name: [step[name] for step in steps] for name in ("delta", "i2c", "c2i")},
        "last_first": paired(outcomes_TNK[0], outcomes_TNK[-1]),
    }
