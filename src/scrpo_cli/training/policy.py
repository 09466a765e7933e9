"""The policy: a base model with a LoRA adapter on it. The reference is the same module with the adapter off."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scrpo_cli import hub
from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError, blaming, first_line, nearest
from scrpo_cli.recipe.models import ModelConfig
from scrpo_cli.recipe.references import ADAPTER_CONFIG, EMBEDDED, check_model
from scrpo_cli.rollout.adapters import adapts_ends
from scrpo_cli.rollout.transformers_engine import stop_ids
from scrpo_cli.training.adapters import (
    base_digest,
    load_adapter,
    refuse_rank,
    refuse_unknown_targets,
    with_sorted_names,
)

transformers.utils.logging.disable_progress_bar()  # one bar a shard would tear our own display
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
SMALL_MODEL = 50_000_000  # below this, several threads cost more than they bring and collapse on a busy machine


@dataclass
class Policy:
    """`model` is a PeftModel; `version` counts adapter updates."""

    model: Any
    tokenizer: Any
    version: int = 0
    frozen: list[torch.Tensor] | None = None
    """Adapter weights of the reference, in the order of `trainable`; none: the base model is the reference."""
    base: str = ""
    """Digest of the base model's weight files (`base_digest`), where they are known."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the model is the reference policy: the adapter off, or as it was when it was frozen."""
        return self.model.disable_adapter() if self.frozen is None else self.swapped(self.frozen)

    def set_reference(self, which: str, share: float = 1.0) -> None:
        """From now on the reference is the `policy` as it is, or the `base` model. A `share` below 1 goes only so much
        of the way from the weights that the reference has, if it has any: an exponential moving average.
        """
        weights = [p.detach().clone() for p in self.trainable()] if which == "policy" else None
        if weights and self.frozen and share < 1:
            weights = [torch.lerp(old, new, share) for old, new in zip(self.frozen, weights, strict=True)]
        self.frozen = weights

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
    """`tiny` and `think` are embedded models; anything else is a local directory or a hub name."""
    return str(embedded_model_dir(name)) if name in EMBEDDED else name


def source_of(cfg: ModelConfig) -> dict[str, Any]:
    """The arguments of every `from_pretrained` of the recipe's model. Nothing asks the hub for a local directory, and
    nothing waits for a hub that does not answer.
    """
    path = model_path(cfg.name)
    check_model(path)
    local = os.path.isdir(path)
    if local:
        check_files(Path(path), f"model.name: {cfg.name}")
    return {
        "pretrained_model_name_or_path": path,
        "revision": cfg.revision,
        "trust_remote_code": cfg.trust_remote_code,
        "local_files_only": local or not hub.answers(path, cfg.revision),
    }


def has_weights(cfg: ModelConfig) -> bool:
    """Whether the model is on this machine: a directory, or in the cache of the hub."""
    path = model_path(cfg.name)
    kept = (try_to_load_from_cache(path, name, revision=cfg.revision) for name in WEIGHT_FILES)
    return Path(path).is_dir() or any(isinstance(file, str) for file in kept)


def check_files(folder: Path, where: str) -> None:
    """Refuse a directory whose own files say nothing, or that is an adapter: transformers would look for its base."""
    if (folder / ADAPTER_CONFIG).is_file():
        fix = "Name it as model.adapter (or --adapter), and its base model as model.name."
        raise UserError("This directory is an adapter and no model.", where, fix)
    if not (folder / "config.json").is_file():
        fix = "Give a directory that holds config.json, weights and tokenizer, or a hub name."
        raise UserError("The model directory has no config.json.", where, fix)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            with blaming(f"The model's {name} cannot be read", where, "Copy the model again."):
                if not isinstance(json.loads((folder / name).read_text(encoding="utf-8")), dict):
                    raise ValueError("it is no JSON object")


def remedy(cfg: ModelConfig) -> str:
    """How to go on where files of the model could not be had."""
    name = model_path(cfg.name)
    if Path(name).is_dir():
        return "Copy the model again; `scrpo doctor --recipe R` checks it."
    offline = "" if hub.answers(name, cfg.revision) else "The model hub does not answer."
    give = "Give a directory with config.json, weights and tokenizer, or a name on the hub."
    return " ".join(filter(None, (offline, nearest(name, EMBEDDED), give)))


