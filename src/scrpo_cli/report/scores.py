"""Log-probs of recorded tokens under models that were not recorded: the base model, and a run's last adapter.

They are computed by the code that trains (`training.scorer`), where the model is at hand. Without it a report has no
KL and no ratios, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scrpo_cli.pool.models import RunRow
from scrpo_cli.recipe.models import ModelConfig, Recipe
from scrpo_cli.training import checkpoint, scorer
from scrpo_cli.training.loss import kl_penalty
from scrpo_cli.training.policy import load_policy, model_path
from scrpo_cli.types import Completion

SMALL_MIB = 200
"""Weights on disk up to which a report scores tokens without being asked to: seconds on a CPU."""


@dataclass(frozen=True)
class Scores:
    """(T,) log-probs of one completion at the training temperature: of the base model, and of the last policy."""

    base_T: np.ndarray
    last_T: np.ndarray | None


class Scorer:
    """The base model of a run, with the adapter of its newest intact checkpoint if there is one."""

    def __init__(self, run: RunRow, recipe: Recipe) -> None:
        self.adapter = last_adapter(run)
        named = {"adapter": str(self.adapter) if self.adapter else recipe.model.adapter}
        policy = load_policy(recipe.model.model_copy(update=named), recipe.seed)
        self.rows = scorer.Scorer(policy, recipe, corrects=False)

    def __call__(self, completions: Sequence[Completion]) -> list[Scores]:
        base = self.rows.of_all_tokens(completions, self.rows.reference_logprobs)
        if not self.adapter:
            return [Scores(base_T, None) for base_T in base]
        last = self.rows.of_all_tokens(completions, self.rows.logprobs)
        return [Scores(*pair) for pair in zip(base, last, strict=True)]


def last_adapter(run: RunRow) -> Path | None:
    """A run's newest intact checkpoint, which is an adapter."""
    return checkpoint.newest(Path(run.directory) / "checkpoints")[0]


def is_small(cfg: ModelConfig) -> bool:
    """Whether the model lies in a directory here, and is small."""
    folder = Path(model_path(cfg.name))
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")] if folder.is_dir() else []
    return 0 < sum(file.stat().st_size for file in weights) <= SMALL_MIB * 2**20


def kl_estimate(sampled_T: Sequence[float] | np.ndarray, base_T: np.ndarray, estimator: str) -> np.ndarray:
    """(T,) nats of each token: the estimator of KL(policy||base) that the loss has, at the policy that sampled."""
    logp, ref = torch.tensor(np.asarray(sampled_T)), torch.from_numpy(base_T.astype(np.float64))
    return (logp - ref).numpy() if estimator == "k1" else kl_penalty(logp, ref, estimator).numpy()
