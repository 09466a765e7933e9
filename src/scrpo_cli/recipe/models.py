"""The recipe: one validated document that says everything about an experiment. Pydantic only, no torch.

Evidence marks, on every value that a paper could have settled: [C] confirmed in the paper's text or code,
[S] second-hand, [I] our choice. The doc string under a field is its documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, field_validator, model_validator
from pydantic_core import PydanticCustomError

from scrpo_cli.errors import shown
from scrpo_cli.methods.base import MethodConfig, Setting
from scrpo_cli.methods.registry import method_class
from scrpo_cli.numbers import LONGEST_DEADLINE, MOST_PROCESSES, MOST_SAMPLES
from scrpo_cli.recipe.monitors import MonitorsConfig
from scrpo_cli.recipe.references import is_plugin
from scrpo_cli.section import HIGHEST, Count, Name, NonNegative, Number, Positive, PositiveInt, Section, Share, Tokens

MOST_RANK = 65536
"""More than any layer is wide."""
COLDEST, HOTTEST = 1e-3, 100.0
"""Logits that are divided by less, or more, are infinite or all the same in float32."""
MOST_ROLLOUTS = 1_000_000
"""Completions of one step, likewise."""


SECOND_TURNS = {
    "check": ("check_prompt",),
    "retry": ("retry_prompt",),
    "reflect": ("reflect_prompt",),
    "self_refine": ("feedback_prompt", "refine_prompt"),
}
"""What `eval.second_turn` may be, and the keys of `task` that hold what it asks."""


def _greedy_or_not(temperature: float) -> float:
    if 0 < temperature < COLDEST:
        raise PydanticCustomError("temperature", f"Input should be 0 (greedy) or at least {COLDEST:g}")
    return temperature


Temperature = Annotated[float, Field(ge=0, le=HOTTEST), AfterValidator(_greedy_or_not)]
Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class LoraConfig(Section):
    r: Annotated[int, Field(ge=1, le=MOST_RANK)] = 8
    """Rank."""
    alpha: PositiveInt = 16
    """The adapter's output is scaled by alpha / r."""
    targets: Annotated[str | list[str], Field(min_length=1)] = "all-linear"
    """Module names, or `all-linear` for every linear layer but the output layer, which takes no adapter."""


