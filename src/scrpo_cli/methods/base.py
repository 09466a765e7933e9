"""What a method is: which prompts to sample next, what goes into the pool, and the credit of what came back.

A method is one file: its objective as a docstring, its section of a recipe (a `MethodConfig`), its class (a `Method`).
It sees groups and returns credit. It imports no engine, no database and no tracker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from pydantic import model_validator

from scrpo_cli.section import NonNegative, Positive, Section
from scrpo_cli.types import Attempt, AttemptKind, Completion, Credit, Group, PoolEntry, Problem, SampleRequest

# -- what a method says of itself, before anything is loaded -----------------------------------------------------------


class PhaseKind(StrEnum):
    """What the steps of a phase count as."""

    FIRST_ANSWERS = "first_answers"  # answers to problems, compared inside their groups
    REFLECTION = "reflection"  # corrections of pooled errors
    JOINT = "joint"  # answers to problems and corrections of pooled errors, each compared inside their groups
    CONVERSATION = "conversation"  # several turns
    COLLECTION = "collection"  # sampled to be fitted later: nothing is compared
    FIT = "fit"  # nothing is sampled
    REPLAY = "replay"  # nothing is sampled: recorded answers are fitted between steps that sample


@dataclass(frozen=True)
class Phase:
    """One kind of step: what it counts as, and how many completions one step of it samples at most."""

    kind: PhaseKind
    rollouts: int


@dataclass(frozen=True)
class Needs:
    """What the rest of the program has to know of a method. No field has a default: a method that leaves one out does
    not start, and one that samples more than it says here is stopped.

    `phases` by the name that a `Plan` gives; `turns`: answers in a row that a conversation has at most; `context`:
    tokens of the longest prompt together with its completion.
    """

    phases: Mapping[str, Phase]
    turns: int
    context: int

    @property
    def rollouts(self) -> int:
        """Completions of the largest step."""
        return max(phase.rollouts for phase in self.phases.values())


class Fitting(NamedTuple):
    """Steps that fit what was collected: passes over it, examples of a step, and completions of an example."""

    passes: int
    batch: int
    completions: int = 1


@dataclass(frozen=True)
class Setting:
    """The numbers of a run that a method's needs depend on. Lengths are in tokens; `shown_tokens`: of an earlier answer
    that a reflection prompt shows at most; `count_tokens` measures a follow-up message with the template around it.
    """

    prompts_per_step: int
    group_size: int
    max_tokens: int
    max_prompt_tokens: int
    shown_tokens: int
    reflect_prompt: str
    check_prompt: str
    steps: int
    token_budget: int | None
    minibatches: int
    seed: int
    count_tokens: Callable[[str], int]

    @property
    def first_rollouts(self) -> int:
        """Completions of a step that answers `prompts_per_step` problems `group_size` times."""
        return self.prompts_per_step * self.group_size

    @property
    def first_context(self) -> int:
        return self.max_prompt_tokens + self.max_tokens

    @property
    def reflection_context(self) -> int:
        """The problem, the shown part of an answer, the request to reflect, and the correction."""
        return self.first_context + self.shown_tokens + self.count_tokens(self.reflect_prompt)

    def conversation_context(self, turns: int) -> int:
        """The problem and all answers, with a request to check after each but the last."""
        return self.first_context + (turns - 1) * (self.max_tokens + self.count_tokens(self.check_prompt))

    def spent(self, step: int, tokens: int) -> float:
        """The share of the run that is over before `step`: of its tokens or, where they are not bounded, its steps."""
        return tokens / self.token_budget if self.token_budget else (step - 1) / self.steps


class MethodConfig(Section, ABC):
    """The `method` section of a recipe; its defaults are the method. `name` is the method's file, or a reference."""

    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _is_called_like_its_file(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("name") and cls.__module__.startswith(__package__):
            return {**data, "name": cls.__module__.rpartition(".")[2]}
        return data

    @abstractmethod
    def needs(self, setting: Setting) -> Needs:
        """What it takes in this setting. Raises ValueError, with how to mend it, for a setting in which it would do
        nothing or something else than it says.
        """

    def schedule(self, needs: Needs) -> Mapping[str, float]:
        """The share of every phase among the steps, for estimates of time; empty where what is sampled decides."""
        return dict.fromkeys(needs.phases, 1.0) if len(needs.phases) == 1 else {}

    @property
    def fitting(self) -> Fitting | None:
        """How its FIT steps use what was collected, for estimates of time; None without such steps."""
        return None

    @property
    def whole_vocabulary(self) -> str:
        """The divergence over the whole vocabulary that its credits name (`Credits.estimator`), for estimates of
        memory; empty without one.
        """
        return ""


class KlConfig(Section):
    beta: NonNegative = 0.001
    """Coefficient of the KL penalty on every trained token; 0 leaves out the reference model."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """k3 (GRPO): a loss term with the gradient of KL(ref||policy). k2: a loss term with that of KL(policy||ref), token
    by token. k1: the log-ratio of the whole completion inside its reward (RLOO): exactly KL(policy||ref)."""


class ClipConfig(Section):
    kind: Literal["ppo", "gspo", "cispo", "none"] = "ppo"
    """What the probability ratio does: ppo clips each token's; gspo clips that of the sequence (geometric mean); cispo
    clips it and uses it as a weight without gradient; none leaves it out (plain log-prob: REINFORCE, SFT)."""
    low: NonNegative = 0.2
    """The ratio is clipped below at 1 - low."""
    high: Positive = 0.2
    """And above at 1 + high."""


# -- what a method does ------------------------------------------------------------------------------------------------


class Term(NamedTuple):
    """A sum of its own inside the loss of a step: how its rows are normalised, and a factor on it."""

    normalizer: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Credits:
    """The credit of every completion of a step (groups in order, samples in order), how the loss is normalised, and the
    two switches of the loss: what the ratio does and which KL it has, an estimate from the sampled tokens (k2, k3) or a
    divergence over the whole vocabulary (`reverse_kl`, `forward_kl`, `jsd`). `metrics`: what was measured on the way
    (`train/...`). `terms`: rows whose `part` is named here are left out of the normalizer and the scale of the others
    and have their own.
    """

    rows: Sequence[Credit]
    normalizer: str
    clip: ClipConfig
    estimator: str = "k3"
    scale: float = 1.0
    skipped_groups: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    terms: Mapping[str, Term] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step samples: `requests`; or what it fits: `recorded` groups of attempts that were sampled earlier.

    `phase` is one of the method's needs and prefixes its metrics. `reference`: from this step on it is the `policy` as
    it is now, or the `base` model; empty: as it was. `reference_share`: how much of the way it goes to the policy, so
    that it is a moving average of policies below 1.
    """

    phase: str
    requests: Sequence[SampleRequest] = ()
    recorded: Sequence[Group] = ()
    reference: str = ""
    reference_share: float = 1.0


@dataclass(frozen=True, slots=True)
class PoolChange:
    """What a step does to the pool: a filter decision for every wrong attempt (`kept` enters), and retirements.

    `injected` attempts enter too: wrong ones that nobody sampled, all of one kind.
    """

    decisions: Mapping[str, str] = field(default_factory=dict)
    retired: Sequence[tuple[str, str]] = ()
    injected: Sequence[Attempt] = ()
    injected_kind: str = ""


class Prompts(Protocol):
    """Phrases what a method wants to ask; implemented over the task and the chat template."""

    error_kinds: Sequence[str]
    """The kinds of errors that the task can tell apart; empty where it cannot."""
    opens_thought: bool
    """Whether the chat template writes the start of a thought before every answer."""

    def problems(self, step: int, extra: int = 0) -> Sequence[Problem]:
        """The problems of a step: a pure function of the step. `extra` numbers further draws of the same step."""
        ...

    def first(self, problem: Problem, samples: int) -> SampleRequest: ...

    def check(self, request: SampleRequest, attempt: Attempt) -> SampleRequest:
        """The next turn after an answer to `request`, without a word on whether it was right."""
        ...

    def follow_up(self, request: SampleRequest, attempt: Attempt, text: str, kind: AttemptKind) -> SampleRequest:
        """One more turn of the conversation, in the method's own words."""
        ...

    def informed(self, request: SampleRequest, shown: Attempt, text: str) -> SampleRequest:
        """The same question with more said. Where `text` has `{problem}`, it takes the place of the last message, which
        it may quote; else it follows on the shown answer. `{shown}` is that answer, shortened as for a reflection.
        """
        ...

    def reflection(self, entry: PoolEntry, samples: int) -> SampleRequest: ...

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        """(T,) 1 on the tokens of the reflection segment."""
        ...

    def solution_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        """(T,) 1 on the tokens of the solution segment."""
        ...

    def solution(self, completion: Completion) -> Completion | None:
        """The solution segment of a correction as a whole answer: tokenized anew without the space before it, ended
        like the correction. None where there is no such segment.
        """
        ...

    def ids(self, request: SampleRequest) -> Sequence[int]:
        """The prompt's token ids."""
        ...

    def error_kind(self, entry: PoolEntry) -> str | None:
        """The kind of the error; None where the task cannot tell."""
        ...


class Library(Protocol):
    """Attempts that were recorded earlier, for methods that learn from a fixed set."""

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> Sequence[Attempt]:
        """Training attempts of the named runs; without names those of this run so far. Refuses those whose token ids
        mean something else than here, unless `texts_only` are used of them.
        """
        ...

    def by_id(self, ids: Sequence[str]) -> Sequence[Attempt]:
        """Attempts of earlier steps of this run, in the order of their ids here."""
        ...


class Injector(Protocol):
    """Makes wrong attempts for controlled experiments."""

    def inject(self, step: int, groups: Sequence[Group], count: int) -> list[Attempt]:
        """At most `count` wrong attempts at the problems of a first-answer step."""
        ...


@dataclass(frozen=True)
class MethodContext:
    """Everything that a method is given: the numbers of its run, prompts, recorded attempts. `injector` makes one from
    a method's settings of injected errors.
    """

    setting: Setting
    prompts: Prompts
    library: Library
    injector: Callable[[Any], Injector]


Cfg = TypeVar("Cfg", bound=MethodConfig)


class Method(ABC, Generic[Cfg]):
    """An algorithm. `Config` is its section of a recipe. `state` is what a checkpoint must carry beside the pool, as
    plain JSON values.
    """

    Config: ClassVar[type[MethodConfig]]
    state: dict[str, Any]
    renamed_state: ClassVar[Mapping[str, str]] = {}
    """What keys of `state` were called in checkpoints of earlier versions -> what they are called now."""

    def __init__(self, cfg: Cfg, context: MethodContext) -> None:
        self.cfg, self.setting, self.prompts, self.library = cfg, context.setting, context.prompts, context.library
        self.state = {}

    @property
    def uses_log_ratios(self) -> bool:
        """Whether `credit` is told log pi / pi_ref, at the cost of two forward passes over what was sampled."""
        return False

    @abstractmethod
    def plan(self, step: int, pool: Sequence[PoolEntry]) -> Plan: ...

    def next_round(self, step: int, groups: Sequence[Group], round: int) -> Sequence[SampleRequest]:
        """What to sample on top once the answers so far are graded: further turns, further problems. None ends the
        sampling of the step; `round` counts from 1.
        """
        return ()

    @abstractmethod
    def credit(self, groups: Sequence[Group], log_ratios: Sequence[np.ndarray] | None = None) -> Credits:
        """What the tokens of the step's groups, sampled or recorded, earn. `log_ratios`, where the method uses them:
        (T,) log pi - log pi_ref of every completion, at the policy before the update.
        """

    def recall(self, metrics: Mapping[str, float | None]) -> bool:
        """Take up again what `credit` depends on beside its groups, from the recorded metrics of a step, so that the
        credit of that step can be looked at later; False where they do not say it.
        """
        return True

    def after_sampling(self, step: int, groups: Sequence[Group], pool: Sequence[PoolEntry]) -> PoolChange:
        """What the sampled groups change of the pool, and of the method's own state."""
        return PoolChange()

    def after_update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of the update, for methods that adapt to them."""

    def is_finished(self, budget_spent: bool) -> bool:
        """Whether the run ends; `budget_spent`: its budget of generated tokens is used up."""
        return budget_spent


def outcome_rewards(group: Group) -> np.ndarray:
    """(G,) rewards; NaN where the grader itself failed, so that the attempt leaves the group's baseline."""
    return np.array([a.outcome for a in group.attempts])


def completions_of(groups: Sequence[Group]) -> list[Completion]:
    return [a.completion for group in groups for a in group.attempts]


def no_credit(length: int) -> Credit:
    """A completion that is generated and recorded but teaches nothing."""
    zeros_T = np.zeros(length, dtype=np.float32)
    return Credit(zeros_T, zeros_T, zeros_T)


def flat_credit(
    length: int, advantage: float, kl_beta: float, mask_T: np.ndarray | None = None, part: str = ""
) -> Credit:
    """The same advantage on every (masked) token of a completion."""
    ones_T = np.ones(length, dtype=np.float32)
    return Credit(ones_T * advantage, ones_T if mask_T is None else mask_T, ones_T * kl_beta, part)
