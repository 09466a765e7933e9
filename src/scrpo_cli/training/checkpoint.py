"""Checkpoints that are either complete or absent.

    step-000010/  adapter_model.safetensors, adapter_config.json   a standard PEFT adapter
                  optimizer.pt                                     optimizer moments
                  reference.pt                                     the reference's adapter, if it has one
                  state.json                                       step, tokens, method state, adapter hash
                  manifest.json                                    SHA-256 of each of them; written last

Everything is written to a temporary directory and renamed: what has a manifest whose hashes hold is complete. There is
no random state to save, since every draw depends on (seed, step, purpose, index) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scrpo_cli.errors import RunError
from scrpo_cli.training.adapters import put_weights
from scrpo_cli.training.policy import Policy

MANIFEST = "manifest.json"


@dataclass
class Progress:
    """How far a run is. `method` is the method's own state."""

    step: int = 0
    generated_tokens: int = 0
    policy_version: int = 0
    method: dict[str, Any] = field(default_factory=dict)
    adapter_sha256: str = ""


def save(root: Path, progress: Progress, policy: Policy, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Write a complete checkpoint under `root`, then drop all but the newest `keep`. RunError when the disk is full."""
    final = root / f"step-{progress.step:06d}"
    if is_complete(final):
        return final
    temporary = root / f".tmp-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        policy.model.save_pretrained(str(temporary), save_embedding_layers=False)
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        if policy.frozen is not None:
            torch.save(policy.frozen, temporary / "reference.pt")
        (temporary / "state.json").write_text(json.dumps(asdict(progress), indent=2))
        seal(temporary)
        shutil.rmtree(final, ignore_errors=True)  # an incomplete leftover of the same step
        temporary.rename(final)
    except (OSError, RuntimeError, SafetensorError) as err:  # a full disk, in the words of each writer
        where = f"{root} ({free_mib(root):.0f} MiB free)"
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"The checkpoint of step {progress.step} could not be written: {err}",
            where,
            f"Free some space, then `scrpo train --resume {root.parent.name}` continues from the last complete one.",
        ) from err
    kept = complete_checkpoints(root)[-keep:]
    for other in [*root.glob("step-*"), *root.glob(".tmp-*")]:  # the latter, and incomplete ones, if we were killed
        if other not in kept:
            shutil.rmtree(other)
    return final


def seal(directory: Path) -> None:
    """Flush every file to disk and write the manifest last."""
    digests = {p.name: file_hash(p) for p in sorted(directory.iterdir()) if p.is_file()}
    for name in digests:
        with (directory / name).open("rb") as handle:
            os.fsync(handle.fileno())
    with (directory / MANIFEST).open("w") as handle:
        json.dump(digests, handle, indent=2)
        handle.flush()
        os.fsync(handle.fileno())


def file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_complete(directory: Path) -> bool:
    """Whether the manifest is there and every hash in it holds."""
    try:
        digests = json.loads((directory / MANIFEST).read_text())
        return all(file_hash(directory / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def complete_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [p for p in sorted(root.glob("step-*")) if is_complete(p)]


def newest(root: Path) -> Path | None:
    return next(iter(reversed(complete_checkpoints(root))), None)


def load(directory: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's adapter and optimizer in place and check that the adapter is the one that was saved."""
    progress = Progress(**json.loads((directory / "state.json").read_text()))
    put_weights(policy.model, load_file(directory / "adapter_model.safetensors"), str(directory))
    policy.version = progress.policy_version
    if policy.adapter_hash() != progress.adapter_sha256:
        raise RunError(
            "The adapter that was loaded is not the one that was saved.",
            str(directory),
            "Resume with the model and LoRA settings of the run, or start a new one.",
        )
    optimizer.load_state_dict(torch.load(directory / "optimizer.pt", map_location="cpu", weights_only=True))
    if (directory / "reference.pt").exists():
        policy.frozen = torch.load(directory / "reference.pt", map_location=policy.device, weights_only=True)
    return progress


def free_mib(path: Path) -> float:
    existing = next(p for p in [path, *path.parents] if p.exists())
    return shutil.disk_usage(existing).free / 2**20
