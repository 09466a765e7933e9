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

With `stage2.step: joint` the reflections of a firing trigger are sampled in a first-answer step, and both losses make
one optimizer step, J = J_1 + s J_2, each divided by its own Z; s is `loss.stage2_weight`. With `replay.batch` the step
after a reflection fits solutions of successful corrections as first answers:  J_r = w/Z sum_t log pi(sol_t|q, sol_<t).

For controlled experiments one piece can be changed alone: which steps earn credit (`learn_from`), what the draw is
spread over (`pool.diversity`), and what is in the pool (`injection`).

The paper's trigger, filter threshold, prompt and token choice are unknown: each is a switch, each default is ours [I].
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    KlConfig,
    Method,
    MethodConfig,
    MethodContext,
    Needs,
    Phase,
    PhaseKind,
    Plan,
    PoolChange,
    Setting,
    Term,
    completions_of,
    flat_credit,
    no_credit,
    outcome_rewards,
)
from scrpo_cli.methods.grpo import FIRST, GrpoLoss, first_answer_credit, first_answer_plan, refuse_lonely
from scrpo_cli.methods.parts.advantages import has_signal
from scrpo_cli.methods.parts.corrections import CorrectionLoss, correction_credit
from scrpo_cli.methods.parts.kl import LogRatios, in_reward, measured
from scrpo_cli.methods.parts.offline import after_prompt
from scrpo_cli.methods.parts.pool import (
    FilterConfig,
    PoolConfig,
    PoolGateConfig,
    PoolRules,
    bounded,
    decisions,
    evicted,
    expired,
    injected_wanted,
    spread,
    worth_reflecting,
)
from scrpo_cli.methods.parts.rewards import RewardConfig
from scrpo_cli.rng import generator
from scrpo_cli.section import Count, Positive, PositiveInt, Section, Share
from scrpo_cli.types import KEPT, Attempt, AttemptKind, Group, PoolEntry

REFLECT = "reflect"
"""The phase of a reflection step; the corrections' part of the credit of a joint step."""
JOINT = "joint"
"""The phase of a step with first answers and reflections."""
REPLAY = "replay"
"""The phase of a step that fits solutions of corrections as first answers."""
WEIGHT = "train/stage2_weight"
"""The metric that says with which weight reflections were trained, where it was measured."""
REPLAYED = "train/replayed"
"""The metric that counts the solutions of a replay."""
NORMS = 5
"""Steps of a kind whose mean gradient norm `grad_norm` compares [I]."""


class InjectionConfig(Section):
    """A controlled experiment: wrong attempts that nobody sampled, injected into the pool and marked there."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the living pool, restored after each first-answer step as far as problems allow; 0: nothing [I]."""
    kind: Literal["early", "late", "copied", "off_by_one", "other_model"] = "early"
    """A wrong first or last line, carried on; another problem's wrong answer; one off; another model's attempt [I]."""
    run: str | None = None
    """other_model: the recorded run that holds the attempts, such as one of `scrpo collect --from-jsonl`."""

    @model_validator(mode="after")
    def _other_model_needs_a_run(self) -> InjectionConfig:
        if self.share and self.kind == "other_model" and not self.run:
            raise ValueError("injection of another model's errors needs a run: a `scrpo collect --from-jsonl` run")
        return self


