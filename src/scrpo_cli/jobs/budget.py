"""What a recipe will cost, by arithmetic, before anything is loaded: steps, rollouts, tokens, sizes and memory.

Sizes are exact (the model is built on torch's meta device, without weights, and the adapter put on it); tokens are
upper bounds, as answers end where the policy ends them; memory is an estimate. Hours are not known here: they depend on
the machine and on how long answers are, which `jobs.measure` measures.

With P parameters of b bytes, A adapter parameters (float32), N padded tokens in one micro-batch, L layers, h hidden, f
feed-forward, a = heads x head size, k = key-value heads x head size, V words:

    weights       P b
    adapter       4 A (weights) + 4 A (gradients) + 8 A (Adam's two moments)
    activations   N L (28 h + (2b+4) a + 2b k + (3b+4) f)  bytes that autograd keeps, b = 2: a LoRA layer keeps its own
                  float32 copy of its input; b = 4: N L (16 h + 8 a + 8 k + 16 f), as those inputs are shared
                  with gradient checkpointing: N L b h, and one layer of the above
    logits        logits_chunk V x 4 x 2: two arrays of logits in float32 (on a CPU, of fewer tokens: `training.head`);
                  where a divergence over the whole vocabulary is trained, as many as LOGITS says
    KV cache      rows (longest prompt + max_tokens) L 2 k b of one generate call, in training or in an evaluation
    sampling      rows V (3 x 4 + 2 x 8): scores in float32, the cumulative distribution in float64
    merged adapter  4 bytes of each weight that has an adapter, while sampling in float32

The longest prompt holds the answers that it shows: earlier turns, or the one that is reflected on. Generating and
training do not overlap: the peak is weights + adapter + the larger of the two. vLLM in this program has the weights
once more and a cache of its own, which is what its share of the GPU leaves (`rollout.vllm.gpu_memory`, not counted: it
is given back for the update); vLLM servers have all of that elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM

from scrpo_cli.errors import ScrpoError, UserError, first_line
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.layout import Pairs, Prose
from scrpo_cli.recipe.models import ModelConfig, Recipe
from scrpo_cli.rollout.engines import chosen_engine
from scrpo_cli.tasks import make_task
from scrpo_cli.training.adapters import put_weights, read_config, read_shapes, refuse_other_base, with_empty_adapter
from scrpo_cli.training.head import tokens_at_once
from scrpo_cli.training.policy import add_adapter, check_trainable, pick_device, pick_dtype, source_of

if TYPE_CHECKING:
    from rich.console import RenderableType

DAY = 86_400.0
"""Seconds; a run that takes longer is said to."""
ARITHMETIC = "This is arithmetic: nothing was run, and it says nothing of hours. --measure takes them on this machine."

LOGITS = {"": 2, "reverse_kl": 5, "forward_kl": 5, "jsd": 8}
"""Arrays (tokens, vocabulary) in float32 that an update holds at once, by the divergence that it trains; measured, and
the same in bfloat16: `tests/bench/test_logits_memory.py`."""


@dataclass(frozen=True)
class Sizes:
    """What depends on the model; everything in bytes but the two counts. `memory` names the parts of the estimate."""

    parameters: int
    adapter_parameters: int
    checkpoint: int
    disk: int
    memory: Mapping[str, int]
    peak: int
    dtype: str
    device: str
    positions: int | None
    """How long a sequence the model can take."""


@dataclass(frozen=True)
class EvaluationWork:
    """What the run's own evaluations sample, at most: `task.test` (else `task.validation`) before and after training,
    `task.validation` in between. `scrpo eval` afterwards is not in it.
    """

    problems: Mapping[str, int]
    """Of each split, cut at `eval.limit`."""
    times: Mapping[str, int]
    """How often each split is evaluated."""
    answers: int
    """To one problem: samples, further turns and repairs."""
    context: int
    """Tokens of the longest conversation with its last answer."""
    rollouts: int
    generated_tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the work, and the sizes, or in `note` why they are not known."""

    steps: int
    rollouts_per_step: Mapping[str, int]
    """By the phases of the method."""
    turns: int
    """Answers in a row of one conversation."""
    context: int
    """Tokens of the longest prompt with its completion."""
    rollouts: int
    generated_tokens: int
    prompt_tokens: int
    """Of all prompts, with the answers that they show; a prompt counts for each of its answers."""
    evaluation: EvaluationWork | None
    """None where the recipe evaluates on nothing, or on data that is not here."""
    sizes: Sizes | None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return asdict(self)