class ModelConfig(Section):
    name: Name = "tiny"
    """`tiny` or `think` (the embedded models), a directory beside the recipe or in the working directory, or a name on
    the hub."""
    revision: str | None = None
    """Hub revision; pin it for anything that will be reported."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 on CUDA, float32 on CPU. float16 is for sampling only: its gradients underflow."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a usable GPU."""
    threads: PositiveInt | None = None
    """CPU threads of torch, at most the machine's cores; none: 1 for models below 50M parameters (several threads
    collapse on a busy machine), else torch's own default."""
    attn: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """The attention implementation of transformers; the last one needs the flash-attn package."""
    trust_remote_code: bool = False
    """Run the code that comes with the model."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    adapter: str | None = None
    """A PEFT adapter directory to start from; none: a fresh adapter."""
    lora: LoraConfig = LoraConfig()


class ProblemsConfig(Section):
    source: Name
    """`tiny`; a data set of SCRPO_DATA_DIR (`gsm8k`, `math`, ...); a path to a JSONL file; or `hub:owner/name`."""
    split: Name = "train"
    limit: PositiveInt | None = None
    """Only the first so many problems."""
    revision: str | None = None
    """Hub revision, required for `hub:` sources."""


class ReflectionConfig(Section):
    """What a reflection prompt shows and how a correction is read: training, `correct` and `eval` share it."""

    show: Literal["full", "answer_part", "tail"] = "answer_part"
    """Of the earlier answer: all of it, what follows `</think>`, or its last tail_tokens [I]."""
    tail_tokens: PositiveInt = 2048
    """Also the bound on `answer_part` [I]."""
    reveal_wrong: bool = True
    """Say that the answer was wrong [C, abstract]; false asks task.check_prompt instead."""
    give_truth: bool = False
    """Append the reference answer: an ablation, it leaks the answer into the rewarded text [I]."""
    analysis: Name = "Analysis:"
    solution: Name = "Corrected Solution:"
    """The two labels that a summary names [S]. Reflection is everything before the solution marker."""
    think_is_reflection: bool = True
    """Whether `<think>...</think>` before the marker counts as reflection [I]."""
    require_marker: bool = True
    """Without the solution marker the reward is 0; false grades the whole text then [I]."""


class GradingConfig(Section):
    """How answers are graded, and how much of it may fail."""

    max_failed: Share = 0.1
    """Stop when the grader fails (`grader_error`) on more than this share of at least 20 answers; 1: never [I]."""
    deadline: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE)] = 5.0
    """Seconds for one answer; then its grading process is killed and the verdict is `timeout`."""
    processes: Annotated[int, Field(ge=1, le=MOST_PROCESSES)] | None = None
    """Grading processes; none: by CPU count, at most 8."""
    in_process: bool = False
    """Call task.grader in this process: faster to start, but no deadline and no protection from a crash."""


class SandboxConfig(Section):
    """What a program may do while task `code` runs it; docs/data.md. `task.grading.deadline` is its CPU time."""

    level: Literal["auto", "namespaces", "process"] = "auto"
    """How it is sandboxed; `auto` takes the strongest that works here. What cannot be had is refused."""
    memory_mib: PositiveInt = 1024
    """Of all its processes together [I]."""
    processes: PositiveInt = 32
    """Processes and threads at one time [I]."""
    file_mib: PositiveInt = 16
    """Size of one file [I]."""
    disk_mib: PositiveInt = 64
    """All files together [I]."""


class ThinkConfig(Section):
    """How hard the problems of task `think` are [I]. Fewer carries or lines: more first answers are right."""

    lines: Annotated[int, Field(ge=1, le=6)] = 4
    """Additions and subtractions of a problem."""
    carries: Annotated[int, Field(ge=0, le=6)] = 3
    """How many of them carry or borrow, at least; the embedded model nearly always gets these wrong in one go."""

    @model_validator(mode="after")
    def _no_more_carries_than_lines(self) -> ThinkConfig:
        if self.carries > self.lines:
            raise ValueError(f"{self.lines} lines cannot carry {self.carries} times: lower task.think.carries")
        return self


class TaskConfig(Section):
    name: str = "tiny"
    """How problems are read and answers graded: `tiny`, `think`, `math`, `code`, or your own (docs/plugins.md)."""
    grader: str | None = None
    """Your own function that grades instead of the task's grader: `module:function` or an entry point."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed to your own task or grader as they are."""
    grading: GradingConfig = GradingConfig()
    sandbox: SandboxConfig = SandboxConfig()
    think: ThinkConfig = ThinkConfig()
    """Task `think`: how hard its problems are."""
    shots: ProblemsConfig | None = None
    """Task `code`: worked examples, as turns of the conversation, before each problem of the same source."""
    train: ProblemsConfig = ProblemsConfig(source="tiny", split="train")
    """What training and `collect` sample on."""
    validation: ProblemsConfig | None = None
    """Evaluated every eval.every steps."""
    test: ProblemsConfig | None = None
    """Evaluated before the first and after the last step; none: validation."""
    system: str | None = None
    """A system message before the first turn."""
    prompt: str = "{problem}"
    """First turn; `{problem}` is replaced."""
    reflect_prompt: str = (
        "Your answer is wrong. Explain the mistake under the heading '{analysis}', "
        "then solve the problem again under the heading '{solution}'."
    )
    """Second turn when the first answer is known to be wrong [I]; `{analysis}` and `{solution}` become the markers."""
    check_prompt: str = (
        "There might be an error in the solution above because of lack of understanding of the question. "
        "Please correct the error, if any, and rewrite the solution. Only output the final solution!"
    )
    """Second turn that does not say whether the first answer was right (SCoRe, App. C) [C]."""
    retry_prompt: str = "Your answer is wrong. Solve the problem again."
    """Second turn without reflection, the control of a reflection [I]."""
    feedback_prompt: str = (
        "Give feedback on the solution above. Go through it step by step, and name every error together with how to "
        "mend it. If there is none, say so. Do not solve the problem again yet."
    )
    """Self-Refine's first further turn (Madaan et al. 2023, arXiv 2303.17651: feedback, then refine); our words [I]."""
    refine_prompt: str = "In the light of this feedback, write the whole solution again with its final answer."
    """Self-Refine's refine turn, after the feedback [I]."""
    verdict_prompt: str = "Is the solution above right? Answer with one word: yes or no."
    """What the verdict gate asks of a first answer [I]."""
    reflection: ReflectionConfig = ReflectionConfig()
    max_prompt_tokens: PositiveInt = 1024
    """A problem whose first prompt is longer is refused before anything is sampled."""

    @model_validator(mode="after")
    def _options_have_a_taker(self) -> TaskConfig:
        if self.options and not (is_plugin(self.name) or is_plugin(self.grader, "task.grader")):
            raise ValueError("task.options are for your own task or grader, and task.name and task.grader name none")
        return self

    @model_validator(mode="after")
    def _only_code_has_worked_examples(self) -> TaskConfig:
        if self.shots and self.name in ("tiny", "think", "math"):
            raise ValueError(f"the task {self.name!r} has no worked examples: task.shots needs task.name: code")
        return self

    @model_validator(mode="after")
    def _only_think_has_a_difficulty(self) -> TaskConfig:
        if self.think != ThinkConfig() and self.name != "think":
            raise ValueError(f"the task {self.name!r} has no lines and carries: task.think needs task.name: think")
        return self

    def reflection_request(self, truth: str = "the answer") -> str:
        """What a reflection prompt ends with, markers filled in."""
        cfg = self.reflection
        request = self.reflect_prompt if cfg.reveal_wrong else self.check_prompt
        request = request.replace("{analysis}", cfg.analysis).replace("{solution}", cfg.solution)
        return f"{request} The right answer is {truth}." if cfg.give_truth else request

    @field_validator("prompt")
    @classmethod
    def _shows_the_problem(cls, prompt: str) -> str:
        if "{problem}" not in prompt:
            raise ValueError("task.prompt must contain {problem}: without it no model sees the problem")
        return prompt


