"""RLOO (Ahmadian et al., arXiv 2402.14740): REINFORCE on whole sequences, A_i = R_i - mean of the others' R.

The KL is inside the reward (parts/kl.py), Z = rows, and there is no ratio.
"""

from __future__ import annotations

from scrpo_cli.methods.base import ClipConfig, KlConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig, GrpoLoss


class RlooConfig(GrpoConfig):
    """RLOO (arXiv 2402.14740): REINFORCE on whole sequences, the mean of the others as baseline."""

    loss: GrpoLoss = GrpoLoss(advantage="leave_one_out", normalizer="sequence_sum", overlong="keep")
    kl: KlConfig = KlConfig(beta=0.001, estimator="k1")
    """The KL is part of the reward; the coefficient is ours [I]."""
    clip: ClipConfig = ClipConfig(kind="none")


class Rloo(Grpo[RlooConfig]):
    Config = RlooConfig