def estimate(recipe: Recipe) -> Budget:
    """The budget of `scrpo train`. A model that cannot be looked up leaves `sizes` empty and says why."""
    needs = recipe.method.needs(recipe.setting())
    rollouts = recipe.optim.steps * needs.rollouts
    tokens = rollouts * recipe.rollout.max_tokens
    if recipe.optim.max_generated_tokens:  # the step that reaches the budget is finished, and at most full
        tokens = min(tokens, recipe.optim.max_generated_tokens - 1 + needs.rollouts * recipe.rollout.max_tokens)
    sizes, note = known_sizes(recipe)
    return Budget(
        steps=recipe.optim.steps,
        rollouts_per_step={name: phase.rollouts for name, phase in needs.phases.items() if phase.rollouts},
        turns=needs.turns,
        context=needs.context,
        rollouts=rollouts,
        generated_tokens=tokens,
        prompt_tokens=rollouts * (needs.context - recipe.rollout.max_tokens),
        evaluation=evaluation_work(recipe, recipe.optim.steps, tokens),
        sizes=sizes,
        note=note,
    )


def evaluation_work(recipe: Recipe, steps: int, tokens: int) -> EvaluationWork | None:
    """Of a run of so many steps and generated tokens."""
    times = evaluation_times(recipe, steps, tokens)
    try:
        with closing(make_task(recipe.task, workers=1)) as task:
            problems = {split: len(task.problems(getattr(recipe.task, split))[: recipe.eval.limit]) for split in times}
    except (ScrpoError, ImportError):  # a check of its own, and the run itself, say what is wrong with the data
        return None
    if not times:
        return None
    protocol = Protocol.of(recipe)
    context = evaluation_context(recipe, protocol)
    rollouts = sum(times[split] * problems[split] for split in times) * protocol.samples * protocol.answers
    prompt_tokens = rollouts * (context - protocol.max_tokens)
    answers = protocol.samples * protocol.answers
    generated = rollouts * protocol.max_tokens
    return EvaluationWork(problems, times, answers, context, rollouts, generated, prompt_tokens)


def evaluation_times(recipe: Recipe, steps: int, tokens: int) -> dict[str, int]:
    """How often each split is evaluated, at most; empty without a split."""
    task, cfg = recipe.task, recipe.eval
    times = {"test": 2} if task.test else {"validation": 2} if task.validation else {}
    between = (steps - 1) // cfg.every if cfg.every else 0  # nothing comes between the last step and the end
    between += (tokens - 1) // cfg.every_tokens if cfg.every_tokens else 0
    if task.validation and between > 0:
        times["validation"] = times.get("validation", 0) + between
    return times


def evaluation_context(recipe: Recipe, protocol: Protocol) -> int:
    """Tokens of the longest conversation of an evaluation: the problem, its answers, what is asked between them."""
    asked = [*protocol.second_turn_prompts.values(), *([recipe.task.reflection_request()] if protocol.repair else [])]
    between = max(map(recipe.setting().count_tokens, asked), default=0)
    return recipe.task.max_prompt_tokens + protocol.in_a_row * (protocol.max_tokens + between) - between


