"""A PEFT adapter from a directory: read without the network, and refused unless it fits the model to the last tensor.

peft only warns of tensors that it misses and says nothing of those that it has no place for, so that the adapter of
another model would be the bare base model under the adapter's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME, load_peft_weights
from safetensors import safe_open

from scrpo_cli.errors import UserError, blaming, nearest
from scrpo_cli.hub import files_of
from scrpo_cli.recipe.references import check_adapter

OTHER = "Use the adapter with the base model that it was trained on."
BROKEN = "Copy the adapter again, or name another one."
STATE = "state.json"
"""Beside an adapter that is a checkpoint of ours: how far its run was, and which base it had (`base_digest`)."""
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Files of a base model, in the order in which transformers takes them."""
BASE_SIZES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
"""Keys of a config.json in which two models that an adapter fits cannot differ."""
SLICES, SLICE = 16, 1 << 16
"""Of each weight file so many pieces of so many bytes are compared."""


def load_adapter(base: Any, directory: str, revision: str | None = None) -> Any:
    """`base`, of that revision, with the adapter of `directory` on it, to be trained on; UserError where it is not that
    model's.
    """
    config = read_config(directory)
    refuse_other_base(config.base_model_name_or_path, base.name_or_path, directory)
    here = base_digest(base.name_or_path, revision)
    refuse_changed_base(here, str(_json(Path(directory) / STATE).get("base_digest", "")), directory)
    weights = read_weights(directory, str(base.device))
    model = with_empty_adapter(base, config, directory)
    put_weights(model, weights, directory, assign=True)
    model.base_model._cast_adapter_dtype(adapter_name=model.active_adapter, autocast_adapter_dtype=True)
    return model.eval()


