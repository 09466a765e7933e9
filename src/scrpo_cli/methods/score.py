"""SCoRe, Self-Correction via RL (Kumar et al., arXiv 2409.12917): several turns, two stages.

    x1 = problem, y1 ~ pi(.|x1);  x2 = x1 + y1 + instruction, y2 ~ pi(.|x2);  r(y) in {0, 1}       (section 3)

    Stage I   max E[ r(y2) - beta_2 KL(pi(.|x1) || pi_ref(.|x1)) ]                                 (Eq. 3)
                  turn-1 tokens: no reward, KL beta_2       turn-2 tokens: r2, KL beta_1
    Stage II  max E[ sum_i r(y_i) - beta_1 KL(pi(.|x_i) || pi_ref(.|x_i)) ]                        (Eq. 4)
                  turn-1 tokens: r1, KL beta_1              turn-2 tokens: r2 + alpha (r2 - r1), KL beta_1

Discount 0: a turn's tokens earn the reward of that turn alone (App. A.4). The baseline is the mean over the other
samples of the same problem (RLOO); for turn 2 their contexts differ, and it stays unbiased since they are independent
of y2. With T > 2 turns there are T-1 stages I: stage s teaches turn s+1 and holds turns 1..s at the model that the
stage before left; then Stage II pays each turn for its progress over the last (App. A.1).

Split of the stages, samples per prompt and KL estimator are not stated: switches, defaults ours [I].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import (
    ClipConfig,
    Credits,
    Method,
    MethodConfig,
    MethodContext,
    Needs,
    Phase,
    PhaseKind,
    Plan,
    PoolChange,
    Setting,
    flat_credit,
    no_credit,
)
from scrpo_cli.methods.parts.advantages import leave_one_out
from scrpo_cli.methods.parts.kl import LogRatios, kl_in_reward
from scrpo_cli.methods.parts.offline import by_problem
from scrpo_cli.methods.parts.rewards import improvement
from scrpo_cli.rng import generator
from scrpo_cli.section import NonNegative, Positive, PositiveInt, Section, Share
from scrpo_cli.types import Attempt, Group, PoolEntry, SampleRequest

ADAPT = 1.5  # beta_2 moves by this factor where the held turns' KL is off its target by more than it (PPO's rule)
STAGE, BETA2 = "train/stage", "train/beta2"
"""Metrics: the stage of a step (the number of turns is Stage II), and beta_2 in it."""


class StageOneConfig(Section):
    """Stage I of SCoRe: the later turn learns while the earlier ones are held where they are."""

    until: Literal["share", "plateau"] = "share"
    """It ends at `share`, or before that when the last turn's accuracy is flat and the first turn has not moved [I]."""
    share: Share = 0.3333
    """Of the run's budget (tokens, or steps without a token budget); 0 leaves Stage I out [I]."""
    window: PositiveInt = 10
    """plateau: steps whose mean accuracy is compared with that of the same number before them [I]."""
    min_gain: NonNegative = 0.01
    """plateau: a smaller gain is flat [I]."""
    max_kl: Positive = 1.0
    """plateau: the first turn counts as held below so many nats a sequence [I]."""


class ScoreKl(Section):
    beta1: NonNegative = 0.01
    """On all turns of Stage II [C]; in Stage I on the turn that learns [I]."""
    beta2: NonNegative = 0.1
    """In Stage I on the turns that are held: 0.1 for MATH, 0.25 for code [C]."""
    estimator: Literal["k1", "k2", "k3"] = "k2"
    """As in method.kl of grpo. k1 and k2 pull in the paper's direction, KL(policy||ref), k3 in the other [I]."""
    target: Positive | None = None
    """Adapts beta2 so that the held turns stay near so many nats a sequence; none: fixed. Idea [C], rule [I]."""
    reference: Literal["base", "stage1"] = "base"
    """Of Stage II: the base model, or the model as Stage I left it [I]."""


class ScoreConfig(MethodConfig):
    """SCoRe (arXiv 2409.12917)."""

    turns: Annotated[int, Field(ge=2, le=5)] = 2
    """Answers in a row; with more than two, Stage I runs once for each further turn (App. A.1) [C]."""
    bonus: Literal["progress", "flip"] = "progress"
    """progress: alpha (r2 - r1) [C]; flip: alpha for wrong to right only [S]."""
    alpha: NonNegative = 10.0
    """[C]."""
    stage1: StageOneConfig = StageOneConfig()
    baseline: Literal["leave_one_out", "batch", "none"] = "leave_one_out"
    """What is subtracted from a turn's reward: the mean of the problem's other samples [C]; of the batch; nothing."""
    reduction: Literal["sequence", "token"] = "sequence"
    """Reward and KL summed over each sequence, as Eq. 2-4 are written; token divides by the trained tokens [I]."""
    offline_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of Stage II's problems whose first answer was sampled before training, by offline_run [C idea; I share]."""
    offline_run: str | None = None
    """The `scrpo collect` run of the base model that holds those answers."""
    kl: ScoreKl = ScoreKl()
    clip: ClipConfig = ClipConfig()

    @model_validator(mode="after")
    def _offline_needs_a_run(self) -> ScoreConfig:
        if self.offline_share and not self.offline_run:
            raise ValueError("offline_share needs offline_run: a `scrpo collect` run of the base model")
        return self

    def needs(self, setting: Setting) -> Needs:
        phases = {"turns": Phase(PhaseKind.CONVERSATION, setting.first_rollouts * self.turns)}
        return Needs(phases, turns=self.turns, context=setting.conversation_context(self.turns))


