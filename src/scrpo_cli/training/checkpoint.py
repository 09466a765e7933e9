"""Checkpoints that are either complete or absent.

    step-000010/  adapter_model.safetensors, adapter_config.json   a standard PEFT adapter
                  optimizer.pt                                     optimizer moments
                  reference.pt                                     the reference's adapter, if it has one
                  state.json                                       step, tokens, method state, adapter and base hashes
                  manifest.json                                    SHA-256 of each of them; written last

Everything is written to a temporary directory and renamed: what has a manifest whose hashes hold is intact. There is no
random state to save, since every draw depends on (seed, step, purpose, index) alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from scrpo_cli.errors import RunError, UserError, first_line, shown
from scrpo_cli.training.adapters import STATE, put_weights, refuse_changed_base
from scrpo_cli.training.policy import Policy

MANIFEST = "manifest.json"
FILES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", STATE)
"""What every checkpoint has."""


@dataclass
class Progress:
    """How far a run is. `method` is the method's own state; none in a fork that begins under another method."""

    step: int = 0
    generated_tokens: int = 0
    policy_version: int = 0
    method: dict[str, Any] | None = field(default_factory=dict)
    adapter_sha256: str = ""
    scrpo_version: str = ""
    """That wrote it; the first versions did not say."""
    base_digest: str = ""
    """Of the base model (`Policy.base`); older versions did not say."""


def save(
    root: Path, progress: Progress, policy: Policy, optimizer: torch.optim.Optimizer, keep: int, again: str = ""
) -> Path:
    """Write an intact checkpoint under `root`, then drop all but the newest `keep`. RunError when the disk is full;
    `again` says how to go on then.
    """
    final = at_step(root, progress.step)
    if damage(final) is None:
        return final
    temporary = root / f".tmp-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        policy.model.save_pretrained(str(temporary), save_embedding_layers=False)
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        if policy.frozen is not None:
            torch.save(policy.frozen, temporary / "reference.pt")
        state = asdict(progress) | {"scrpo_version": version("scrpo-cli"), "base_digest": policy.base}
        (temporary / STATE).write_text(json.dumps(state, indent=2))
        seal(temporary)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        temporary.rename(final)
    except (OSError, RuntimeError, SafetensorError) as err:  # a full disk, in the words of each writer
        where = f"{root} ({free_mib(root):.0f} MiB free)"
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"The checkpoint of step {progress.step} could not be written: {err}",
            where,
            f"Free some space. {again}".strip(),
        ) from err
    kept = complete_checkpoints(root)[-keep:]
    for other in [*checkpoints(root), *root.glob(".tmp-*")]:  # the latter, and damaged ones, if we were killed
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


def at_step(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def step_of(directory: Path) -> int:
    return int(directory.name.removeprefix("step-"))


def checkpoints(root: Path) -> list[Path]:
    """Oldest first, intact or not. A directory that someone has renamed is none of ours."""
    return sorted((p for p in root.glob("step-*") if p.name.removeprefix("step-").isdecimal()), key=step_of)


def damage(directory: Path) -> str | None:
    """Why a checkpoint cannot be used, in a few words; None for an intact one."""
    try:
        digests = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError) as error:
        return f"its {MANIFEST} cannot be read ({error})"
    if not isinstance(digests, dict) or (absent := [name for name in FILES if name not in digests]):
        return f"its {MANIFEST} does not name {absent[0] if isinstance(digests, dict) else 'its files'}"
    broken = next((why for name, digest in digests.items() if (why := file_damage(directory / name, digest))), None)
    return broken or misnamed(directory)


def misnamed(directory: Path) -> str | None:
    """Of a checkpoint whose directory was renamed or copied: that it is of another step than its name says."""
    try:
        step = json.loads((directory / STATE).read_bytes())["step"]
    except (ValueError, LookupError, TypeError):  # of another version, as `read_progress` says
        return None
    return None if step == step_of(directory) else f"its {STATE} says that it is of step {shown(step)}"


def file_damage(path: Path, digest: str) -> str | None:
    try:
        if file_hash(path) != digest:
            return f"{path.name} ({path.stat().st_size:,} bytes) is not as it was written: its SHA-256 differs"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def complete_checkpoints(root: Path) -> list[Path]:
    """The intact ones, oldest first."""
    return [each for each in checkpoints(root) if damage(each) is None]


def newest(root: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest intact checkpoint, and why each newer one is not."""
    damaged: dict[Path, str] = {}
    for each in reversed(checkpoints(root)):
        why = damage(each)
        if why is None:
            return each, damaged
        damaged[each] = why
    return None, damaged


def drop_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps, as a run does that goes on from `step`; they come again."""
    for each in checkpoints(root):
        if step_of(each) > step:
            shutil.rmtree(each)


def read_progress(directory: Path) -> Progress:
    """UserError for what another version of the program has written and this one cannot take up."""
    data = json.loads((directory / STATE).read_bytes())
    if not isinstance(data, dict):
        raise of_another_version(directory, "it is no object", {})
    known = {f.name for f in fields(Progress)}
    check_keys(directory, data, data.keys() - known, known - data.keys() - {"scrpo_version", "base_digest"})
    return Progress(**data)


def check_keys(directory: Path, data: Any, unknown: set[str], absent: set[str], section: str = "") -> None:
    """UserError that names the first key of a state that this version does not know, or that it lacks."""
    if unknown:
        raise of_another_version(directory, f"this version does not know '{section}{min(unknown)}'", data)
    if absent:
        raise of_another_version(directory, f"it lacks '{section}{min(absent)}'", data)


def of_another_version(directory: Path, why: str, data: Any) -> UserError:
    name = f"scrpo {data['scrpo_version']}" if data.get("scrpo_version") else "another version of scrpo"
    fix = "Go on with the version that wrote it, or start a new run. Nothing was changed."
    return UserError(f"The checkpoint is of {name}: {why} (this is {version('scrpo-cli')}).", str(directory), fix)


def load(directory: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint's adapter and optimizer in place and check that the adapter is the one that was saved."""
    progress = read_progress(directory)
    refuse_changed_base(policy.base, progress.base_digest, str(directory))
    put_weights(policy.model, load_file(directory / "adapter_model.safetensors"), str(directory))
    policy.version = progress.policy_version
    if policy.adapter_hash() != progress.adapter_sha256:
        raise RunError(
            "The adapter that was loaded is not the one that was saved.",
            str(directory),
            "Resume with the model and LoRA settings of the run, or start a new one.",
        )
    try:  # the files are as they were written: what cannot be loaded is of a version that wrote them in another form
        optimizer.load_state_dict(torch.load(directory / "optimizer.pt", map_location="cpu", weights_only=True))
        if (directory / "reference.pt").exists():
            policy.frozen = torch.load(directory / "reference.pt", map_location=policy.device, weights_only=True)
    except (ValueError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise of_another_version(
            directory, f"its tensors do not fit ({first_line(error)})", asdict(progress)
        ) from error
    return progress


def free_mib(path: Path) -> float:
    existing = next(p for p in [path, *path.parents] if p.exists())
    return shutil.disk_usage(existing).free / 2**20
