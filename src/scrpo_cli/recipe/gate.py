"""The gate of a reflection: which answers are worth a second turn. Everything here is ours [I]."""

from __future__ import annotations

from typing import Literal

from scrpo_cli.section import Section


class GateConfig(Section):
    """Reflect where the confidence that `signal` gives a first answer is below `threshold`."""

    signal: Literal["none", "logprob", "mean_logprob", "agreement", "verdict"] = "none"
    """Mean log-prob of the final answer's tokens; of all its tokens; share of the problem's samples
    with the same final answer; the model's own yes or no; none: no gate [I]."""
    threshold: float | Literal["never", "always"] | None = None
    """In the unit of the signal; none: fitted on task.validation [I]."""


class PoolGateConfig(Section):
    """Which pooled errors a reflection step may draw."""

    signal: Literal["none", "mean_logprob"] = "none"
    """mean_logprob: of all tokens of the error, as they were sampled; none: no gate [I]."""
    threshold: float = 0.0
    """Errors with a lower one are reflected on, and those without one (nobody sampled them) [I]."""
