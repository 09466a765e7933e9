"""Randomness without state: every random choice takes its generator from (seed, step, purpose, index)."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, step: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator that depends on nothing but its arguments, so the order of work does not change the result."""
    return np.random.default_rng([seed, step, zlib.crc32(purpose.encode()), index])
