"""DAPO (Yu et al., arXiv 2503.14476): GRPO with five changes.

clip-higher                eps_hi > eps_lo (section 3.1)
dynamic sampling           groups with equal rewards are replaced until 0 < #correct < G (Eq. 11)
token-level loss           Z = all trained tokens of the batch (Eq. 12)
overlong filtering         truncated completions have no loss; soft punishment in the reward (Eq. 13)
reward                     +1 and -1 (Eq. 7), and no KL
"""

from __future__ import annotations

from scrpo_cli.methods.base import ClipConfig, KlConfig
from scrpo_cli.methods.grpo import Grpo, GrpoConfig, GrpoLoss
from scrpo_cli.methods.parts.rewards import RewardConfig
from scrpo_cli.section import Count


class DapoConfig(GrpoConfig):
    """DAPO (arXiv 2503.14476): clip-higher, token-level loss, dynamic sampling, overlong filtering and punishment."""

    loss: GrpoLoss = GrpoLoss(normalizer="masked_tokens", overlong="mask")
    """Token-level loss and overlong filtering [C]."""
    reward: RewardConfig = RewardConfig(right=1.0, wrong=-1.0, length_penalty=0.2)
    """+1 and -1; the penalty over the last 4,096 of 20,480 tokens [C]."""
    kl: KlConfig = KlConfig(beta=0.0)
    """No KL [C]."""
    clip: ClipConfig = ClipConfig(low=0.2, high=0.28)
    """Clip-higher [C]."""
    resample: Count = 3
    """The paper samples until the batch is full [C]; the cap is ours [I]."""


class Dapo(Grpo[DapoConfig]):
    Config = DapoConfig
