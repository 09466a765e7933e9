"""What a training run has learned, for others to load: its adapter, or the whole model with the adapter merged into it,
each with a card (docs/exports.md).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.files import write_directory
from scrpo_cli.jobs import cards
from scrpo_cli.jobs.compare import changes_by_training
from scrpo_cli.numbers import in_points, p_equals
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import evaluations_of, steps_of
from scrpo_cli.recipe.load import stored_recipe
from scrpo_cli.recipe.models import ModelConfig, ProblemsConfig, Recipe
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.adapters import load_adapter
from scrpo_cli.training.checkpoint import step_of
from scrpo_cli.training.policy import base_dtype, load_base_model, load_tokenizer, model_path
from scrpo_cli.training.resume import newest_adapter

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LOAD_ADAPTER = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base}{revision})
model = AutoModelForCausalLM.from_pretrained({base}{revision})
model.load_adapter("DIR")  # this directory, or its name on the hub"""
SERVE_ADAPTER = "vllm serve {base}{revision} --enable-lora --max-lora-rank {rank} --lora-modules scrpo=DIR"
LOAD_MERGED = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR")
model = AutoModelForCausalLM.from_pretrained("DIR")  # this directory, or its name on the hub"""
SERVE_MERGED = "vllm serve DIR"


def export_adapter(db: Database, run: RunRow, folder: Path, *, merge: bool = False) -> dict[str, Any]:
    """Write the run's newest adapter, or with `merge` the whole model, into a new directory; what was written. The
    directory appears whole or not at all; UserError where there is something, or no intact adapter.
    """
    recipe = stored_recipe(run.recipe_json, run.origin)
    checkpoint = newest_adapter(db, run)
    with write_directory(folder) as new:
        if merge:
            write_merged(recipe.model, checkpoint, new)
        else:
            write_adapter(recipe.model, checkpoint, new)
        now().stage("writing the card", at_once=False)
        write_card(db, run, recipe, step_of(checkpoint), new, merged=merge)
        files = sorted(path.name for path in new.iterdir())
    base = model_path(recipe.model.name)
    about = {"run": run.id, "step": step_of(checkpoint), "base_model": base, "merged": merge}
    return {**about, "directory": str(folder), "files": files}


def write_adapter(cfg: ModelConfig, checkpoint: Path, folder: Path) -> None:
    """The checkpoint's adapter as it is, and which revision of the base model it belongs to."""
    shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
    config = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8")) | {"revision": cfg.revision}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_merged(cfg: ModelConfig, checkpoint: Path, folder: Path) -> None:
    """Base model plus adapter, added in float32 and rounded once, to the number format of the base model's own files,
    with its tokenizer. On the CPU, where there is the most memory.
    """
    plain = cfg.model_copy(update={"device": "cpu", "dtype": "float32", "adapter": None})
    now().stage(f"merging the adapter: loading the model {cfg.name}")
    base = load_base_model(plain)
    now().stage("merging the adapter: adding it to the weights", at_once=False)
    merged = load_adapter(base, str(checkpoint), cfg.revision).merge_and_unload().to(base_dtype(cfg))
    now().stage("merging the adapter: writing the model", at_once=False)
    merged.save_pretrained(str(folder))
    load_tokenizer(plain).save_pretrained(str(folder))


# --- the card -----------------------------------------------------------------------------------------------------


def write_card(db: Database, run: RunRow, recipe: Recipe, step: int, folder: Path, *, merged: bool) -> None:
    base = model_path(recipe.model.name)
    steps = [s for s in steps_of(db, run.id) if s.step <= step]
    tokens = steps[-1].metrics["tokens/total"] if steps else 0
    evaluations = evaluations_of(db, run.id)
    what = "with an adapter merged into it" if merged else "with this adapter"
    cards.write_card(
        folder,
        card_data(base, merged=merged),
        f"# {cards.code(recipe.name)}: {cards.code(recipe.method.name)} on {cards.code(recipe.model.name)}",
        f"The model {cards.code(base)}{revision_said(recipe.model)} {what}, trained for {step} steps on {tokens:,.0f} "
        f"generated tokens. {cards.origin(run)}",
        "## Use",
        *usage(recipe.model, folder, merged=merged),
        "## Numbers",
        cards.numbers(evaluations),
        *changes(db, run),
        "## Protocol",
        "How the evaluations above sampled and graded:",
        cards.fenced(cards.as_yaml(protocol(recipe)), "yaml"),
        *cards.recipe_section(run),
        "`scrpo train --recipe FILE` with this recipe trains it again.",
    )


def card_data(base: str, *, merged: bool) -> ModelCardData:
    """What a hub reads: of a base model that is a directory of this machine it could make nothing."""
    from huggingface_hub import ModelCardData

    library = "transformers" if merged else "peft"
    known = None if os.path.isdir(base) else base
    tags = ["scrpo", "self-correction", *([] if merged else ["lora"])]
    return ModelCardData(base_model=known, library_name=library, pipeline_tag="text-generation", tags=tags)


def revision_said(cfg: ModelConfig) -> str:
    return f" at revision {cards.code(cfg.revision)}" if cfg.revision else ""


def usage(cfg: ModelConfig, folder: Path, *, merged: bool) -> Iterator[str]:
    """How transformers and vLLM load it, in code that can be copied."""
    if merged:
        yield cards.fenced(LOAD_MERGED, "python")
        yield cards.fenced(SERVE_MERGED, "bash")
        return
    base, config = model_path(cfg.name), json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    in_python = f", revision={cfg.revision!r}" if cfg.revision else ""
    in_shell = f" --revision {shlex.quote(cfg.revision)}" if cfg.revision else ""
    yield cards.fenced(LOAD_ADAPTER.format(base=repr(base), revision=in_python), "python")
    serve = SERVE_ADAPTER.format(base=shlex.quote(base), revision=in_shell, rank=config.get("r"))
    yield cards.fenced(serve, "bash")


def changes(db: Database, run: RunRow) -> Iterator[str]:
    """After minus before training, on the same problems."""
    for split, found in changes_by_training(db, run.id).items():
        said = f"{in_points(found)}, {p_equals(found['p'])}: {found['verdict']}."
        yield f"{cards.code(split)}, after minus before: {said}"


def protocol(recipe: Recipe) -> dict[str, Any]:
    """How a training run evaluates itself, as data."""
    found = {key: value for key, value in asdict(Protocol.of(recipe)).items() if key not in ("task", "gate")}
    asked = {"system": recipe.task.system, "prompt": recipe.task.prompt}
    splits = {"test": recipe.task.test, "validation": recipe.task.validation}
    named = {name: data_said(cfg) for name, cfg in splits.items() if cfg is not None}
    return {"task": recipe.task.name, "grader": recipe.task.grader, **named, **found, "prompts": asked}


def data_said(cfg: ProblemsConfig) -> str:
    revision = f" at {cfg.revision}" if cfg.revision else ""
    return f"{cfg.source}, split {cfg.split}{revision}"