def known_sizes(recipe: Recipe) -> tuple[Sizes | None, str]:
    """The sizes, or why they are not known."""
    try:
        return model_sizes(recipe), ""
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, StrictDataclassError) as error:
        return None, f"The sizes of {recipe.model.name} are not known here: {first_line(error)}"


def model_sizes(recipe: Recipe) -> Sizes:
    """Builds model and adapter without weights; OSError where the model's config cannot be had."""
    cfg = recipe.model
    try:
        source = source_of(cfg)
    except UserError as error:
        raise OSError(error.what) from error
    config = AutoConfig.from_pretrained(**source)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, trust_remote_code=cfg.trust_remote_code)
        parameters = base.num_parameters()
        model = with_adapter(base.requires_grad_(False), cfg)
    check_trainable(model, cfg)
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    device = pick_device(cfg) if cfg.device == "auto" else cfg.device
    dtype = pick_dtype(cfg, device)
    memory = memory_parts(recipe, config.get_text_config(), parameters, adapter, dtype.itemsize, device == "cuda")
    memory |= memory_of_engine(recipe, memory, merged_parameters(model) if dtype.itemsize == 4 else 0, device)
    return Sizes(
        parameters,
        adapter,
        checkpoint=12 * adapter,
        disk=12 * adapter * (recipe.checkpoint.keep + 1),  # the next one is complete before the oldest goes
        memory=memory,
        peak=standing(memory) + max(training(memory), generating(memory)),
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        positions=getattr(config.get_text_config(), "max_position_embeddings", None),
    )


def with_adapter(base: Any, cfg: ModelConfig) -> Any:
    """The adapter that training will use: of the shape of the one at `cfg.adapter`, or a fresh one."""
    if cfg.adapter:
        config = read_config(cfg.adapter)
        refuse_other_base(config.base_model_name_or_path, base.name_or_path, cfg.adapter)
        model = with_empty_adapter(base, config, cfg.adapter)
        put_weights(model, read_shapes(cfg.adapter), cfg.adapter, assign=True)
        return model
    return add_adapter(base, cfg, seed=0)