def pick_device(cfg: ModelConfig) -> str:
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is cuda and this machine has no usable CUDA GPU.", "", "Use device: auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device


def pick_dtype(cfg: ModelConfig, device: str) -> torch.dtype:
    if cfg.dtype == "auto":
        return torch.bfloat16 if device == "cuda" else torch.float32
    return getattr(torch, cfg.dtype)


def base_dtype(cfg: ModelConfig) -> torch.dtype:
    """The number format that the base model's own files name; float32 where they name none."""
    with blaming("The model's config.json cannot be read", f"model.name: {cfg.name}", remedy(cfg)):
        return AutoConfig.from_pretrained(**source_of(cfg)).dtype or torch.float32


def load_tokenizer(cfg: ModelConfig) -> Any:
    where, source = f"model.name: {cfg.name}", source_of(cfg)
    fix = f"It takes a tokenizer.json. {remedy(cfg)}"
    with blaming("No tokenizer could be loaded", where, fix):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        known = tokenizer.encode("1", add_special_tokens=False)
    if not known:  # without files, transformers makes one without words
        raise UserError("No tokenizer could be loaded: it knows no words.", where, fix)
    return tokenizer


def load_base_model(cfg: ModelConfig) -> Any:
    """The base model on its device, frozen."""
    where, source = f"model.name: {cfg.name}", source_of(cfg)
    device = pick_device(cfg)
    folder = Path(model_path(cfg.name))
    if folder.is_dir() and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        fix = "Copy the *.safetensors files beside config.json."
        raise UserError("The model directory holds no weights.", where, fix)
    with quiet_loading(), blaming("The model could not be loaded", where, remedy(cfg)):
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=pick_dtype(cfg, device),
                attn_implementation=cfg.attn,
                output_loading_info=True,
            )
        except RuntimeError as error:
            raise ValueError(first_mismatch(source) or first_line(error)) from error
    model, found = loaded
    refuse_other_weights(found, where)
    refuse_scaled_logits(model)
    set_threads(cfg, sum(p.numel() for p in model.parameters()))
    model.requires_grad_(False)
    model.to(device)
    refuse_infinite(model, where)
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Inside, transformers does not report what it found: `refuse_other_weights` says it."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def first_mismatch(source: Mapping[str, Any]) -> str:
    """The first tensor in a model directory whose shape is not that of the config: transformers only logs it."""
    options = {key: value for key, value in source.items() if key != "pretrained_model_name_or_path"}
    folder = Path(source["pretrained_model_name_or_path"])
    config = AutoConfig.from_pretrained(folder, **options) if folder.is_dir() else None
    if config is None:
        return ""
    with torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(config, trust_remote_code=source["trust_remote_code"]).state_dict()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in sorted(wanted.keys() & set(tensors.keys())):
                found, shape = tensors.get_slice(key).get_shape(), list(wanted[key].shape)
                if found != shape:
                    return f"{key} is {sized(found)} in its weights and {sized(shape)} by its config.json"
    return ""