class VllmConfig(Section):
    """Of `rollout.engine` vllm and vllm_server."""

    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Share of the GPU's memory that vLLM takes at its start, the weights included; the update needs the rest."""
    context: PositiveInt | None = None
    """Longest sequence; null: as long as the model can and the memory allows."""
    eager: bool = False
    """Start in seconds, and sample more slowly: no compilation, no CUDA graphs."""
    rest: bool = True
    """Give back the memory of keys and values during the update (CUDA)."""
    timeout: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE)] = 3600.0
    """Seconds without a step of vLLM, after which it is ended, or without an answer of a server."""
    urls: list[str] = Field(default_factory=list)
    """Servers for vllm_server, each a single replica: http://host:8000."""
    adapters: str | None = None
    """Directory for the adapter's versions that servers elsewhere see under the same path; null: this machine's."""


class CorrectionConfig(Section):
    """Importance weights between the engine that samples and the trainer, whose log-probs differ where the engine
    computes them in another way (vLLM; transformers in 16 bits). Without effect where both are one."""

    level: Literal["token", "sequence", "none"] = "token"
    """Whether a token has its own weight, or that of its whole row; none: no correction."""
    mode: Literal["truncate", "mask"] = "truncate"
    """What happens to weights above `cap`: they become `cap`, or 0."""
    cap: Annotated[float, Field(ge=1, le=HIGHEST)] = 2.0