class TriggerConfig(Section):
    """When a reflection step comes instead of a first-answer step, where `reflect_every` does not say it."""

    mode: Literal["pool_size", "ratio", "signal"] = "pool_size"
    """When the pool holds a batch; so that a share of all steps reflects; or when the pool holds a batch while groups
    of reflections have unequal rewards, more of them than of first answers, and the repair rate rises. Summaries say
    only that stage 2 is periodic [S]."""
    size: PositiveInt | None = None
    """pool_size, signal: fire when there are so many unused errors; none: those of one reflection step [I]."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """ratio: the share of all steps that reflect [I]."""
    min_signal: Share = 0.2
    """signal: the share of reflection groups with unequal rewards that it takes at least [I]."""
    min_rise: Share = 0.0
    """signal: by more than this the repair rate must have risen from one window to the next [I]."""
    window: PositiveInt = 5
    """signal: the last steps of each kind over which shares and repair rates are means [I]."""
    probe_every: PositiveInt = 20
    """signal: first-answer steps after which one reflection step is made anyhow, to see whether this has changed; the
    first one that could be made is such a probe too [I]."""


class Stage2Config(Section):
    step: Literal["alternating", "joint"] = "alternating"
    """Reflections have steps of their own ("periodic" [S]); or they are part of a first-answer step, and both losses
    make one optimizer step [I]."""
    steps_per_trigger: PositiveInt | Literal["drain"] = 1
    """Reflection steps in a row; `drain`: until the pool holds less than one batch of unused errors [I]."""
    prompts: PositiveInt | None = None
    """Errors of one reflection step; none: the prompt batch of a first-answer step [I]."""
    group_size: PositiveInt | None = None
    """Corrections sampled of each error; none: as in stage 1 [I]."""
    group_by: Literal["error", "question"] = "error"
    """Whose corrections share a baseline: those of one error, or of all errors of one question [I]."""


class ReplayConfig(Section):
    """Context distillation: the solutions of successful corrections are fitted as first answers, in a step of their
    own after a reflection step."""

    batch: Count = 0
    """Solutions of one such step at most; 0: no replay [I]."""
    weight: Positive = 1.0
    """Factor on the loss of these steps [I]."""
    max_age_steps: PositiveInt = 10
    """Solutions that were not drawn wait for the next replay, no longer than so many steps [I]."""


class ReflectionLoss(CorrectionLoss):
    stage2_weight: Positive | Literal["tokens", "grad_norm"] = 1.0
    """Factor on the loss of reflections. A number; tokens: trained tokens of the reflections over those of the last
    first-answer step, so that each weighs the same; grad_norm: so that the gradient of a reflection step is about as
    long as those of the last first-answer steps [I]."""


class ScrpoConfig(MethodConfig):
    """ScRPO (arXiv 2511.06065). Every default is [I] unless marked."""

    reflect_every: PositiveInt | Literal["never"] | None = None
    """A reflection step after every N first-answer steps; `never` is plain GRPO that keeps a pool; none: `trigger`."""
    learn_from: Literal["both", "corrections", "first"] = "both"
    """corrections, first: the other kind of step is sampled and recorded as ever, but earns no credit [I]."""
    stage1: GrpoLoss = GrpoLoss()
    reward: RewardConfig = RewardConfig()
    """Of first answers; a correction earns 1 or 0."""
    filter: FilterConfig = FilterConfig()
    pool: PoolConfig = PoolConfig()
    injection: InjectionConfig = InjectionConfig()
    gate: PoolGateConfig = PoolGateConfig()
    trigger: TriggerConfig = TriggerConfig()
    stage2: Stage2Config = Stage2Config()
    loss: ReflectionLoss = ReflectionLoss()
    replay: ReplayConfig = ReplayConfig()
    kl: KlConfig = KlConfig()
    clip: ClipConfig = ClipConfig()

    @model_validator(mode="after")
    def _the_weight_can_be_measured(self) -> ScrpoConfig:
        weight = self.loss.stage2_weight
        if not isinstance(weight, str):
            return self
        where = f"method.loss.stage2_weight: {weight}"
        if self.learn_from != "both":
            raise ValueError(f"{where} compares two kinds of steps, and method.learn_from leaves one; give a number")
        if weight == "tokens" and {self.stage1.normalizer, self.loss.normalizer} != {"masked_tokens"}:
            raise ValueError(
                f"{where} needs masked_tokens as method.stage1.normalizer and method.loss.normalizer: "
                "with others a token's weight is not one over the trained tokens"
            )
        if weight == "grad_norm" and self.stage2.step == "joint":
            raise ValueError(f"{where} needs gradients apart, and a joint step has one; give a number or tokens")
        return self

    @model_validator(mode="after")
    def _the_trigger_is_asked(self) -> ScrpoConfig:
        mode = self.trigger.mode
        if mode != "pool_size" and isinstance(self.reflect_every, int):
            what = f"method.reflect_every: {self.reflect_every} says when to reflect, and method.trigger.mode: {mode}"
            raise ValueError(f"{what} is not asked; set method.reflect_every to null, or leave out the trigger")
        return self

    def needs(self, setting: Setting) -> Needs:
        refuse_lonely(self.stage1.advantage, setting.group_size, "rollout.group_size")
        phases = {FIRST: Phase(PhaseKind.FIRST_ANSWERS, setting.first_rollouts)}
        if self.reflect_every == "never":
            return Needs(phases, turns=1, context=setting.first_context)
        group, batch = self.stage2.group_size or setting.group_size, self.reflection_batch(setting)
        refuse_lonely(self.loss.advantage, group, "method.stage2.group_size")
        size, capacity = self.trigger.size or batch, self.capacity(setting)
        if self.reflect_every is None and self.trigger.mode != "ratio" and size > capacity:
            what = f"the trigger waits for {size} errors and the pool holds {capacity}: it would never reflect"
            raise ValueError(f"{what}; lower method.trigger.size or raise method.pool.capacity")
        if self.stage2.step == "joint":
            phases[JOINT] = Phase(PhaseKind.JOINT, setting.first_rollouts + batch * group)
        else:
            phases[REFLECT] = Phase(PhaseKind.REFLECTION, batch * group)
        if self.replay.batch:
            phases[REPLAY] = Phase(PhaseKind.REPLAY, 0)
        return Needs(phases, turns=1, context=setting.reflection_context)

    def schedule(self, needs: Needs) -> Mapping[str, float]:
        """As if there were always enough errors to reflect on; replays are left out."""
        every, burst, joint = self.reflect_every, self.stage2.steps_per_trigger, self.stage2.step == "joint"
        if every is None and self.trigger.mode == "ratio":
            share = self.trigger.ratio
        elif isinstance(every, int) and joint:
            share = 1 / every
        elif isinstance(every, int) and isinstance(burst, int):
            share = burst / (every + burst)
        else:
            return super().schedule(needs)
        return {FIRST: 1 - share, JOINT if joint else REFLECT: share}

    def reflection_batch(self, setting: Setting) -> int:
        """Errors of one reflection step."""
        return self.stage2.prompts or setting.prompts_per_step

    def capacity(self, setting: Setting) -> int:
        return self.pool.capacity or 4 * self.reflection_batch(setting)


def pool_rules(cfg: MethodConfig) -> PoolRules:
    """By which a method's errors enter a pool; the defaults of ScRPO for a method without a pool."""
    own = cfg if isinstance(cfg, ScrpoConfig) else ScrpoConfig()
    return PoolRules(own.filter, own.pool, own.reward)