def sized(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def refuse_other_weights(found: Mapping[str, Any], where: str) -> None:
    """transformers makes up weights that are missing, and leaves out those that it has no place for."""
    fix = "Give the weights the config.json that they were saved with."
    if missing := sorted(found["missing_keys"]):
        what = f"The model's weights lack {len(missing)} tensors that its config.json asks for: {missing[0]}"
        raise UserError(what, where, fix)
    if extra := sorted(found["unexpected_keys"]):
        what = f"The model's weights hold {len(extra)} tensors that its config.json has no place for: {extra[0]}"
        raise UserError(what, where, fix)


def refuse_infinite(model: Any, where: str) -> None:
    """One look at every weight, without a copy of any: 4 s for a 7B model on a CPU core."""
    for name, p in model.named_parameters():
        if p.numel() and not all(end.isfinite() for end in p.detach().aminmax()):
            raise UserError(f"The model's weights are not finite numbers: {name}", where, "Copy the model again.")


def refuse_scaled_logits(model: Any) -> None:
    """Log-probs come from hidden states and the output layer; models that do more to their logits would be wrong."""
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise UserError(
                f"This architecture changes its logits after the output layer ({key}), which is not supported.",
                f"model: {model.config.model_type}",
                "Use a model without it (Qwen, Llama, Mistral families).",
            )


def check_threads(cfg: ModelConfig) -> None:
    """torch starts as many threads as it is told to, and dies of too many."""
    cores = os.cpu_count() or 1
    if cfg.threads is not None and cfg.threads > cores:
        what = f"model.threads is {cfg.threads}, and this machine has {cores} cores."
        raise UserError(what, f"model.threads: {cfg.threads}", f"Set {cores} or less; 1 is best for small models.")


def threads_of(cfg: ModelConfig, parameters: int) -> int:
    """CPU threads for a model of so many parameters; torch's own number where nothing speaks for another one."""
    return cfg.threads or (1 if parameters < SMALL_MODEL else torch.get_num_threads())


def set_threads(cfg: ModelConfig, parameters: int) -> None:
    torch.set_num_threads(threads_of(cfg, parameters))


@dataclass(frozen=True)
class Base:
    """What an adapter is put on: the frozen model, and its tokenizer."""

    model: Any
    tokenizer: Any
    digest: str


def load_policy(cfg: ModelConfig, seed: int) -> Policy:
    """Base model, tokenizer and adapter: the one at `cfg.adapter`, or a fresh one that starts as the identity."""
    return policy_over(load_base(cfg), cfg, seed)


def load_base(cfg: ModelConfig) -> Base:
    """The base model, checked and on its device, with its tokenizer; policies are put over it."""
    check_threads(cfg)
    tokenizer = load_tokenizer(cfg)
    base = load_base_model(cfg)
    check_vocabulary(base, tokenizer, f"model.name: {cfg.name}")
    if cfg.gradient_checkpointing:
        enable_checkpointing(base)
    return Base(base, tokenizer, base_digest(model_path(cfg.name), cfg.revision))


def policy_over(base: Base, cfg: ModelConfig, seed: int) -> Policy:
    """A policy whose adapter is put on `base`."""
    return Policy(add_adapter(base.model, cfg, seed), base.tokenizer, base=base.digest)


def check_vocabulary(base: Any, tokenizer: Any, where: str) -> None:
    """Refuse token ids that the model has no row for, and models whose answers would never end."""
    rows, largest = base.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if largest >= rows:
        what = f"The tokenizer has token ids up to {largest}, and the model knows {rows} tokens."
        raise UserError(what, where, "Put the tokenizer beside the model that it belongs to.")
    ends = stop_ids(base, tokenizer)
    if not all(isinstance(end, int) for end in ends) or not any(0 <= end < rows for end in ends):
        what = f"The model has no end token ({', '.join(map(str, ends)) or 'none is named'}): no answer would end."
        raise UserError(what, where, "Name it as eos_token_id in generation_config.json.")


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
        return load_adapter(base, cfg.adapter, cfg.revision)
    refuse_rank(base, cfg.lora.r, f"model.lora.r: {cfg.lora.r}")
    refuse_unknown_targets(base, cfg.lora.targets)
    lora = PeftLoraConfig(
        r=cfg.lora.r,
        lora_alpha=cfg.lora.alpha,
        target_modules=cfg.lora.targets,
        task_type="CAUSAL_LM",
    )
    fix = "Name modules of the model, or use all-linear."
    with torch.random.fork_rng(), warnings.catch_warnings():  # peft draws the adapter's start from the global stream
        warnings.simplefilter("ignore")  # peft asks transformers by an older name; of tied weights we speak ourselves
        torch.manual_seed(seed)
        with blaming("No adapter fits", f"model.lora.targets: {cfg.lora.targets}", fix):
            return with_sorted_names(get_peft_model(base, lora)).eval()


def check_trainable(model: Any, cfg: ModelConfig) -> None:
    """Refuse what can be sampled from but not trained: a number format that underflows, and adapters that the log-probs
    of training would not see.
    """
    if cfg.dtype == "float16":
        what = "Training in float16 is refused, since small gradients become zero in it."
        fix = "Use auto, bfloat16 or float32; eval, collect and correct only sample and take float16."
        raise UserError(what, "model.dtype: float16", fix)
    config = model.active_peft_config
    if adapts_ends(model) or config.is_prompt_learning or getattr(config, "modules_to_save", None):
        what = "Adapters of the embeddings or the output layer, prompts and modules_to_save cannot be trained."
        where = f"model.adapter: {cfg.adapter}" if cfg.adapter else f"model.lora.targets: {cfg.lora.targets}"
        raise UserError(what, where, "Use a LoRA adapter of the layers between, as targets: all-linear does.")
