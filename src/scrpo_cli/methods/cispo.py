"""CISPO (MiniMax, arXiv 2506.13585): the clipped ratio is a weight without gradient, so no token loses its gradient."""

from __future__ import annotations

from scrpo_cli.methods.base import ClipConfig, KlConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig, GrpoLoss


class CispoConfig(GrpoConfig):
    """CISPO (arXiv 2506.13585): the clipped ratio is a weight without gradient, so no token loses its gradient."""

    loss: GrpoLoss = GrpoLoss(normalizer="masked_tokens")
    kl: KlConfig = KlConfig(beta=0.0)
    """[I]."""
    clip: ClipConfig = ClipConfig(kind="cispo", low=1.0, high=0.28)
    """Only the upper bound works [I]; its value is ours [I]."""


class Cispo(Grpo[CispoConfig]):
    Config = CispoConfig