def read_config(directory: str) -> PeftConfig:
    """The adapter's own config, which says its kind, rank and targets."""
    check_adapter(directory)
    with blaming(f"The adapter's {CONFIG_NAME} cannot be read", directory, BROKEN), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that a newer peft wrote
        said = json.loads((Path(directory) / CONFIG_NAME).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        if not isinstance(said.get("peft_type"), str):
            raise ValueError("it does not say its peft_type")
        try:
            config = PeftConfig.from_pretrained(directory)
        except KeyError:
            raise ValueError(f"peft knows no adapter of type {said['peft_type']}") from None
    if config.is_prompt_learning:
        fix = "Use a LoRA adapter."
        raise UserError(f"Adapters of type {said['peft_type']} are not supported.", directory, fix)
    config.inference_mode = False
    return config


def read_shapes(directory: str) -> dict[str, torch.Tensor]:
    """The tensors of the adapter as placeholders of their shapes, without reading them where the format allows it."""
    file = Path(directory) / SAFETENSORS_WEIGHTS_NAME
    if not file.is_file():
        return {key: tensor.to("meta") for key, tensor in read_weights(directory).items()}
    with blaming("The adapter's weights cannot be read", str(file), BROKEN), safe_open(file, "pt") as tensors:
        return {key: torch.empty(tensors.get_slice(key).get_shape(), device="meta") for key in tensors.keys()}  # noqa: SIM118 no dict


def read_weights(directory: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The adapter's tensors."""
    names = (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME)  # in the order in which peft takes them
    file = next((path for name in names if (path := Path(directory) / name).is_file()), None)
    if file is None:  # peft would ask the hub
        raise UserError(f"The adapter has no weights: {' and '.join(names)} are missing.", directory, BROKEN)
    with blaming("The adapter's weights cannot be read", str(file), BROKEN):
        weights = load_peft_weights(directory, device=device)  # a .bin is unpickled as weights only
        if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
            raise ValueError("it holds something else than tensors")
    return weights


def with_empty_adapter(base: Any, config: PeftConfig, directory: str) -> Any:
    """`base` with an adapter of the config's shape, whose tensors are placeholders."""
    with blaming(f"The adapter does not fit {base.config.model_type}", directory, OTHER), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by an older name; of tied weights we speak ourselves
        refuse_rank(base, max([getattr(config, "r", 0), *getattr(config, "rank_pattern", {}).values()]), directory)
        return with_sorted_names(get_peft_model(base, config, low_cpu_mem_usage=True))


def refuse_rank(base: Any, r: int, where: str) -> None:
    """A rank above that of every layer says nothing more, and takes memory until there is none."""
    most = max(min(p.shape) for p in base.parameters() if p.ndim == 2)
    if r > most:
        what = f"The adapter's rank is {r}, and no layer of this model has one above {most}."
        raise UserError(what, where, "Usual ranks are 8 to 64.")


def refuse_unknown_targets(base: Any, targets: str | Sequence[str]) -> None:
    """peft passes over names of which the model has no module, as long as it has one of another name."""
    if isinstance(targets, str):  # a pattern, or all of them
        return
    paths = [name for name, _ in base.named_modules()]
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            linear = (n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, torch.nn.Linear))
            known = list(dict.fromkeys(linear))
            fix = f"{nearest(target, known)} Its linear layers: {', '.join(known)}; or use all-linear.".strip()
            raise UserError(f"The model has no module {target!r}.", f"model.lora.targets: {list(targets)}", fix)


def with_sorted_names(model: Any) -> Any:
    """The model whose adapter's config holds its names in order: peft keeps sets, and writes them in one that changes
    from process to process.
    """
    for config in model.peft_config.values():
        for name, value in vars(config).items():
            if isinstance(value, set):
                setattr(config, name, sorted(value))
    return model


def put_weights(model: Any, weights: Mapping[str, torch.Tensor], where: str, *, assign: bool = False) -> None:
    """Give the model's adapter these weights (to `assign` them, in place of placeholders). UserError, with what it is
    that does not fit, for tensors that are missing, in excess, of other shapes, or not finite.
    """
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    for key in sorted(wanted.keys() & weights.keys()):
        if wanted[key].shape != weights[key].shape:
            raise _other_shape(key, weights[key].shape, wanted[key].shape, where)
    for key, tensor in weights.items():
        if not (tensor.is_meta or tensor.isfinite().all()):
            raise UserError(f"The adapter's weights are not finite numbers: {key}", where, "Use an earlier checkpoint.")
    with blaming("The adapter does not fit the model", where, OTHER):
        result: Any = set_peft_model_state_dict(model, dict(weights), low_cpu_mem_usage=assign)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if missing := sorted(trained.intersection(result.missing_keys)):
        what = f"The adapter lacks {len(missing)} of the {len(trained)} tensors that it has on this model: {missing[0]}"
        raise UserError(what, where, OTHER)
    if extra := sorted(result.unexpected_keys):
        what = f"The adapter has {len(extra)} tensors that have no place in this model: {extra[0]}"
        raise UserError(what, where, OTHER)


def _other_shape(key: str, found: torch.Size, wanted: torch.Size, where: str) -> UserError:
    if key.endswith("lora_A.weight") and found[1:] == wanted[1:]:
        what = f"The adapter's weights have rank {found[0]}, and its {CONFIG_NAME} says {wanted[0]}: {key}"
        return UserError(what, where, BROKEN)
    sizes = (" x ".join(map(str, shape)) for shape in (found, wanted))
    return UserError("The adapter is of another model: {} and not {} in {}".format(*sizes, key), where, OTHER)


def refuse_other_base(named: str | None, here: str, directory: str) -> None:
    """UserError where the adapter was trained on another base model than the one at `here`, as far as can be told: by
    name on the hub, by the config or the weight files where both are directories. One that only moved is the same.
    """
    if not named or named == here:
        return
    difference = _difference(Path(named), Path(here)) if os.path.isdir(named) and os.path.isdir(here) else ""
    if _is_hub_name(named) and _is_hub_name(here) and named.lower() != here.lower():
        difference = "another name on the hub"
    if difference:
        what = f"The adapter was trained on another base model, {named}: {difference}."
        fix = f"Set model.name to it; if both are the same, correct base_model_name_or_path in {CONFIG_NAME}."
        raise UserError(what, directory, fix)


def base_digest(name: str, revision: str | None = None) -> str:
    """Of a base model's weight files, by name, size and pieces of each; empty where they are not at hand. It tells
    whether a directory, or what the hub has under a name, holds other weights now.
    """
    if (folder := files_of(name, revision)) is None:
        return ""
    files = next(filter(None, (sorted(folder.glob(pattern)) for pattern in WEIGHTS)), [])
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode() + _sample(file))
    return digest.hexdigest() if files else ""


def refuse_changed_base(here: str, then: str, where: str) -> None:
    """UserError where both digests are known and differ."""
    if here and then and here != then:
        what = "The base model is not the one that this was trained on: its weight files have changed since."
        raise UserError(what, where, "Put the files back, or start a new run.")


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None and not os.path.isdir(name)


def _difference(theirs: Path, ours: Path) -> str:
    """In what two model directories differ; nothing where that cannot be told, as of files that are split otherwise."""
    configs = [_json(folder / "config.json") for folder in (theirs, ours)]
    for key in BASE_SIZES:
        one, other = (config.get(key) for config in configs)
        if None not in (one, other) and one != other:
            return f"its {key} is {one} and not {other}"
    files, others = ({p.name: p.stat().st_size for p in folder.glob("*.safetensors")} for folder in (theirs, ours))
    if files == others and any(_sample(theirs / name) != _sample(ours / name) for name in files):
        return "its weights are others"
    return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sample(file: Path) -> bytes:
    """A digest of pieces spread over the whole file, which training changes everywhere."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as handle:
        for i in range(SLICES):
            handle.seek(i * size // SLICES)
            digest.update(handle.read(SLICE))
    return digest.digest()
