"""Which process of a launcher this is: `accelerate launch` and `torchrun` say so in the environment."""

from __future__ import annotations

import os


def processes() -> int:
    """How many there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """Process 0 leads the others, and is all there is without a launcher."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0
