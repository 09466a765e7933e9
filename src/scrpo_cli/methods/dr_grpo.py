"""Dr. GRPO (Liu et al., arXiv 2503.20783): A_i = r_i - mean, without the std; Z = a constant, without the length."""

from __future__ import annotations

from scrpo_cli.methods.base import KlConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig, GrpoLoss


class DrGrpoConfig(GrpoConfig):
    """Dr. GRPO (arXiv 2503.20783): no division by the std, none by the length."""

    loss: GrpoLoss = GrpoLoss(advantage="group_mean", normalizer="constant", overlong="keep")
    """[C], the authors' code."""
    kl: KlConfig = KlConfig(beta=0.0)
    """[C], the authors' scripts."""


class DrGrpo(Grpo[DrGrpoConfig]):
    Config = DrGrpoConfig
