"""Which process of a launcher this is: `accelerate launch` and `torchrun` say so in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""By which a launcher tells a program which process it is."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def processes() -> int:
    """How many there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def rank() -> int:
    """Process 0 leads the others, and is all there is without a launcher."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """What is started inside knows of no launcher, and of several GPUs sees the one of this process."""
    if processes() == 1:
        yield
        return
    kept = {name: os.environ.get(name) for name in (*NAMES, VISIBLE)}
    there = (kept[VISIBLE] or "").split(",")
    own = there[local_rank()] if local_rank() < len(there) and kept[VISIBLE] else str(local_rank())
    set_environment(dict.fromkeys(NAMES) | {VISIBLE: own})
    try:
        yield
    finally:
        set_environment(kept)


def set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
