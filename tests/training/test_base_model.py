"""The base model under an adapter: whether it is still the one that the adapter was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import LoraConfig, ModelConfig
from scrpo_cli.training import checkpoint
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.policy import Policy, load_policy

CHANGED = "weight files have changed"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_model_dir(), tmp_path / "model"))


def policy(model: Path, **more: str) -> Policy:
    return load_policy(ModelConfig(name=str(model), lora=LoraConfig(r=4), **more), 0)


def optimizer_of(policy: Policy) -> torch.optim.Optimizer:
    return torch.optim.AdamW(policy.trainable())


@pytest.fixture
def saved(model: Path, tmp_path: Path) -> Path:
    made = policy(model)
    progress = Progress(1, adapter_sha256=made.adapter_hash())
    return checkpoint.save(tmp_path / "checkpoints", progress, made, optimizer_of(made), 2)


def resumed(model: Path, saved: Path) -> Progress:
    found = policy(model)
    return checkpoint.load(saved, found, optimizer_of(found))


def test_weights_that_were_replaced_in_place_are_refused(model: Path, saved: Path) -> None:
    """As by another fine-tuning that writes into the same directory; its files have the same names and sizes."""
    assert resumed(model, saved).base_digest
    file = model / "model.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=CHANGED):
        resumed(model, saved)
    with pytest.raises(UserError, match=CHANGED):
        policy(model, adapter=str(saved))


def test_a_model_that_moved_is_the_same(model: Path, saved: Path) -> None:
    moved = model.rename(model.with_name("elsewhere"))
    (moved / "README.md").write_text("other words")
    assert resumed(moved, saved).step == 1
    policy(moved, adapter=str(saved))


def test_checkpoints_of_older_versions_are_taken_as_they_are(model: Path, saved: Path) -> None:
    state = json.loads((saved / "state.json").read_text())
    del state["base_digest"]
    (saved / "state.json").write_text(json.dumps(state))
    assert resumed(model, saved).base_digest == ""