@dataclass(frozen=True)
class Turn:
    """An attempt of a step with the attempt that it revises."""

    attempt: Attempt
    before: Attempt | None

    @property
    def key(self) -> tuple[str, str, int]:
        """Whose mean is the baseline: the same problem's answers in the same turn."""
        return self.attempt.problem.source, self.attempt.problem.id, self.attempt.turn


class Score(Method[ScoreConfig]):
    """`state`: the stage (1 .. T-1 are stages I, T is Stage II), the tokens so far, beta_2, the accuracies and KLs of
    the stage's last steps.
    """

    Config = ScoreConfig

    def __init__(self, cfg: ScoreConfig, context: MethodContext) -> None:
        super().__init__(cfg, context)
        self.state = {"stage": 1, "tokens": 0, "beta2": cfg.kl.beta2, "accuracy": [], "held_kl": 0.0}

    @property
    def stage(self) -> int:
        return self.state["stage"]

    @property
    def in_stage_two(self) -> bool:
        return self.stage == self.cfg.turns

    @property
    def turns(self) -> int:
        """Turns that this stage samples."""
        return self.cfg.turns if self.in_stage_two else self.stage + 1

    # -- which prompts are sampled next ------------------------------------------------------------------------

    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan:
        reference = self.next_stage(step)
        problems = self.prompts.problems(step)
        offline = self.offline_requests(step, len(problems))
        fresh = problems[len(offline) // self.setting.group_size :]
        requests = [*offline, *(self.prompts.first(p, self.setting.group_size) for p in fresh)]
        return Plan("turns", requests, reference=reference)

    def next_stage(self, step: int) -> str:
        """Move on where the stage is over; what the reference becomes then (`""`: as it was)."""
        before = self.stage
        while not self.in_stage_two and self.stage_is_over(step):
            self.state |= {"stage": self.stage + 1, "accuracy": [], "beta2": self.cfg.kl.beta2}
        if self.stage == before or step == 1:
            return ""
        return "policy" if not self.in_stage_two or self.cfg.kl.reference == "stage1" else "base"

    def stage_is_over(self, step: int) -> bool:
        cfg = self.cfg.stage1
        end = cfg.share * self.stage / (self.cfg.turns - 1)
        if self.setting.spent(step, self.state["tokens"]) >= end:
            return True
        seen = self.state["accuracy"]
        if cfg.until == "share" or len(seen) < 2 * cfg.window:
            return False
        gain = np.mean(seen[-cfg.window :]) - np.mean(seen[-2 * cfg.window : -cfg.window])
        return bool(gain < cfg.min_gain and self.state["held_kl"] < cfg.max_kl)

    def offline_requests(self, step: int, problems: int) -> list[SampleRequest]:
        """Stage II's first answers of the base model that were sampled before training: they are context only."""
        wanted = round(self.cfg.offline_share * problems) if self.in_stage_two else 0
        if not wanted:
            return []
        drawn = generator(self.setting.seed, step, "offline").permutation(len(self.offline))[:wanted]
        return [self.prompts.check(self.prompts.first(a.problem, 1), a) for i in drawn for a in self.offline[i]]

    @cached_property
    def offline(self) -> list[list[Attempt]]:
        """The stored first answers of each problem that has enough of them; read once, they do not change."""
        stored = by_problem(self.library.attempts([self.cfg.offline_run or ""]))
        full = [same[: self.setting.group_size] for same in stored.values() if len(same) >= self.setting.group_size]
        if not full:
            what = f"No problem has {self.setting.group_size} first answers that were sampled before training."
            fix = "Name a `scrpo collect` run whose rollout.group_size is not smaller, or set offline_share to 0."
            raise RunError(what, f"method.offline_run: {self.cfg.offline_run}", fix)
        return full

    def next_round(self, step: int, groups: Sequence[Group], round: int) -> list[SampleRequest]:
        """The next turn of every conversation that has one to come."""
        continued = {g.request.previous.id for g in groups if g.request.previous}
        ends = [(g.request, a) for g in groups for a in g.attempts if a.id not in continued]
        return [self.prompts.check(request, a) for request, a in ends if a.turn < self.turns]

    # -- what each token earns ---------------------------------------------------------------------------------

    @property
    def uses_log_ratios(self) -> bool:
        return self.cfg.kl.estimator == "k1"

    def credit(self, groups: Sequence[Group], log_ratios: LogRatios | None = None) -> Credits:
        turns = [Turn(a, g.request.previous) for g in groups for a in g.attempts]
        rewards_N = np.array([self.reward(turn) for turn in turns])
        advantages_N = self.advantages(rewards_N, [turn.key for turn in turns])
        rows = []
        for turn, advantage in zip(turns, advantages_N, strict=True):
            length, number = len(turn.attempt.completion.ids), turn.attempt.turn
            beta = self.beta(number)
            ungraded = np.isnan(advantage)
            nothing = ungraded or (advantage == 0 and beta == 0)
            rows.append(
                no_credit(length) if nothing else flat_credit(length, float(advantage), beta, part=f"turn{number}")
            )
        credits = self.normalized(rows, turns, rewards_N)
        if not self.uses_log_ratios:
            return credits
        assert log_ratios is not None
        return kl_in_reward(credits, [t.key for t in turns], log_ratios)

    def held(self, turn: int) -> bool:
        """Whether Stage I holds this turn where it is: no reward, only the strict KL."""
        return not self.in_stage_two and turn <= self.stage

    def beta(self, turn: int) -> float:
        return self.state["beta2"] if self.held(turn) else self.cfg.kl.beta1

    def reward(self, turn: Turn) -> float:
        """NaN where a grader failed on what the reward needs."""
        if self.held(turn.attempt.turn):
            return 0.0
        if turn.before is None or not self.in_stage_two:
            return turn.attempt.outcome
        one, two = np.array([turn.before.outcome]), np.array([turn.attempt.outcome])
        return float(improvement(two, one, self.cfg.alpha, self.cfg.bonus)[0])

    def advantages(self, rewards_N: np.ndarray, keys: Sequence[tuple[str, str, int]]) -> np.ndarray:
        """(N,) reward less its baseline. The only graded sample of a problem falls back to the turn's batch mean."""
        if self.cfg.baseline == "none":
            return rewards_N
        advantages_N = less_the_others(rewards_N, [turn for _, _, turn in keys])
        if self.cfg.baseline == "leave_one_out":
            within_N = less_the_others(rewards_N, keys)
            advantages_N = np.where(np.isnan(within_N), advantages_N, within_N)
        return np.where(np.isnan(advantages_N), rewards_N, advantages_N)

    def normalized(self, rows: list, turns: Sequence[Turn], rewards_N: np.ndarray) -> Credits:
        """Eq. 2-4 are sums over a conversation's tokens, averaged over conversations."""
        continued = {turn.before.id for turn in turns if turn.before}
        conversations = sum(turn.attempt.id not in continued for turn in turns)
        by_key: dict[tuple[str, str, int], set[float]] = defaultdict(set)
        for turn, reward in zip(turns, rewards_N, strict=True):
            if not self.held(turn.attempt.turn):
                by_key[turn.key].add(float(reward))
        skipped = sum(len(rewards) == 1 for rewards in by_key.values())
        loss = self.cfg.clip, self.cfg.kl.estimator
        metrics = {STAGE: self.stage, BETA2: self.state["beta2"]}
        if self.cfg.reduction == "token":
            return Credits(rows, "masked_tokens", *loss, skipped_groups=skipped, metrics=metrics)
        return Credits(rows, "sequence_sum", *loss, len(rows) / conversations, skipped, metrics)

    def recall(self, metrics: Mapping[str, float | None]) -> bool:
        """The stage and beta_2 of a recorded step."""
        stage, beta2 = metrics.get(STAGE), metrics.get(BETA2)
        if stage is None or beta2 is None:
            return False
        self.state |= {"stage": int(stage), "beta2": beta2}
        return True

    # -- what a stage has reached ------------------------------------------------------------------------------

    def after_sampling(self, step: int, groups: Sequence[Group], pool: Sequence[PoolEntry]) -> PoolChange:
        attempts = [a for g in groups for a in g.attempts]
        self.state["tokens"] += sum(len(a.completion.ids) for a in attempts)
        last = [a.outcome for a in attempts if a.turn == self.turns and not np.isnan(a.outcome)]
        kept = self.state["accuracy"][1 - 2 * self.cfg.stage1.window :]
        self.state["accuracy"] = [*kept, float(np.mean(last))] if last else kept
        return PoolChange()

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """The held turns' KL (nats a sequence), which ends a plateau and moves beta_2 towards its target."""
        if self.in_stage_two:
            return
        held = [metrics.get(f"train/kl_turn{turn}_sequence", 0.0) for turn in range(1, self.stage + 1)]
        self.state["held_kl"] = float(np.mean(held))
        target = self.cfg.kl.target
        if target and self.state["held_kl"] > ADAPT * target:
            self.state["beta2"] *= ADAPT
        elif target and self.state["held_kl"] < target / ADAPT:
            self.state["beta2"] /= ADAPT


def less_the_others(rewards_N: np.ndarray, keys: Sequence[Hashable]) -> np.ndarray:
    """(N,) reward less the mean of the others with the same key; NaN where there is no other."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        places[key].append(i)
    advantages_N = np.full(len(rewards_N), np.nan)
    for same in places.values():
        if np.count_nonzero(~np.isnan(rewards_N[same])) > 1:
            advantages_N[same] = leave_one_out(rewards_N[same])
    return advantages_N
