"""The policy: a base model with a LoRA adapter on it. The reference is the same module with the adapter off."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ModelConfig

transformers.utils.logging.disable_progress_bar()  # one bar a shard would tear our own display
SMALL_MODEL = 50_000_000  # below this, several threads cost more than they bring and collapse on a busy machine


@dataclass
class Policy:
    """`model` is a PeftModel; `version` counts adapter updates."""

    model: Any
    tokenizer: Any
    version: int = 0
    frozen: list[torch.Tensor] | None = None
    """Adapter weights of the reference, in the order of `trainable`; none: the base model is the reference."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the model is the reference policy: the adapter off, or as it was when it was frozen."""
        return self.model.disable_adapter() if self.frozen is None else self.swapped(self.frozen)

    def set_reference(self, which: str) -> None:
        """From now on the reference is the `policy` as it is, or the `base` model."""
        self.frozen = [p.detach().clone() for p in self.trainable()] if which == "policy" else None

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, layers compute their activations again in the backward pass, if the recipe asks for that.

        transformers does so in train mode only. All other modules stay in eval mode: the base model's own dropout is
        never on.
        """
        layers = [m for m in self.model.modules() if vars(m).get("gradient_checkpointing")]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    @contextmanager
    @torch.no_grad()
    def swapped(self, weights: Sequence[torch.Tensor]) -> Iterator[None]:
        """Other adapter weights for as long as the context lasts; only for passes without a gradient."""
        mine = [p.detach().clone() for p in self.trainable()]
        for p, other in zip(self.trainable(), weights, strict=True):
            p.copy_(other)
        try:
            yield
        finally:
            for p, own in zip(self.trainable(), mine, strict=True):
                p.copy_(own)

    def trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def adapter_hash(self) -> str:
        """SHA-256 over the trainable weights, in name order."""
        digest = hashlib.sha256()
        for name, p in sorted(self.model.named_parameters()):
            if p.requires_grad:
                digest.update(name.encode())
                digest.update(p.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()


def model_path(name: str) -> str:
    """`tiny` is the embedded model; anything else is a local directory or a hub name."""
    return str(embedded_model_dir()) if name == "tiny" else name


def pick_device(cfg: ModelConfig) -> str:
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda and this machine has no usable CUDA GPU.", "", "Use device: auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device


def pick_dtype(cfg: ModelConfig, device: str) -> torch.dtype:
    if cfg.dtype == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    return getattr(torch, cfg.dtype)


def load_tokenizer(cfg: ModelConfig) -> Any:
    path = model_path(cfg.name)
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():  # no hub name
        raise UserError("The model directory does not exist.", f"model.name: {cfg.name}", "Check the path.")
    fix = "Give a directory that holds tokenizer.json (or a hub name with network access)."
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=cfg.revision, trust_remote_code=cfg.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(f"No tokenizer could be loaded: {first_line(err)}", f"model.name: {cfg.name}", fix) from err
    if not tokenizer.encode("1", add_special_tokens=False):  # without files, transformers makes one without words
        raise UserError("No tokenizer could be loaded: it knows no words.", f"model.name: {cfg.name}", fix)
    return tokenizer


def load_base_model(cfg: ModelConfig) -> Any:
    """The base model on its device, frozen."""
    device = pick_device(cfg)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_path(cfg.name),
            revision=cfg.revision,
            dtype=pick_dtype(cfg, device),
            attn_implementation=cfg.attn,
            trust_remote_code=cfg.trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as err:
        raise UserError(
            f"The model could not be loaded: {first_line(err)}",
            f"model.name: {cfg.name}",
            "Give a directory with config.json and weights, or a hub name; `scrpo doctor --recipe R` checks it.",
        ) from err
    refuse_scaled_logits(model)
    set_threads(cfg, sum(p.numel() for p in model.parameters()))
    model.requires_grad_(False)
    return model.to(device)  # type: ignore[arg-type]  # a decorator hides the method's own signature


def refuse_scaled_logits(model: Any) -> None:
    """Log-probs come from hidden states and the output layer; models that do more to their logits would be wrong."""
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise UserError(
                f"This architecture changes its logits after the output layer ({key}), which is not supported.",
                f"model: {model.config.model_type}",
                "Use a model without it (Qwen, Llama, Mistral families).",
            )


def set_threads(cfg: ModelConfig, parameters: int) -> None:
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    elif parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def load_policy(cfg: ModelConfig, seed: int) -> Policy:
    """Base model, tokenizer and adapter: the one at `cfg.adapter`, or a fresh one that starts as the identity."""
    tokenizer = load_tokenizer(cfg)
    base = load_base_model(cfg)
    if cfg.gradient_checkpointing:
        enable_checkpointing(base)
    return Policy(add_adapter(base, cfg, seed), tokenizer)


def enable_checkpointing(base: Any) -> None:
    """For `Policy.recomputing`. Its layers are in train mode, so dropout rates that they hold themselves become 0."""
    if not base.supports_gradient_checkpointing:
        fix = "Set model.gradient_checkpointing=false."
        raise UserError("This architecture has no gradient checkpointing.", f"model: {base.config.model_type}", fix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name is not in every version that we admit
        base.gradient_checkpointing_enable({"use_reentrant": False})
    for module in base.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def add_adapter(base: Any, cfg: ModelConfig, seed: int) -> Any:
    """The model with its adapter, in eval mode: dropout, the adapter's own included, is never on."""
    if cfg.adapter:
        return load_adapter(base, cfg.adapter)
    lora = PeftLoraConfig(
        r=cfg.lora.r,
        lora_alpha=cfg.lora.alpha,
        target_modules=cfg.lora.targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():  # peft draws the adapter's start from the global stream
        warnings.simplefilter("ignore")  # peft asks transformers by an older name; of tied weights we speak ourselves
        torch.manual_seed(seed)
        try:
            return get_peft_model(base, lora).eval()
        except (ValueError, re.error) as err:
            fix = "Name modules of the model, or use all-linear."
            raise UserError(
                f"No adapter fits: {first_line(err)}", f"model.lora.targets: {cfg.lora.targets}", fix
            ) from err


def load_adapter(base: Any, directory: str) -> Any:
    if not (Path(directory) / "adapter_config.json").is_file():
        raise UserError("Not an adapter directory: adapter_config.json is missing.", directory, "Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            return PeftModel.from_pretrained(base, directory, is_trainable=True).eval()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as err:
        fix = "Use the adapter with the base model that it was trained on."
        raise UserError(f"The adapter could not be loaded: {first_line(err)}", directory, fix) from err


def check_trainable(model: Any, cfg: ModelConfig) -> None:
    """Refuse what can be sampled from but not trained: a number format that underflows, and adapters that the log-probs
    of training would not see.
    """
    if cfg.dtype == "float16":
        what = "Training in float16 is refused, since small gradients become zero in it."
        fix = "Use auto, bfloat16 or float32; eval, collect and correct only sample and take float16."
        raise UserError(what, "model.dtype: float16", fix)
    base, config = model.get_base_model(), model.active_peft_config
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    adapted = any(p.requires_grad for layer in ends if layer is not None for p in layer.parameters())
    if adapted or config.is_prompt_learning or getattr(config, "modules_to_save", None):
        what = "Adapters of the embeddings or the output layer, prompts and modules_to_save cannot be trained."
        where = f"model.adapter: {cfg.adapter}" if cfg.adapter else f"model.lora.targets: {cfg.lora.targets}"
        raise UserError(what, where, "Use a LoRA adapter of the layers between, as targets: all-linear does.")


def first_line(err: BaseException) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
