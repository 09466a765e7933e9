"""The method section of a recipe: one model a method, whose defaults are the method. No torch.

Marks on every value that a paper could have settled: [C] confirmed in the paper's text or its authors' code,
[S] second-hand, [I] our choice.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from scrpo_cli.recipe.gate import PoolGateConfig
from scrpo_cli.section import NonNegative, Positive, PositiveInt, Section, Share


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


class GrpoLoss(Section):
    advantage: Literal["group_norm", "group_mean", "leave_one_out", "raw"] = "group_norm"
    """(r - mean) / std; r - mean (Dr. GRPO); r - mean of the others (RLOO); r."""
    normalizer: Literal["sequence_mean", "sequence_sum", "masked_tokens", "all_tokens", "constant"] = "masked_tokens"
    """Mean over each sequence, then rows (GRPO); sum over each sequence, mean over rows (RLOO); mean over trained
    tokens (DAPO); over all generated tokens; or the constant rows x max_tokens (Dr. GRPO)."""
    overlong: Literal["mask", "keep"] = "mask"
    """Truncated completions: no loss (DAPO's overlong filtering) or an ordinary wrong answer."""


class RewardConfig(Section):
    right: float = 1.0
    wrong: float = 0.0
    length_penalty: Share = 0.0
    """DAPO's soft overlong punishment: over this last share of rollout.max_tokens the reward falls by 0 to 1."""


class OnPolicyConfig(Section):
    """What GRPO and its relatives share; each of them is a set of defaults."""

    loss: GrpoLoss = GrpoLoss()
    reward: RewardConfig = RewardConfig()
    kl: KlConfig = KlConfig()
    clip: ClipConfig = ClipConfig()
    resample: Annotated[int, Field(ge=0)] = 0
    """Dynamic sampling (DAPO): groups without signal are replaced by groups of further problems, in at most so many
    rounds a step; 0: never."""


class GrpoConfig(OnPolicyConfig):
    """GRPO (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"


class DapoConfig(OnPolicyConfig):
    """DAPO (arXiv 2503.14476): clip-higher, token-level loss, dynamic sampling, overlong filtering and punishment."""

    name: Literal["dapo"] = "dapo"
    loss: GrpoLoss = GrpoLoss(normalizer="masked_tokens", overlong="mask")
    """Token-level loss and overlong filtering [C]."""
    reward: RewardConfig = RewardConfig(right=1.0, wrong=-1.0, length_penalty=0.2)
    """+1 and -1; the penalty over the last 4,096 of 20,480 tokens [C]."""
    kl: KlConfig = KlConfig(beta=0.0)
    """No KL [C]."""
    clip: ClipConfig = ClipConfig(low=0.2, high=0.28)
    """Clip-higher [C]."""
    resample: Annotated[int, Field(ge=0)] = 3
    """The paper samples until the batch is full [C]; the cap is ours [I]."""


class DrGrpoConfig(OnPolicyConfig):
    """Dr. GRPO (arXiv 2503.20783): no division by the std, none by the length."""

    name: Literal["dr_grpo"] = "dr_grpo"
    loss: GrpoLoss = GrpoLoss(advantage="group_mean", normalizer="constant", overlong="keep")
    """[C], the authors' code."""
    kl: KlConfig = KlConfig(beta=0.0)
    """[C], the authors' scripts."""


class RlooConfig(OnPolicyConfig):
    """RLOO (arXiv 2402.14740): REINFORCE on whole sequences, the mean of the others as baseline."""

    name: Literal["rloo"] = "rloo"
    loss: GrpoLoss = GrpoLoss(advantage="leave_one_out", normalizer="sequence_sum", overlong="keep")
    kl: KlConfig = KlConfig(beta=0.001, estimator="k1")
    """The KL is part of the reward; the coefficient is ours [I]."""
    clip: ClipConfig = ClipConfig(kind="none")


class GspoConfig(OnPolicyConfig):
    """GSPO (arXiv 2507.18071): one importance ratio a sequence."""

    name: Literal["gspo"] = "gspo"
    loss: GrpoLoss = GrpoLoss(normalizer="sequence_mean")
    kl: KlConfig = KlConfig(beta=0.0)
    """[S]."""
    clip: ClipConfig = ClipConfig(kind="gspo", low=3e-4, high=4e-4)
    """[S]."""


class CispoConfig(OnPolicyConfig):
    """CISPO (arXiv 2506.13585): the clipped ratio is a weight without gradient, so no token loses its gradient."""

    name: Literal["cispo"] = "cispo"
    loss: GrpoLoss = GrpoLoss(normalizer="masked_tokens")
    kl: KlConfig = KlConfig(beta=0.0)
    """[I]."""
    clip: ClipConfig = ClipConfig(kind="cispo", low=1.0, high=0.28)
    """Only the upper bound works [I]; its value is ours [I]."""


class FilterConfig(Section):
    """Which errors may enter the pool, decided on their group (ScRPO's variance-based filter [S])."""

    mode: Literal["variance", "pass_rate_band", "nonzero", "none"] = "variance"
    """By var_min; by band; not all right and not all wrong; every error."""
    var_min: Annotated[float, Field(ge=0, le=0.25)] = 0.10
    """Population variance p(1-p) of the binary reward, inclusive [I]."""
    band: tuple[Share, Share] = (0.125, 0.875)
    """Inclusive pass-rate band of `pass_rate_band` [I]."""
    reward: Literal["correctness", "total"] = "correctness"
    """What `mode` looks at: right or wrong, or method.reward, length penalty included [I]."""

    @field_validator("band")
    @classmethod
    def _low_to_high(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] > band[1]:
            raise ValueError("method.filter.band is [low, high]: this one keeps nothing")
        return band


class PoolConfig(Section):
    per_prompt: PositiveInt | Literal["all"] = 1
    """How many wrong answers of one group are kept, uniformly [I]."""
    include_truncated: bool = False
    """Whether answers that were cut off count as errors [I]."""
    capacity: PositiveInt | None = None
    """Most entries alive at once; none: 4 x the reflection batch [I]."""
    evict: Literal["fifo", "random"] = "fifo"
    """Who leaves a full pool: the oldest, or a uniform draw [I]."""
    consume: Literal["once", "until_solved", "keep"] = "once"
    """An error leaves the pool after one use; once a correction of it was right; by age or eviction only [I]."""
    max_age_steps: PositiveInt | None = 50
    """Older errors are retired unused; none: no limit [I]."""
    diversity: Literal["none", "problem", "answer", "error_kind"] = "none"
    """What the errors of one reflection step are spread over, as evenly as the pool allows [I]: nothing; problems;
    wrong answers to a problem; kinds of error, where the task can tell them."""


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
    """When a reflection step comes instead of a first-answer step."""

    mode: Literal["pool_size", "every_n_steps", "ratio", "never"] = "pool_size"
    """Summaries say only that stage 2 is periodic [S]; `never` is plain GRPO that keeps a pool."""
    size: PositiveInt | None = None
    """pool_size: fire when so many unused errors wait; none: the prompt batch of a first-answer step [I]."""
    n: PositiveInt = 10
    """every_n_steps: a reflection step after every n first-answer steps [I]."""
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """ratio: the share of all steps that reflect [I]."""


class Stage2Config(Section):
    steps_per_trigger: PositiveInt | Literal["drain"] = 1
    """Reflection steps in a row; `drain`: until the pool holds less than one batch of unused errors [I]."""
    prompts: PositiveInt | None = None
    """Errors of one reflection step; none: the prompt batch of a first-answer step [I]."""
    group_size: PositiveInt | None = None
    """Corrections sampled of each error; none: as in stage 1 [I]."""
    group_by: Literal["error", "question"] = "error"
    """Whose corrections share a baseline: those of one error, or of all errors of one question [I]."""


class ScrpoLoss(Section):
    tokens: Literal["reflection", "solution", "all"] = "reflection"
    """Which tokens of a correction carry the reward [S]."""
    failed: Literal["zero", "negative"] = "zero"
    """Failed corrections: no gradient (success-conditioned [S]) or their negative advantage (ordinary GRPO)."""
    advantage: Literal["group_norm", "group_mean", "raw"] = "group_norm"
    """As in stage 1 [I]."""
    normalizer: Literal["masked_tokens", "all_tokens", "constant"] = "masked_tokens"
    """As in stage 1; with masked_tokens only the tokens that `tokens` and `failed` leave are counted [I]."""
    stage2_weight: Positive = 1.0
    """Factor on the loss of reflection steps [I]."""


class ScrpoConfig(Section):
    """ScRPO (arXiv 2511.06065). Every default is [I] unless marked."""

    name: Literal["scrpo"] = "scrpo"
    reflect_every: PositiveInt | Literal["never"] | None = None
    """Short for trigger.mode every_n_steps with n = N, or trigger.mode never."""
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
    loss: ScrpoLoss = ScrpoLoss()
    kl: KlConfig = KlConfig()
    clip: ClipConfig = ClipConfig()

    @property
    def resolved_trigger(self) -> TriggerConfig:
        """The trigger with `reflect_every` applied."""
        if self.reflect_every is None:
            return self.trigger
        if self.reflect_every == "never":
            return self.trigger.model_copy(update={"mode": "never"})
        return self.trigger.model_copy(update={"mode": "every_n_steps", "n": self.reflect_every})


class RrrConfig(Section):
    """Reflect, Retry, Reward (arXiv 2505.24726): fresh failures only, no pool; the reflection earns the reward."""

    name: Literal["rrr"] = "rrr"
    attempts: PositiveInt = 1
    """First answers to each problem, which are not trained; every failed one is reflected on [I]."""
    loss: ScrpoLoss = ScrpoLoss(tokens="reflection", failed="negative")
    """Only reflection tokens are trained [C]; failed retries earn their negative advantage [I]."""
    overlong: Literal["mask", "keep"] = "mask"
    kl: KlConfig = KlConfig()
    """0.001 [S]."""
    clip: ClipConfig = ClipConfig()


class StageOneConfig(Section):
    """Stage I of SCoRe: the later turn learns while the earlier ones are held where they are."""

    until: Literal["share", "plateau"] = "share"
    """It ends at `share`, or before that when the last turn's accuracy is flat and the first turn has not moved [I]."""
    share: Share = 0.3333
    """Of the run's budget (tokens, or steps without a token budget); 0 leaves Stage I out [I]."""
    window: PositiveInt = 10
    """plateau: steps whose mean accuracy is held against that of the same number before them [I]."""
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


class ScoreConfig(Section):
    """SCoRe (arXiv 2409.12917)."""

    name: Literal["score"] = "score"
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


class OfflineConfig(Section):
    """What methods share that fit a fixed set: they sample it first (or take it from `runs`), then fit it."""

    runs: list[str] = Field(default_factory=list)
    """Runs whose recorded attempts are the data; none: the run samples its own, with the budget of tokens."""
    iterations: PositiveInt = 1
    """Rounds of sampling with the current policy and fitting; each has an equal share of the tokens."""
    epochs: PositiveInt = 2
    """Passes over the examples of a round [I]."""
    batch: PositiveInt = 64
    """Examples (pairs for dpo) of one optimizer step [I]."""
    per_problem: PositiveInt = 4
    """At most so many examples of one problem, drawn uniformly [I]."""

    @property
    def clip(self) -> ClipConfig:
        return ClipConfig(kind="none")

    @property
    def kl(self) -> KlConfig:
        return KlConfig(beta=0.0)


class SftConfig(OfflineConfig):
    """SFT on own right first answers (rejection sampling)."""

    name: Literal["sft"] = "sft"


class StarConfig(OfflineConfig):
    """STaR on two turns, as SCoRe's baseline (section 4): traces kept when y1 is wrong and y2 right."""

    name: Literal["star"] = "star"
    iterations: PositiveInt = 3
    """[C]."""
    plus: bool = False
    """D+: also right -> right [C]."""


class PairSftConfig(OfflineConfig):
    """Pair-SFT, as SCoRe's baseline (section 4): a wrong answer, then a right one to the same problem."""

    name: Literal["pair_sft"] = "pair_sft"
    plus: bool = False
    """D+: also right -> right [C]."""


class DpoConfig(OfflineConfig):
    """DPO (arXiv 2305.18290) on (right, wrong) first answers to one problem."""

    name: Literal["dpo"] = "dpo"
    beta: Positive = 0.1
    """[C]."""


MethodConfig = Annotated[
    GrpoConfig
    | DapoConfig
    | DrGrpoConfig
    | RlooConfig
    | GspoConfig
    | CispoConfig
    | ScrpoConfig
    | RrrConfig
    | ScoreConfig
    | SftConfig
    | StarConfig
    | PairSftConfig
    | DpoConfig,
    Field(discriminator="name"),
]