def corrections_of_an_error(cfg: MethodConfig, group_size: int) -> int:
    """How many corrections of one error are sampled; as many as first answers for a method that says nothing of it."""
    return (cfg.stage2.group_size if isinstance(cfg, ScrpoConfig) else None) or group_size


class Scrpo(Method[ScrpoConfig]):
    """First-answer steps that fill the error pool, reflection steps that learn from it."""

    Config = ScrpoConfig
    renamed_state: ClassVar[Mapping[str, str]] = {"trials_since": "first_steps"}

    def __init__(self, cfg: ScrpoConfig, context: MethodContext) -> None:
        super().__init__(cfg, context)
        if cfg.pool.diversity == "error_kind" and not self.prompts.error_kinds:
            what = "The task cannot tell kinds of errors apart."
            raise UserError(what, "method.pool.diversity: error_kind", "Use problem or answer.")
        if cfg.replay.batch and self.prompts.opens_thought:
            what = "The chat template opens a thought before every answer, and a replayed solution would stand inside."
            raise UserError(what, "method.replay.batch", "Leave it 0 for this model.")
        self.injector = context.injector(cfg.injection)
        self.batch, self.capacity = cfg.reflection_batch(self.setting), cfg.capacity(self.setting)
        self.state = {"first_steps": 0, "reflections": 0, "burst": 0}
        if cfg.loss.stage2_weight == "tokens" and not self.joint:
            self.state |= {"first_tokens": 0}
        elif cfg.loss.stage2_weight == "grad_norm":
            self.state |= {"first_norms": [], "reflect_norms": []}
        if cfg.trigger.mode == "signal":
            self.state |= {"first_signal": [], "reflect_signal": [], "repair_rates": []}
        if cfg.replay.batch:
            self.state |= {"solved": [], "replay": []}

    # -- which prompts are sampled next ------------------------------------------------------------------------

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        if self.state.get("replay"):
            return self.replay_plan()
        usable = self.usable(pool, set(self.expired(pool, step)))
        first = first_answer_plan(self.prompts, step, self.setting.group_size)
        if not self.reflects(step, usable):
            return first
        reflection = self.reflection_plan(step, usable)
        return Plan(JOINT, [*first.requests, *reflection.requests]) if self.joint else reflection

    @property
    def joint(self) -> bool:
        return self.cfg.stage2.step == "joint"

    def usable(self, pool: Sequence[PoolEntry], gone: Collection[str]) -> list[PoolEntry]:
        """What a reflection step may draw: neither expired nor used up, and let through by the gate."""
        return [e for e in pool if e.attempt_id not in gone and worth_reflecting(e, self.cfg.gate)]

    def reflects(self, step: int, usable: Sequence[PoolEntry]) -> bool:
        """Whether this step reflects: inside a burst, or when the trigger fires. Never on an empty pool."""
        every, trigger = self.cfg.reflect_every, self.cfg.trigger
        if not usable or every == "never":
            return False
        if self.state["burst"] > 0:
            return True
        if every is not None:
            return self.first_steps >= every
        if trigger.mode == "ratio":
            return self.state["reflections"] < trigger.ratio * (step + 1) - 0.5
        waiting = unused(usable) >= (trigger.size or self.batch)
        return waiting and (trigger.mode == "pool_size" or self.probes() or self.pays())

    @property
    def first_steps(self) -> int:
        """First-answer steps since the last reflection; a joint step is one itself."""
        return int(self.state["first_steps"] + self.joint)

    def probes(self) -> bool:
        """Whether it is time to see what a reflection is worth: nothing is known of it, or nothing recent."""
        return not self.state["reflect_signal"] or self.first_steps >= self.cfg.trigger.probe_every

    def pays(self) -> bool:
        """Whether reflections have shown signal, more than first answers, and the repair rate rises; of a rate that was
        not measured over two windows yet nobody can say that it does not.
        """
        cfg, rates = self.cfg.trigger, self.state["repair_rates"]
        share = mean(self.state["reflect_signal"])
        if share < cfg.min_signal or share <= mean(self.state["first_signal"]):
            return False
        whole = len(rates) == 2 * cfg.window
        return not whole or mean(rates[cfg.window :]) - mean(rates[: cfg.window]) > cfg.min_rise

    def note_signal(self, trials: Sequence[Group], corrections: Sequence[Group]) -> None:
        """Remember shares of groups with unequal rewards, and the repair rate, of the last steps of each kind."""
        window = self.cfg.trigger.window
        rewards = [r for group in corrections for r in outcome_rewards(group) if np.isfinite(r)]
        seen = {
            "first_signal": [mean([has_signal(outcome_rewards(g)) for g in trials])] if trials else [],
            "reflect_signal": [mean([has_signal(outcome_rewards(g)) for g in corrections])] if corrections else [],
            "repair_rates": [mean(rewards)] if rewards else [],
        }
        longest = {"repair_rates": 2 * window}
        self.state |= {k: [*self.state[k], *new][-longest.get(k, window) :] for k, new in seen.items()}

    def reflection_plan(self, step: int, usable: Sequence[PoolEntry]) -> Plan:
        """A draw of errors, uniform or spread over what `pool.diversity` names, each answered by a group."""
        rng = generator(self.setting.seed, step, "reflect")
        drawn = spread([self.draw_key(e) for e in usable], self.batch, rng)
        samples = self.cfg.stage2.group_size or self.setting.group_size
        return Plan(REFLECT, [self.prompts.reflection(usable[i], samples) for i in drawn])

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

    def replay_plan(self) -> Plan:
        """The solutions that wait for their replay, each under the prompt of a first answer."""
        return Plan(REPLAY, recorded=[self.as_first_answer(a) for a in self.library.by_id(self.state["replay"])])

    def as_first_answer(self, correction: Attempt) -> Group:
        request, solution = self.prompts.first(correction.problem, 1), self.prompts.solution(correction.completion)
        assert solution is not None  # others are never queued
        return Group(request, [after_prompt(self.prompts.ids(request), replace(correction, completion=solution))])

    def queue_replays(self, step: int, corrections: Sequence[Group]) -> None:
        """After a reflection, draw what the next step replays: uniformly among the solutions that it and recent ones
        have found.
        """
        if not corrections:
            self.state["replay"] = []
            return
        cfg = self.cfg.replay
        right = [a for g in corrections for a in g.attempts if a.reward == 1 and not a.truncated]
        recent = [[s, a] for s, a in self.state["solved"] if step - s <= cfg.max_age_steps]
        recent += [[step, a.id] for a in right if self.prompts.solution(a.completion) is not None]
        order = generator(self.setting.seed, step, "replay").permutation(len(recent))
        drawn, left = np.sort(order[: cfg.batch]), np.sort(order[cfg.batch :])
        self.state |= {"replay": [recent[i][1] for i in drawn], "solved": [recent[i] for i in left]}

    # -- what each token earns ---------------------------------------------------------------------------------

    @property
    def uses_log_ratios(self) -> bool:
        return in_reward(self.cfg.kl)

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        if is_replay(groups):
            return self.replay_credit(groups)
        trials, corrections = by_kind(groups)
        answers = len(completions_of(trials))  # those of the trials come first
        first = self.first_credit(trials, log_ratios and log_ratios[:answers]) if trials else None
        if not corrections:
            assert first is not None
            return first
        second = self.reflection_credit(corrections, log_ratios and log_ratios[answers:])
        second = self.weighted(second, first)
        return joint(first, second, log_ratios) if first else second

    def first_credit(self, groups: Sequence[Group], log_ratios: LogRatios | None) -> Credits:
        cfg, longest = self.cfg, self.setting.max_tokens
        credits = first_answer_credit(groups, cfg.stage1, cfg.kl, cfg.clip, cfg.reward, longest, log_ratios)
        return without_credit(credits) if cfg.learn_from == "corrections" else credits

    def reflection_credit(self, groups: Sequence[Group], log_ratios: LogRatios | None) -> Credits:
        cfg, overlong, by = self.cfg, self.cfg.stage1.overlong, self.cfg.stage2.group_by
        credits = correction_credit(groups, cfg.loss, cfg.kl, cfg.clip, self.prompts, overlong, log_ratios, by)
        return without_credit(credits) if cfg.learn_from == "first" else credits

    def replay_credit(self, groups: Sequence[Group]) -> Credits:
        """Maximum likelihood: nobody sampled these tokens after this prompt, so there is no ratio, and no KL."""
        rows = [flat_credit(len(c.ids), 1.0, 0.0) for c in completions_of(groups)]
        plain, weight = ClipConfig(kind="none"), self.cfg.replay.weight
        return Credits(rows, "masked_tokens", plain, scale=weight, metrics={REPLAYED: len(rows)})

    def weighted(self, corrections: Credits, first: Credits | None) -> Credits:
        """The corrections with their weight beside first answers: those of the same step, or of those before it."""
        given = self.cfg.loss.stage2_weight
        if not isinstance(given, str):
            return replace(corrections, scale=given)
        if given == "tokens":
            beside = trained_tokens(first) if first else self.state["first_tokens"]
            weight = ratio(trained_tokens(corrections), beside)
        else:
            weight = ratio(mean(self.state["first_norms"]), mean(self.state["reflect_norms"]))
        return replace(corrections, scale=weight, metrics={**corrections.metrics, WEIGHT: weight})

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remembers what the weight of reflections is measured by; steps that trained nothing tell nothing."""
        if not metrics.get("train/tokens") or REPLAYED in metrics:
            return
        if "first_tokens" in self.state and WEIGHT not in metrics:
            self.state["first_tokens"] = int(metrics["train/tokens"])
        if "first_norms" in self.state:
            kind = "reflect_norms" if WEIGHT in metrics else "first_norms"
            unweighted = metrics["train/grad_norm"] / metrics.get(WEIGHT, 1.0)
            self.state[kind] = [*self.state[kind], unweighted][-NORMS:]

    # -- what goes into the pool and out of it -----------------------------------------------------------------

    def after_sampling(self, step: int, groups: Sequence[Group], pool: Sequence[PoolEntry]) -> PoolChange:
        """Reflections retire errors, first answers bring new ones; a joint step does both, in this order."""
        trials, corrections = by_kind(groups)
        gone = dict.fromkeys(self.expired(pool, step), "expired")
        self.state["first_steps"] += bool(trials)
        if self.cfg.trigger.mode == "signal":
            self.note_signal(trials, corrections)
        if self.cfg.replay.batch:
            self.queue_replays(step, corrections)
        if corrections:
            tried = {g.request.parent.attempt_id for g in corrections if g.request.parent}
            self.count_reflection(unused(self.usable(pool, tried | gone.keys())))
            gone |= dict(self.consumed(corrections))
        return self.admission(step, trials, pool, gone) if trials else PoolChange(retired=[*gone.items()])

    def admission(
        self, step: int, groups: Sequence[Group], pool: Sequence[PoolEntry], gone: Mapping[str, str]
    ) -> PoolChange:
        """What the errors of first answers do to a pool that `gone` (attempt -> why) leave."""
        seed, longest = self.setting.seed, self.setting.max_tokens
        room = self.capacity - round(self.cfg.injection.share * self.capacity)
        decided = bounded(decisions(groups, pool_rules(self.cfg), longest, seed, step), room, seed, step)
        newcomers = sum(d == KEPT for d in decided.values())
        alive = [e for e in pool if e.attempt_id not in gone]
        out, injected = self.balance(step, groups, alive, newcomers)
        decided |= {a.id: KEPT for a in injected}
        retired = [*gone.items(), *((a, "evicted") for a in out)]
        return PoolChange(decided, retired, injected, self.cfg.injection.kind)

    def balance(
        self, step: int, groups: Sequence[Group], alive: Sequence[PoolEntry], newcomers: int
    ) -> tuple[list[str], list[Attempt]]:
        """Entries that must leave for capacity, and errors to inject so that they have their share of the pool."""
        share, how = self.cfg.injection.share, self.cfg.pool.evict
        own, injected = [e for e in alive if not e.injected], [e for e in alive if e.injected]
        out = evicted(own, newcomers, self.capacity - round(share * self.capacity), how, self.setting.seed, step)
        wanted = injected_wanted(len(own) + newcomers - len(out), share, self.capacity)
        out += evicted(injected, 0, wanted, how, self.setting.seed, step)
        missing = wanted - len(injected)
        return out, self.injector.inject(step, groups, missing) if missing > 0 else []

    def expired(self, pool: Sequence[PoolEntry], step: int) -> list[str]:
        return expired(pool, step, self.cfg.pool.max_age_steps)

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


def by_kind(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """First answers and corrections."""
    corrections = [g for g in groups if g.request.kind is AttemptKind.CORRECTION]
    return [g for g in groups if g.request.kind is not AttemptKind.CORRECTION], corrections


def is_replay(groups: Sequence[Group]) -> bool:
    """Whether these are corrections that stand under the prompts of first answers."""
    return any(a.kind is AttemptKind.CORRECTION for g in groups if g.request.parent is None for a in g.attempts)


def joint(first: Credits, corrections: Credits, log_ratios: LogRatios | None) -> Credits:
    """J_1 + w J_2: the corrections are a term of their own, divided by their own tokens."""
    rows = [*first.rows, *(replace(row, part=REFLECT) for row in corrections.rows)]
    metrics = {**corrections.metrics, **(measured(rows, log_ratios) if log_ratios else {})}
    skipped = first.skipped_groups + corrections.skipped_groups
    terms = {REFLECT: Term(corrections.normalizer, corrections.scale)}
    return replace(first, rows=rows, terms=terms, skipped_groups=skipped, metrics=metrics)


def without_credit(credits: Credits) -> Credits:
    return replace(credits, rows=[no_credit(len(row.mask_T)) for row in credits.rows])


def mean(values: Sequence[float]) -> float:
    """0 where there are none."""
    return float(np.mean(values)) if values else 0.0


def ratio(over: float, under: float) -> float:
    """1 where one of them is 0: there is nothing to compare yet."""
    return over / under if over and under else 1.0


def trained_tokens(credits: Credits) -> int:
    return sum(int(row.mask_T.sum()) for row in credits.rows)


def unused(entries: Sequence[PoolEntry]) -> int:
    """How many errors no reflection step has drawn yet: what stays in the pool after its use sets off nothing."""
    return sum(e.uses == 0 for e in entries)