class RolloutConfig(Section):
    engine: Literal["auto", "transformers", "vllm", "vllm_server"] = "auto"
    """What samples; auto: vLLM where CUDA and vLLM are there, else transformers."""
    vllm: VllmConfig = Field(default_factory=VllmConfig)
    correction: CorrectionConfig = Field(default_factory=CorrectionConfig)
    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST)] = 1.0
    """Of sampling, and of the log-probs of what was sampled: methods that fit recorded examples (sft, star, pair_sft,
    dpo) train log-probs at temperature 1. Training samples the policy itself: no top-p."""
    max_tokens: PositiveInt = 1024
    """Generated tokens of one completion at most; one that reaches it is truncated."""
    group_size: PositiveInt = 8
    """Completions of one prompt."""
    batch_size: PositiveInt = 128
    """Rows of one generate call (memory, not mathematics)."""


class OptimConfig(Section):
    lr: Positive = 1e-6
    """Learning rate of AdamW."""
    steps: PositiveInt = 500
    """Trial and reflection steps together, at most."""
    max_generated_tokens: Tokens | None = None
    """Budget: stop at so many generated tokens, however many steps are left. The last step is cut to the problems that
    are expected to reach it (whole groups, at least one), by what the steps before cost with their later rounds."""
    max_seconds: PositiveInt | None = None
    """Budget: stop after the step in which so many seconds of training steps are over, evaluations aside. Two runs of
    one recipe end at different steps then."""
    prompts_per_step: PositiveInt = 128
    """Problems of one first-answer step."""
    minibatches: PositiveInt = 1
    """Optimizer steps per batch of rollouts; above 1 the later ones are off-policy and the clip matters."""
    tokens_per_microbatch: PositiveInt = 32768
    """Bound on the tokens of one forward pass, packed or padded (memory, not mathematics)."""
    share_prefixes: bool = True
    """Compute what rows begin with in common once (speed, not mathematics), where the architecture takes it."""
    logits_chunk: PositiveInt = 2048
    """Tokens whose logits exist at one time; on a CPU fewer where the vocabulary is large."""
    weight_decay: NonNegative = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    grad_clip: Positive = 1.0
    """Largest norm of the gradient."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Of the learning rate over `steps`, after the warm-up."""
    warmup_steps: Count = 0
    """Optimizer steps in which the learning rate rises linearly."""


Turns = Annotated[int, Field(ge=1, le=10)]


class GateConfig(Section):
    """Ask the second turn where the confidence that `signal` gives a first answer is below `threshold` [I]."""

    signal: Literal["none", "logprob", "mean_logprob", "agreement", "verdict"] = "none"
    """Mean log-prob of the final answer's tokens; of all its tokens; share of the problem's samples with the same final
    answer; the model's own yes or no; none: no gate [I]."""
    threshold: Number | Literal["never", "always"] | None = None
    """In the unit of the signal; none: fitted on task.validation [I]."""


class ProtocolConfig(Section):
    """How the answers of an evaluation are sampled. The defaults hold where no benchmark says otherwise."""

    samples: Samples = 4
    turns: Turns = 1
    temperature: Temperature = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: PositiveInt | None = None


class EvalConfig(Section):
    every: PositiveInt | None = None
    """Steps between evaluations on task.validation; none: only before the first and after the last step."""
    every_tokens: Tokens | None = None
    """Generated tokens between them, after the step that reaches each multiple: steps of methods differ in price."""
    benchmarks: list[str] = Field(default_factory=list)
    """What `scrpo eval` runs: benchmarks and suites (`scrpo eval --list`), benchmark files of your own, data sets."""
    limit: PositiveInt | None = None
    """Only the first so many problems of each benchmark."""
    contamination: Literal["warn", "refuse", "off"] = "warn"
    """What to do when held-out problems are among the training problems (docs/evaluation.md)."""
    prompt: Literal["benchmark", "recipe"] = "benchmark"
    """Whose prompts a benchmark is asked with: its own, or those of the section task."""
    samples: Samples | None = None
    """Answers to each problem; none: the benchmark's own number, 4 without a benchmark."""
    turns: Turns | None = None
    """After each first answer also ask, turn by turn, what second_turn names; none: the benchmark's own, else 1."""
    second_turn: Literal["check", "self_refine", "reflect", "retry"] = "check"
    """task.check_prompt, not told whether the answer is right; Self-Refine's feedback, then refine; task.reflect_prompt
    on every answer, right or wrong; task.retry_prompt. Turns after the second one ask it again."""
    gate: GateConfig = GateConfig()
    """When a second turn is worth asking: `scrpo eval` with two turns, and `scrpo correct`."""
    repair: bool = False
    """Also show each wrong first answer to the model, have it reflect, and report the repair rate."""
    scaling: bool = False
    """Two turns: 2K first answers by majority against K answers each followed by one correction, over K."""
    temperature: Temperature | None = None
    """0 is greedy; none: the benchmark's own, else 0.6."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """None: the benchmark's own, else 0.95."""
    max_tokens: PositiveInt | None = None
    """None: the benchmark's own, else as in rollout."""