def memory_parts(recipe: Recipe, config: Any, parameters: int, adapter: int, b: int, on_cuda: bool) -> dict[str, int]:
    """The lines of the module's table, in bytes. `config` is the language model's; b is bytes per weight."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    k = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    needs = recipe.method.needs(recipe.setting())
    longest, most_rows = needs.context, needs.rollouts
    rows = min(recipe.rollout.batch_size, most_rows)
    cached = rows * longest
    if evaluation_times(recipe, recipe.optim.steps, 0):
        cached = max(cached, recipe.rollout.batch_size * evaluation_context(recipe, Protocol.of(recipe)))
        rows = recipe.rollout.batch_size
    tokens = min(max(recipe.optim.tokens_per_microbatch, longest), most_rows * longest)
    layer = tokens * layer_activations(config, heads * head_size, k, b)
    kept = config.num_hidden_layers * layer
    if recipe.model.gradient_checkpointing:
        kept = config.num_hidden_layers * tokens * b * config.hidden_size + layer
    return {
        "weights": parameters * b,
        "adapter": 16 * adapter,
        "activations": kept,
        "logits": logits_at_once(recipe, tokens, config.vocab_size, on_cuda) * config.vocab_size * 4,
        "kv_cache": cached * config.num_hidden_layers * 2 * k * b,
        "sampling": rows * config.vocab_size * (3 * 4 + 2 * 8),
    }


def memory_of_engine(recipe: Recipe, memory: Mapping[str, int], merged: int, device: str) -> dict[str, int]:
    """What depends on who samples: ours has a key-value cache, and in float32 a second copy of the `merged` weights;
    vLLM in this program has the base model once more, and its cache is what its share of the GPU leaves; a server has
    all of it elsewhere.
    """
    engine: str = recipe.rollout.engine
    with suppress(UserError):  # what is missing is said where it is opened
        engine = chosen_engine(recipe.rollout, device)
    if engine == "transformers":
        return {"merged_adapter": merged * 4}
    return {"kv_cache": 0, "sampling": 0} | ({"vllm_weights": memory["weights"]} if engine == "vllm" else {})


def merged_parameters(model: Any) -> int:
    """Weights that have an adapter, which is merged into a copy of them for sampling."""
    layers = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def standing(memory: Mapping[str, int]) -> int:
    """Bytes that are taken all the time."""
    return memory["weights"] + memory["adapter"] + memory.get("vllm_weights", 0)


def training(memory: Mapping[str, int]) -> int:
    return memory["activations"] + memory["logits"]


def generating(memory: Mapping[str, int]) -> int:
    return memory["kv_cache"] + memory["sampling"] + memory.get("merged_adapter", 0)


def logits_at_once(recipe: Recipe, tokens: int, words: int, on_cuda: bool) -> int:
    """Rows of logits that are alive at once, in all arrays together."""
    kind, chunk = recipe.method.whole_vocabulary, recipe.optim.logits_chunk
    return LOGITS[kind] * min(chunk if kind else tokens_at_once(chunk, words, on_cuda), tokens)


def layer_activations(config: Any, a: int, k: int, b: int) -> int:
    """Bytes that one decoder layer keeps of one token for the backward pass."""
    h = config.hidden_size
    f = getattr(config, "intermediate_size", None) or 4 * h
    if b == 4:
        return 16 * h + 8 * a + 8 * k + 16 * f
    return 28 * h + (2 * b + 4) * a + 2 * b * k + (3 * b + 4) * f


def render(budget: Budget, measured: bool = False) -> RenderableType:
    """The budget, a line each; where the sizes are not known, the reason under it. Without a measurement beside it, it
    says that it is arithmetic.
    """
    from rich.console import Group

    rows = {"steps, at most": f"{budget.steps:,}"}
    for phase, rollouts in budget.rollouts_per_step.items():
        rows[f"rollouts of a step '{phase}', at most"] = f"{rollouts:,}"
    rows["longest prompt and completion, tokens"] = f"{budget.context:,}"
    rows["rollouts, at most"] = f"{budget.rollouts:,}"
    rows["generated tokens, at most"] = f"{budget.generated_tokens:,}"
    rows["prompt tokens with shown answers, at most"] = f"{budget.prompt_tokens:,}"
    if (e := budget.evaluation) is not None:
        often = ", ".join(f"{e.times[split]} x {e.problems[split]:,} problems of task.{split}" for split in e.times)
        rows["evaluations"] = f"{often}, {e.answers} answers each at most"
        rows["generated tokens of evaluations, at most"] = f"{e.generated_tokens:,}"
        rows["prompt tokens of evaluations, at most"] = f"{e.prompt_tokens:,}"
    s = budget.sizes
    if s is not None:
        rows["model parameters"] = f"{s.parameters:,}"
        rows["adapter parameters"] = f"{s.adapter_parameters:,}"
        rows["one checkpoint"], rows["disk for checkpoints"] = size(s.checkpoint), size(s.disk)
        rows |= {f"memory: {part.replace('_', ' ')}": size(amount) for part, amount in s.memory.items()}
        rows[f"memory at the peak, estimated ({s.dtype} on {s.device})"] = size(s.peak)
    notes = [*([] if s else [budget.note]), *([] if measured else [ARITHMETIC])]
    return Group(Prose("Budget", "italic"), Pairs(rows), *map(Prose, notes))


def size(amount: int) -> str:
    """Bytes for a reader: 3.2 MiB."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """For a reader, with two digits that count: 45 s, 12 min, 3.2 h, 19 days."""
    for unit, length in (("days", 2 * DAY), ("h", 2 * 3600.0), ("min", 120.0)):
        if seconds >= length:
            value = seconds / {"days": DAY, "h": 3600.0, "min": 60.0}[unit]
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
