"""GSPO (Zheng et al., arXiv 2507.18071): one importance ratio a sequence, the geometric mean of its tokens' ratios."""

from __future__ import annotations

from scrpo_cli.methods.base import ClipConfig, KlConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig, GrpoLoss


class GspoConfig(GrpoConfig):
    """GSPO (arXiv 2507.18071): one importance ratio a sequence."""

    loss: GrpoLoss = GrpoLoss(normalizer="sequence_mean")
    kl: KlConfig = KlConfig(beta=0.0)
    """[S]."""
    clip: ClipConfig = ClipConfig(kind="gspo", low=3e-4, high=4e-4)
    """[S]."""


class Gspo(Grpo[GspoConfig]):
    Config = GspoConfig
