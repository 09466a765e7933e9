"""What a comparison is asked with, and the error of a reference answer that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass


class GoldError(ValueError):
    """The reference answer cannot be read: an error of the data, never a wrong answer of the model."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a problem allows beyond equality. `unordered`: a comma list whose order does not matter."""

    unordered: bool = False
    rel_tol: float = 0.0
    abs_tol: float = 0.0


EXACT = Rules()
