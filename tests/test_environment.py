"""The environment as the field has it: what Hugging Face's libraries and W&B are told there, nothing of ours overrides
(W&B's own: tests/tracking/test_wandb_sink.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.training.adapters import base_digest

ASK = """
from huggingface_hub import constants
from scrpo_cli import hub
from scrpo_cli.jobs.evaluate import model_identity
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import ModelConfig
from scrpo_cli.training.adapters import base_digest
from scrpo_cli.training.policy import has_weights, load_base_model
from scrpo_cli.training.runtime import open_runtime

cfg = ModelConfig(name="own/model", device="cpu")
print(constants.HF_HOME, constants.HF_HUB_OFFLINE, hub.answers("own/model"), has_weights(cfg))
print(load_base_model(cfg).name_or_path, base_digest("own/model"))
recipe = load_recipe("tiny", ["model.name=own/model", "model.device=cpu"])
with open_runtime(recipe) as runtime:
    print(model_identity(runtime)["model_revision"])
"""


def test_a_model_comes_out_of_hf_home_without_a_network(tmp_path: Path) -> None:
    """A cache as the hub's client writes it, with the embedded model under another name."""
    repository = tmp_path / "hub" / "models--own--model"
    commit = "0123abcd" * 5
    shutil.copytree(embedded_model_dir(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
    given = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", ASK], env=environment | given, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    digest = base_digest(str(embedded_model_dir()))
    assert found.stdout.splitlines() == [f"{tmp_path} True False True", f"own/model {digest}", commit]
