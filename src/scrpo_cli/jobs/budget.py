"""What a recipe will cost, before anything is loaded: steps, rollouts, tokens, sizes and memory.

Sizes are exact (the model is built on torch's meta device, without weights, and the adapter put on it); tokens are
upper bounds; memory is an estimate. With P parameters of b bytes, A adapter parameters (float32), N padded tokens in
one micro-batch, L layers, h hidden, f feed-forward, a = heads x head size, k = key-value heads x head size, V words:

    weights       P b
    adapter       4 A (weights) + 4 A (gradients) + 8 A (Adam's two moments)
    activations   N L (28 h + (2b+4) a + 2b k + (3b+4) f)  bytes that autograd keeps, b = 2: a LoRA layer keeps its own
                  float32 copy of its input; b = 4: N L (16 h + 8 a + 8 k + 16 f), as those inputs are shared
                  with gradient checkpointing: N L b h, and one layer of the above
    logits        logits_chunk V x 4 x 5: the logits, their softmax and gradients in float32
    KV cache      rows (max_prompt_tokens + max_tokens) L 2 k b of one generate call
    sampling      rows V (3 x 4 + 2 x 8): scores in float32, the cumulative distribution in float64

Generating and training do not overlap: the peak is weights + adapter + the larger of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM

from scrpo_cli.errors import UserError, first_line
from scrpo_cli.layout import Pairs, Prose
from scrpo_cli.recipe.models import ModelConfig, Recipe
from scrpo_cli.training.adapters import put_weights, read_config, read_shapes, refuse_other_base, with_empty_adapter
from scrpo_cli.training.policy import add_adapter, check_trainable, pick_device, pick_dtype, source_of

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    try:
        sizes, note = model_sizes(recipe), ""
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, StrictDataclassError) as error:
        sizes, note = None, f"The sizes of {recipe.model.name} are not known here: {first_line(error)}"
    per_step = {name: phase.rollouts for name, phase in needs.phases.items() if phase.rollouts}
    return Budget(recipe.optim.steps, per_step, needs.turns, needs.context, rollouts, tokens, sizes, note)


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
    memory = memory_parts(recipe, config.get_text_config(), parameters, adapter, dtype.itemsize)
    training = memory["activations"] + memory["logits"]
    generating = memory["kv_cache"] + memory["sampling"]
    return Sizes(
        parameters,
        adapter,
        checkpoint=12 * adapter,
        disk=12 * adapter * (recipe.checkpoint.keep + 1),  # the next one is complete before the oldest goes
        memory=memory,
        peak=memory["weights"] + memory["adapter"] + max(training, generating),
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


def memory_parts(recipe: Recipe, config: Any, parameters: int, adapter: int, b: int) -> dict[str, int]:
    """The lines of the module's table, in bytes. `config` is the language model's; b is bytes per weight."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    k = (getattr(config, "num_key_value_heads", None) or heads) * head_size
    needs = recipe.method.needs(recipe.setting())
    longest, most_rows = needs.context, needs.rollouts
    rows = min(recipe.rollout.batch_size, most_rows)
    tokens = min(max(recipe.optim.tokens_per_microbatch, longest), most_rows * longest)
    layer = tokens * layer_activations(config, heads * head_size, k, b)
    kept = config.num_hidden_layers * layer
    if recipe.model.gradient_checkpointing:
        kept = config.num_hidden_layers * tokens * b * config.hidden_size + layer
    return {
        "weights": parameters * b,
        "adapter": 16 * adapter,
        "activations": kept,
        "logits": min(recipe.optim.logits_chunk, tokens) * config.vocab_size * 4 * 5,
        "kv_cache": rows * longest * config.num_hidden_layers * 2 * k * b,
        "sampling": rows * config.vocab_size * (3 * 4 + 2 * 8),
    }


def layer_activations(config: Any, a: int, k: int, b: int) -> int:
    """Bytes that one decoder layer keeps of one token for the backward pass."""
    h = config.hidden_size
    f = getattr(config, "intermediate_size", None) or 4 * h
    if b == 4:
        return 16 * h + 8 * a + 8 * k + 16 * f
    return 28 * h + (2 * b + 4) * a + 2 * b * k + (3 * b + 4) * f


def render(budget: Budget) -> RenderableType:
    """The budget, a line each; where the sizes are not known, the reason under it."""
    from rich.console import Group

    rows = {"steps, at most": f"{budget.steps:,}"}
    for phase, rollouts in budget.rollouts_per_step.items():
        rows[f"rollouts of a step '{phase}', at most"] = f"{rollouts:,}"
    rows["longest prompt and completion, tokens"] = f"{budget.context:,}"
    rows["rollouts, at most"] = f"{budget.rollouts:,}"
    rows["generated tokens, at most"] = f"{budget.generated_tokens:,}"
    s = budget.sizes
    if s is not None:
        rows["model parameters"] = f"{s.parameters:,}"
        rows["adapter parameters"] = f"{s.adapter_parameters:,}"
        rows["one checkpoint"], rows["disk for checkpoints"] = size(s.checkpoint), size(s.disk)
        rows |= {f"memory: {part.replace('_', ' ')}": size(amount) for part, amount in s.memory.items()}
        rows[f"memory at the peak, estimated ({s.dtype} on {s.device})"] = size(s.peak)
    return Group(Prose("Budget", "italic"), Pairs(rows), *([] if s else [Prose(budget.note)]))


def size(amount: int) -> str:
    """Bytes for a reader: 3.2 MiB."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
