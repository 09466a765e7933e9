"""Rewards shaped from outcomes, as pure functions."""

from __future__ import annotations

import numpy as np
from pydantic import model_validator

from scrpo_cli.section import Number, Section, Share


class RewardConfig(Section):
    right: Number = 1.0
    wrong: Number = 0.0
    length_penalty: Share = 0.0
    """DAPO's soft overlong punishment: over this last share of rollout.max_tokens the reward falls by 0 to 1."""

    @model_validator(mode="after")
    def _right_pays_more(self) -> RewardConfig:
        if self.right <= self.wrong:
            what = f"method.reward pays {self.right:g} for a right answer and {self.wrong:g} for a wrong one"
            raise ValueError(f"{what}: give reward.right more than reward.wrong")
        return self


def length_penalty(lengths_G: np.ndarray, longest: int, cache: float) -> np.ndarray:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13): 0 up to longest - cache tokens, then down to -1."""
    if cache <= 0:
        return np.zeros(len(lengths_G))
    return np.clip(((longest - cache) - lengths_G) / cache, -1.0, 0.0)


def with_length_penalty(
    outcomes_G: np.ndarray, lengths_G: np.ndarray, cfg: RewardConfig, max_tokens: int
) -> np.ndarray:
    """(G,) rewards: right or wrong, less what length costs. NaN outcomes stay NaN."""
    base_G = cfg.wrong + (cfg.right - cfg.wrong) * outcomes_G
    return base_G + length_penalty(lengths_G, max_tokens, cfg.length_penalty * max_tokens)


def improvement(reward: np.ndarray, before: np.ndarray, alpha: float, bonus: str = "progress") -> np.ndarray:
    """SCoRe's shaped reward of a later turn (arXiv 2409.12917, section 5.2): r2 + alpha (r2 - r1); `flip` pays alpha
    for wrong to right only.
    """
    gain = reward - before
    return reward + alpha * (gain if bonus == "progress" else np.maximum(gain, 0.0) * (before == 0))