class CheckpointConfig(Section):
    every: PositiveInt = 10
    """Steps between checkpoints; the last step always has one."""
    keep: PositiveInt = 2
    """The newest so many are kept."""


class WandbConfig(Section):
    mode: Literal["auto", "online", "offline", "off"] = "auto"
    """auto: online when logged in, else offline."""
    project: Name | None = None
    """None: WANDB_PROJECT, else scrpo."""
    entity: str | None = None
    """None: WANDB_ENTITY, else your own."""
    group: str | None = None
    """None: WANDB_RUN_GROUP, else the sweep."""
    tags: list[str] = Field(default_factory=list)
    """None: WANDB_TAGS."""


class TrackingConfig(Section):
    wandb: WandbConfig = WandbConfig()


DEFAULT_METHOD = "scrpo"


def _method_section(data: Any) -> Any:
    """The section under the rules of the method that it names."""
    if not isinstance(data, Mapping):
        return data
    name = data.get("name", DEFAULT_METHOD)
    if not isinstance(name, str) or not name:
        raise ValueError(f"'method.name' should be the name of a method, got {shown(name)}")
    return method_class(name).Config.model_validate({"name": name, **data})


class Recipe(Section):
    """A whole experiment."""

    name: str = "unnamed"
    """Without one, a recipe is called like its file."""
    description: str = ""
    seed: Count = 0
    """Every random choice of a run depends on it."""
    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    rollout: RolloutConfig = RolloutConfig()
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_method_section)] = Field(
        default_factory=lambda: _method_section({})
    )
    optim: OptimConfig = OptimConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitors: MonitorsConfig = MonitorsConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _the_method_can_work(self) -> Recipe:
        rollouts = self.method.needs(self.setting()).rollouts
        if rollouts > MOST_ROLLOUTS:
            what = f"a step would sample {rollouts:,} completions, and {MOST_ROLLOUTS:,} is the most"
            raise ValueError(f"{what}; lower optim.prompts_per_step or rollout.group_size")
        return self

    def setting(self, count_tokens: Callable[[str], int] = lambda text: len(text) // 3 + 16) -> Setting:
        """What the method is told of this recipe. Without a tokenizer a token has three letters, about."""
        reflection, longest = self.task.reflection, self.rollout.max_tokens
        return Setting(
            prompts_per_step=self.optim.prompts_per_step,
            group_size=self.rollout.group_size,
            max_tokens=longest,
            max_prompt_tokens=self.task.max_prompt_tokens,
            shown_tokens=longest if reflection.show == "full" else min(longest, reflection.tail_tokens),
            reflect_prompt=self.task.reflection_request(),
            check_prompt=self.task.check_prompt,
            steps=self.optim.steps,
            token_budget=self.optim.max_generated_tokens,
            minibatches=self.optim.minibatches,
            seed=self.seed,
            count_tokens=count_tokens,
        )

    def protocol(self, own: ProtocolConfig | None = None) -> ProtocolConfig:
        """How an evaluation samples: what `eval` says, else the benchmark's `own`, else the defaults."""
        given = {key: value for key in ProtocolConfig.model_fields if (value := getattr(self.eval, key)) is not None}
        given.setdefault("max_tokens", (own and own.max_tokens) or self.rollout.max_tokens)
        return (own or ProtocolConfig()).model_copy(update=given)
