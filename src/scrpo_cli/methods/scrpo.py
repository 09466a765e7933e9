"""ScRPO, Self-correction Relative Policy Optimization (arXiv 2511.06065), in the reading of docs/methods/scrpo.md.

    repeat
        trial step (GRPO):   o_1..o_G ~ pi_old(.|q),  credit as in grpo.py
                             a wrong o_i of a question on which the model is inconsistent enters the error pool
        when the trigger fires, reflection step(s):
            e = (q, a*, y_bad) from the pool;  x' = T(q, y_bad)              y_bad is context and never in the loss
            o_i = (refl_i, sol_i) ~ pi_old(.|x'),  i = 1..G;  r_i = verify(sol_i, a*)
            A_i = (r_i - mean_j r_j) / (std_j r_j + eps)                     over the G corrections of the same error
            m_{i,t} = 1[t in refl_i] * 1[r_i = 1]                            reflection only, success-conditioned
            J_2 = 1/Z sum_{i,t} m_{i,t} min(rho A, clip(rho) A) - beta KL

The paper's trigger, filter threshold, prompt and token choice are unknown: each is a switch, each default is ours [I].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scrpo_cli.methods.base import Credits, Method, Plan, PoolChange, Prompts, outcome_rewards
from scrpo_cli.methods.corrections import correction_credit
from scrpo_cli.methods.filters import admit, evicted, expired
from scrpo_cli.methods.grpo import trial_credit, trial_plan
from scrpo_cli.recipe.methods import ScrpoConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import KEPT, AttemptKind, Group, PoolEntry


class Scrpo(Method):
    """Trial steps that fill the error pool, reflection steps that learn from it."""

    def __init__(self, cfg: ScrpoConfig, prompts: Prompts, group_size: int, prompts_per_step: int, seed: int) -> None:
        self.cfg, self.prompts, self.group_size, self.seed = cfg, prompts, group_size, seed
        self.trigger = cfg.resolved_trigger
        self.batch = cfg.stage2.prompts or prompts_per_step
        self.trigger_size = self.trigger.size or prompts_per_step
        self.capacity = cfg.pool.capacity or 4 * self.batch
        self.state: dict[str, Any] = {"trials_since": 0, "reflections": 0, "burst": 0}

    # -- which prompts are sampled next ------------------------------------------------------------------------

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        usable = [e for e in waiting if e.attempt_id not in set(self.expired(waiting, step))]
        if self.reflects(step, len(usable)):
            return self.reflection_plan(step, usable)
        return trial_plan(self.prompts, step, self.group_size)

    def reflects(self, step: int, pool_size: int) -> bool:
        """Whether this step reflects: inside a burst, or when the trigger fires. Never on an empty pool."""
        if pool_size == 0 or self.trigger.mode == "never":
            return False
        if self.state["burst"] > 0:
            return True
        if self.trigger.mode == "pool_size":
            return pool_size >= self.trigger_size
        if self.trigger.mode == "every_n_steps":
            return self.state["trials_since"] >= self.trigger.n
        return self.state["reflections"] < self.trigger.ratio * (step + 1) - 0.5

    def reflection_plan(self, step: int, usable: Sequence[PoolEntry]) -> Plan:
        """A uniform draw of errors, each answered by a group of corrections."""
        drawn = generator(self.seed, step, "reflect").permutation(len(usable))[: self.batch]
        samples = self.cfg.stage2.group_size or self.group_size
        return Plan("reflect", [self.prompts.reflection(usable[i], samples) for i in drawn])

    # -- what each token earns ---------------------------------------------------------------------------------

    def credit(self, groups: Sequence[Group]) -> Credits:
        if groups[0].ask.kind is not AttemptKind.CORRECTION:
            return trial_credit(groups, self.cfg.stage1, self.cfg.kl)
        cfg = self.cfg
        return correction_credit(groups, cfg.loss, cfg.kl, self.prompts, cfg.stage1.overlong, cfg.stage2.group_by)

    # -- what goes into the pool and out of it -----------------------------------------------------------------

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange:
        old = dict.fromkeys(self.expired(waiting, step), "expired")
        if groups[0].ask.kind is AttemptKind.CORRECTION:
            self.count_reflection(len(waiting) - len(groups))
            return PoolChange(retired=[*old.items(), *self.consumed(groups)])
        self.state["trials_since"] += 1
        decisions: dict[str, str] = {}
        for i, group in enumerate(groups):
            decisions |= admit(group, outcome_rewards(group), self.cfg.filter, self.cfg.pool, self.seed, step, i)
        alive = [e for e in waiting if e.attempt_id not in old]
        newcomers = sum(d == KEPT for d in decisions.values())
        out = evicted(alive, newcomers, self.capacity, self.cfg.pool.evict, self.seed, step)
        return PoolChange(decisions, [*old.items(), *((a, "evicted") for a in out)])

    def expired(self, waiting: Sequence[PoolEntry], step: int) -> list[str]:
        return expired(waiting, step, self.cfg.pool.max_age_steps)

    def consumed(self, groups: Sequence[Group]) -> list[tuple[str, str]]:
        """Entries that a reflection step uses up: all (once), the repaired ones (until_solved) or none (keep)."""
        entries = [(g.ask.parent.attempt_id, bool(np.nansum(g.rewards_G))) for g in groups if g.ask.parent]
        if self.cfg.pool.consume == "once":
            return [(a, "used") for a, _ in entries]
        return [(a, "repaired") for a, solved in entries if solved and self.cfg.pool.consume == "until_solved"]

    def count_reflection(self, left_in_pool: int) -> None:
        """Advance the trigger's counters after a reflection step."""
        per_trigger = self.cfg.stage2.steps_per_trigger
        burst = self.state["burst"] or (per_trigger if per_trigger != "drain" else 1)
        left = burst - 1 if per_trigger != "drain" else int(left_in_pool >= self.batch)
        self.state |= {"trials_since": 0, "reflections": self.state["reflections"] + 1, "burst": left}
