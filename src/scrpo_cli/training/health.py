"""The numbers of one step that say whether a run is well. docs/quickstart.md defines each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from scrpo_cli.evaluation.changes import edit_ratio
from scrpo_cli.methods.base import Credits, PhaseKind
from scrpo_cli.recipe.monitors import MonitorsConfig
from scrpo_cli.training.budget import PLANNED, TOKENS
from scrpo_cli.types import Attempt, AttemptKind, Group, PoolEntry, Verdict

EDIT_PAIRS = 64
"""Pairs of a step whose edit distance is computed; it grows with the square of their length."""


@dataclass(frozen=True, slots=True)
class Revision:
    """An answer and the one that revises it: the next turn of its conversation, or a correction of a pooled error."""

    before: str
    answer: str | None
    right: float
    after: Attempt

    @property
    def copied(self) -> bool:
        return self.after.completion.text.strip() == self.before.strip()

    @property
    def unchanged(self) -> bool:
        """Both have a final answer, and it is the same text."""
        now = self.after.grade.extracted
        return self.answer is not None and now is not None and self.answer.strip() == now.strip()

    def apologises(self, words: Sequence[str]) -> bool:
        """It says sorry, or only says it again, and the answer stays."""
        text = self.after.completion.text.lower()
        return self.unchanged and any(word.lower() in text for word in words)


def step_metrics(
    phase: str,
    kind: PhaseKind,
    groups: Sequence[Group],
    credits: Credits,
    pool: Sequence[PoolEntry],
    step: int,
    cfg: MonitorsConfig,
) -> dict[str, float]:
    """Rewards, lengths, truncation, skipped groups, what second answers do to first ones, the pool, memory.

    What a step does not measure is left out: a step that only fits recorded completions has no reward.
    """
    corrections = [g for g in groups if g.request.parent is not None]
    first = [a for g in groups if g.request.kind is AttemptKind.FIRST for a in g.attempts]
    metrics = sampled(phase, groups) | (sampled("reflect", corrections) if corrections else {})
    if kind is PhaseKind.JOINT:
        metrics |= sampled("first", [g for g in groups if g.request.kind is AttemptKind.FIRST])
    metrics[TOKENS] = metrics[f"{phase}/tokens"]
    if groups:
        metrics[PLANNED] = sum(a.round == 0 for g in groups for a in g.attempts)
        reflected = metrics.get("reflect/tokens", 0.0) / max(1.0, metrics[TOKENS])
        metrics |= {"reflect/tokens_share": reflected}
    if groups and kind is not PhaseKind.COLLECTION:
        skipped = credits.skipped_groups
        metrics |= {"groups/skipped": skipped, "groups/skipped_share": skipped / compared(groups, kind)}
    metrics |= measured("first/accuracy", outcomes(first))
    metrics |= repair_metrics(corrections, cfg) | turn_metrics(groups, cfg) | pool_metrics(pool, step, cfg)
    metrics["memory/mb"] = memory_mb()
    return {k: float(v) for k, v in metrics.items()}


def compared(groups: Sequence[Group], kind: PhaseKind) -> int:
    """Sets of answers that share a baseline. A further turn is a group of one, compared by problem and turn; a step
    that also reflects compares its corrections only, unless it learns from both (`joint`).
    """
    if kind is PhaseKind.JOINT:
        return len(groups)
    if any(g.request.previous is not None for g in groups):
        return len({(g.request.problem.source, g.request.problem.id, g.request.turn) for g in groups})
    return sum(g.request.kind is not AttemptKind.FIRST for g in groups) or len(groups)


def sampled(phase: str, groups: Sequence[Group]) -> dict[str, float]:
    """What every phase tells of the completions that it sampled."""
    attempts = [a for g in groups for a in g.attempts]
    found: dict[str, float] = {
        f"{phase}/groups": len(groups),
        f"{phase}/tokens": sum(len(a.completion.ids) for a in attempts),
    }
    return (
        found
        | measured(f"{phase}/reward", outcomes(attempts))
        | measured(f"{phase}/length", [len(a.completion.ids) for a in attempts])
        | measured(f"{phase}/truncated", [a.truncated for a in attempts])
        | measured(f"{phase}/unparsable", [a.grade.verdict is Verdict.UNPARSABLE for a in attempts])
        | measured(
            f"{phase}/grader_failed", [a.grade.verdict in (Verdict.GRADER_ERROR, Verdict.TIMEOUT) for a in attempts]
        )
    )


def repair_metrics(corrections: Sequence[Group], cfg: MonitorsConfig) -> dict[str, float]:
    """Corrections of pooled errors: how many are right, and whether errors that were used before are mended better."""
    if not corrections:
        return {}
    used, fresh = (
        outcomes(
            [a for g in corrections if bool(g.request.parent and g.request.parent.uses) is seen for a in g.attempts]
        )
        for seen in (True, False)
    )
    found = measured("reflect/fix_rate", [*used, *fresh])
    found["reflect/solved"] = float(np.mean([bool(g.rewards_G.any()) for g in corrections]))
    found |= {"reflect/used": len(used), "reflect/fresh": len(fresh)}
    found |= measured("reflect/fix_rate_used", used) | measured("reflect/fix_rate_fresh", fresh)
    return found | stubborn_metrics("reflect", revisions(corrections), cfg)


def turn_metrics(groups: Sequence[Group], cfg: MonitorsConfig) -> dict[str, float]:
    """Conversations of several turns, after SCoRe (arXiv 2409.12917, sections 3 and 4): an answer and the next.

    t1, t2, ... accuracy by turn; i2c and c2i shares of all pairs; broken is c2i among the right answers. With two turns
    t2 - t1 = i2c - c2i. A pair of which the grader failed on one does not count.
    """
    pairs = revisions([g for g in groups if g.request.parent is None])
    if not pairs:
        return {}
    before_P, after_P = np.array([(r.right, r.after.outcome) for r in pairs]).T
    turn_P = np.array([r.after.turn for r in pairs])
    compared = pairs[:: -(-len(pairs) // EDIT_PAIRS)]
    found = measured("turns/t1", before_P[turn_P == 2])
    for turn in np.unique(turn_P):
        found |= measured(f"turns/t{turn}", after_P[turn_P == turn])
    found |= measured("turns/i2c", (1 - before_P) * after_P) | measured("turns/c2i", before_P * (1 - after_P))
    found |= {"turns/right": before_P.sum()} | measured("turns/broken", 1 - after_P[before_P == 1])
    found |= measured("turns/unchanged", [r.unchanged for r in pairs])
    found |= measured("turns/edit_zero", [r.copied for r in pairs])
    found |= measured("turns/edit_ratio", [edit_ratio(r.before, r.after.completion.text) for r in compared])
    return found | stubborn_metrics("turns", pairs, cfg)


def stubborn_metrics(prefix: str, pairs: Sequence[Revision], cfg: MonitorsConfig) -> dict[str, float]:
    """What becomes of the wrong answers that were not given up: repeated, copied letter by letter, apologised for.

    Saying a right answer again is what a second turn should do, so these are shares of the wrong ones.
    """
    wrong = [r for r in pairs if r.right == 0]
    return {
        f"{prefix}/wrong": len(wrong),
        **measured(f"{prefix}/unchanged_wrong", [r.unchanged for r in wrong]),
        **measured(f"{prefix}/edit_zero_wrong", [r.copied for r in wrong]),
        **measured(f"{prefix}/apology", [r.apologises(cfg.apology_words) for r in wrong]),
    }


def pool_metrics(pool: Sequence[PoolEntry], step: int, cfg: MonitorsConfig) -> dict[str, float]:
    """The pool before the step: size, mean age, and the share of it that teaches nothing new."""
    mistakes = [(e.problem.source, e.problem.id, e.extracted) for e in pool if e.extracted is not None]
    stuck = [e.uses >= cfg.stuck_uses and e.repairs == 0 for e in pool]
    found: dict[str, float] = {"pool/size": len(pool), "pool/age": 0.0}
    if pool:
        found["pool/age"] = float(np.mean([step - e.added_step for e in pool]))
        found["pool/repeated_share"] = (len(mistakes) - len(set(mistakes))) / len(pool)
        found["pool/stuck_share"] = float(np.mean(stuck))
    if injected := sum(e.injected != "" for e in pool):
        found["pool/injected_share"] = injected / len(pool)
    return found


def revisions(groups: Sequence[Group]) -> list[Revision]:
    """Answers with what they revise: a pooled error, or the last answer of their conversation (a criticism or a verdict
    in between is none). Pairs of which one could not be graded are left out.
    """
    before = {a.id: g.request.previous for g in groups for a in g.attempts}
    found = []
    for group in groups:
        earlier, entry = group.request.previous, group.request.parent
        while earlier is not None and not earlier.kind.answers:
            earlier = before.get(earlier.id)
        for after in group.attempts if group.request.kind.answers else ():
            if earlier is not None:
                found.append(Revision(earlier.completion.text, earlier.grade.extracted, earlier.outcome, after))
            elif entry is not None:
                found.append(Revision(entry.response, entry.extracted, 0.0, after))
    return [r for r in found if np.isfinite(r.right + r.after.outcome)]


def outcomes(attempts: Sequence[Attempt]) -> list[float]:
    """Of those that the grader could judge."""
    return [a.outcome for a in attempts if np.isfinite(a.outcome)]


def measured(name: str, values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The mean under its name; nothing where there is nothing to average."""
    return {name: float(np.mean(values))} if len(values) else {}


def evaluation_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The headline numbers of an evaluation in the tracker: `eval/...` before and after, `validation/...` between."""
    low, high = metrics["ci95"]
    found = {"accuracy": metrics["avg"], "accuracy_lo": low, "accuracy_hi": high}
    if metrics.get("truncated") is not None:
        found["truncated"] = metrics["truncated"]
    if first := metrics["left_out"].get("first"):
        found |= {"left_out": first["n"], "left_out_of": first["of"]}
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
