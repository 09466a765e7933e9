"""ScRPO, Self-correction Relative Policy Optimization (arXiv 2511.06065), in the reading of docs/methods/scrpo.md.

    repeat
        first-answer step (GRPO):   o_1..o_G ~ pi_old(.|q),  credit as in grpo.py
                             a wrong o_i of a question on which the model is inconsistent enters the error pool
        when the trigger fires, reflection step(s):
            e = (q, a*, y_bad) from the pool;  x' = T(q, y_bad)              y_bad is context and never in the loss
            o_i = (refl_i, sol_i) ~ pi_old(.|x'),  i = 1..G;  r_i = verify(sol_i, a*)
            A_i = (r_i - mean_j r_j) / (std_j r_j + eps)                     over the G corrections of the same error
            m_{i,t} = 1[t in refl_i] * 1[r_i = 1]                            reflection only, success-conditioned
            J_2 = 1/Z sum_{i,t} m_{i,t} min(rho A, clip(rho) A) - beta KL

For controlled experiments one piece can be changed alone: which steps earn credit (`learn_from`), what the draw is
spread over (`pool.diversity`), and what is in the pool (`injection`, injection.py).

The paper's trigger, filter threshold, prompt and token choice are unknown: each is a switch, each default is ours [I].
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Any

import numpy as np

from scrpo_cli.methods.base import Credits, Method, Plan, PoolChange, Prompts, no_credit
from scrpo_cli.methods.corrections import correction_credit
from scrpo_cli.methods.filters import bounded, decisions, evicted, expired, spread, worth_reflecting
from scrpo_cli.methods.grpo import first_answer_credit, first_answer_plan
from scrpo_cli.methods.injection import Injector, RecordedErrors, target
from scrpo_cli.recipe.methods import ScrpoConfig
from scrpo_cli.rng import generator
from scrpo_cli.types import KEPT, Attempt, AttemptKind, Group, PoolEntry


class Scrpo(Method):
    """First-answer steps that fill the error pool, reflection steps that learn from it.

    `max_tokens` bounds a completion; `recorded` holds another model's errors that `injection` may use.
    """

    def __init__(
        self,
        cfg: ScrpoConfig,
        prompts: Prompts,
        group_size: int,
        prompts_per_step: int,
        seed: int,
        max_tokens: int = 1,
        recorded: RecordedErrors | None = None,
    ) -> None:
        self.cfg, self.prompts, self.group_size, self.seed = cfg, prompts, group_size, seed
        self.max_tokens = max_tokens
        self.injector = Injector(cfg.injection.kind, prompts, recorded or {}, max_tokens, seed)
        self.trigger = cfg.resolved_trigger
        self.batch = cfg.stage2.prompts or prompts_per_step
        self.trigger_size = self.trigger.size or prompts_per_step
        self.capacity = cfg.pool.capacity or 4 * self.batch
        self.state: dict[str, Any] = {"first_steps": 0, "reflections": 0, "burst": 0}

    # -- which prompts are sampled next ------------------------------------------------------------------------

    def plan(self, step: int, waiting: Sequence[PoolEntry]) -> Plan:
        usable = self.usable(waiting, set(self.expired(waiting, step)))
        if self.reflects(step, usable):
            return self.reflection_plan(step, usable)
        return first_answer_plan(self.prompts, step, self.group_size)

    def usable(self, waiting: Sequence[PoolEntry], gone: Collection[str]) -> list[PoolEntry]:
        """What a reflection step may draw: neither expired nor used up, and let through by the gate."""
        return [e for e in waiting if e.attempt_id not in gone and worth_reflecting(e, self.cfg.gate)]

    def reflects(self, step: int, usable: Sequence[PoolEntry]) -> bool:
        """Whether this step reflects: inside a burst, or when the trigger fires. Never on an empty pool."""
        if not usable or self.trigger.mode == "never":
            return False
        if self.state["burst"] > 0:
            return True
        if self.trigger.mode == "pool_size":
            return unused(usable) >= self.trigger_size
        if self.trigger.mode == "every_n_steps":
            return self.state["first_steps"] >= self.trigger.n
        return self.state["reflections"] < self.trigger.ratio * (step + 1) - 0.5

    def reflection_plan(self, step: int, usable: Sequence[PoolEntry]) -> Plan:
        """A draw of errors, uniform or spread over what `pool.diversity` names, each answered by a group."""
        drawn = spread([self.draw_key(e) for e in usable], self.batch, generator(self.seed, step, "reflect"))
        samples = self.cfg.stage2.group_size or self.group_size
        return Plan("reflect", [self.prompts.reflection(usable[i], samples) for i in drawn])

    def draw_key(self, entry: PoolEntry) -> Hashable:
        problem = (entry.problem.source, entry.problem.id)
        match self.cfg.pool.diversity:
            case "problem":
                return problem
            case "answer":
                return (*problem, entry.extracted)
            case "error_kind":
                return self.prompts.error_kind(entry)
        return None

    # -- what each token earns ---------------------------------------------------------------------------------

    def credit(self, groups: Sequence[Group]) -> Credits:
        cfg, taught = self.cfg, "first"
        if groups[0].request.kind is AttemptKind.CORRECTION:
            taught, overlong = "corrections", cfg.stage1.overlong
            credits = correction_credit(groups, cfg.loss, cfg.kl, self.prompts, overlong, cfg.stage2.group_by)
        else:
            credits = first_answer_credit(groups, cfg.stage1, cfg.kl, cfg.reward, self.max_tokens)
        if cfg.learn_from in ("both", taught):
            return credits
        silent = [no_credit(len(row.mask_T)) for row in credits.rows]
        return Credits(silent, credits.normalizer, skipped_groups=credits.skipped_groups)

    # -- what goes into the pool and out of it -----------------------------------------------------------------

    def curate(self, step: int, groups: Sequence[Group], waiting: Sequence[PoolEntry]) -> PoolChange:
        old = dict.fromkeys(self.expired(waiting, step), "expired")
        if groups[0].request.kind is AttemptKind.CORRECTION:
            tried = {g.request.parent.attempt_id for g in groups if g.request.parent}
            self.count_reflection(unused(self.usable(waiting, tried | old.keys())))
            return PoolChange(retired=[*old.items(), *self.consumed(groups)])
        self.state["first_steps"] += 1
        own_room = self.capacity - round(self.cfg.injection.share * self.capacity)
        decided = bounded(decisions(groups, self.cfg, self.max_tokens, self.seed, step), own_room, self.seed, step)
        newcomers = sum(d == KEPT for d in decided.values())
        alive = [e for e in waiting if e.attempt_id not in old]
        out, injected = self.balance(step, groups, alive, newcomers)
        decided |= {a.id: KEPT for a in injected}
        retired = [*old.items(), *((a, "evicted") for a in out)]
        return PoolChange(decided, retired, injected, self.cfg.injection.kind)

    def balance(
        self, step: int, groups: Sequence[Group], alive: Sequence[PoolEntry], newcomers: int
    ) -> tuple[list[str], list[Attempt]]:
        """Entries that must leave for capacity, and errors to inject so that they have their share of the pool."""
        share, how = self.cfg.injection.share, self.cfg.pool.evict
        own, injected = [e for e in alive if not e.injected], [e for e in alive if e.injected]
        out = evicted(own, newcomers, self.capacity - round(share * self.capacity), how, self.seed, step)
        wanted = target(len(own) + newcomers - len(out), share, self.capacity)
        out += evicted(injected, 0, wanted, how, self.seed, step)
        missing = wanted - len(injected)
        return out, self.injector.inject(step, groups, missing) if missing > 0 else []

    def expired(self, waiting: Sequence[PoolEntry], step: int) -> list[str]:
        return expired(waiting, step, self.cfg.pool.max_age_steps)

    def consumed(self, groups: Sequence[Group]) -> list[tuple[str, str]]:
        """Entries that a reflection step uses up: all (once), the repaired ones (until_solved) or none (keep)."""
        entries = [(g.request.parent.attempt_id, bool(np.nansum(g.rewards_G))) for g in groups if g.request.parent]
        if self.cfg.pool.consume == "once":
            return [(a, "used") for a, _ in entries]
        return [(a, "repaired") for a, solved in entries if solved and self.cfg.pool.consume == "until_solved"]

    def count_reflection(self, left: int) -> None:
        """Advance the trigger's counters after a reflection step that left so many errors unused."""
        per_trigger = self.cfg.stage2.steps_per_trigger
        burst = self.state["burst"] or (per_trigger if per_trigger != "drain" else 1)
        left = burst - 1 if per_trigger != "drain" else int(left >= self.batch)
        self.state |= {"first_steps": 0, "reflections": self.state["reflections"] + 1, "burst": left}


def unused(entries: Sequence[PoolEntry]) -> int:
    """How many errors no reflection step has drawn yet: what stays in the pool after its use sets off nothing."""
    return sum(e.uses == 0 for e in entries)
