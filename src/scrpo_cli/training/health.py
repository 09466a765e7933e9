"""The numbers of one step that say whether a run is well. docs/metrics.md defines each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch

from scrpo_cli.methods.base import Credits, Plan
from scrpo_cli.types import Group, PoolEntry, Verdict


def step_metrics(
    plan: Plan, groups: Sequence[Group], credits: Credits, pool: Sequence[PoolEntry], step: int
) -> dict[str, float]:
    """Rewards, lengths, truncation, skipped groups, pool size and age, memory."""
    attempts = [a for g in groups for a in g.attempts]
    lengths = np.array([len(a.completion.ids) for a in attempts])
    right = np.array([a.reward for a in attempts])
    ages = np.array([step - e.added_step for e in pool])
    metrics = {
        f"{plan.phase}/reward": right.mean(),
        f"{plan.phase}/tokens": lengths.sum(),
        f"{plan.phase}/length": lengths.mean(),
        f"{plan.phase}/truncated": np.mean([a.truncated for a in attempts]),
        f"{plan.phase}/unparsable": np.mean([a.grade.verdict is Verdict.UNPARSABLE for a in attempts]),
        f"{plan.phase}/grader_failed": np.mean([a.grade.verdict in ("error", "timeout") for a in attempts]),
        f"{plan.phase}/groups": len(groups),
        "groups/skipped": credits.skipped_groups,
        "groups/skipped_share": credits.skipped_groups / len(groups),
        "rollout/tokens": lengths.sum(),
        "pool/size": len(pool),
        "pool/age": ages.mean() if len(ages) else 0.0,
        "memory/mb": memory_mb(),
    }
    if plan.phase == "trial":
        metrics["trial/accuracy"] = right.mean()
    else:
        metrics["reflect/fix_rate"] = right.mean()
        metrics["reflect/solved"] = np.mean([bool(g.rewards_G.any()) for g in groups])
    return {k: float(v) for k, v in metrics.items()}


def evaluation_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The headline numbers of an evaluation in the tracker: `eval/...` before and after, `validation/...` between."""
    low, high = metrics["ci95"]
    found = {"accuracy": metrics["avg"], "accuracy_lo": low, "accuracy_hi": high}
    if metrics.get("truncated") is not None:
        found["truncated"] = metrics["truncated"]
    repair = (metrics.get("repair_rate") or {}).get("value")
    if repair is not None:
        found["repair_rate"] = repair
    if "delta" in metrics:
        found |= {k: metrics[k]["value"] for k in ("t1", "t2", "delta", "i2c", "c2i")}
    return {f"{prefix}/{name}": value for name, value in found.items()}


def memory_mb() -> float:
    """Peak CUDA memory since the start, or this process's resident memory on CPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20
