"""The policy's adapter as files that another process can load: immutable versions, one directory each.

A version never changes under its name: engines cache by name and path, so that new weights under an old path would
serve stale keys and values. It is written beside its place and renamed, so that nobody reads half of it.
"""

from __future__ import annotations

import atexit
import hashlib
import itertools
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from peft.utils import SAFETENSORS_WEIGHTS_NAME

from scrpo_cli.errors import UserError
from scrpo_cli.rollout.base import Policy

MEMORY = Path("/dev/shm")
PREFIX = "scrpo-adapters-"
_numbers = itertools.count(1)
ROOM = 8
"""Memory is used for files where as many versions would fit: two are kept at a time."""
PLAIN_LORA = (
    "Use a plain LoRA adapter of the layers between embeddings and output layer, or rollout.engine=transformers."
)


@dataclass(frozen=True)
class AdapterVersion:
    """`number` counts from 1 in this process: vLLM knows an adapter by an integer."""

    name: str
    number: int
    directory: Path
    sha256: str
    bytes: int


class Publisher:
    """Writes versions `RUN-v1`, `RUN-v2`, ... of a policy's adapter; `close` deletes what is left of them."""

    def __init__(self, policy: Policy, run: str, folder: str | None = None) -> None:
        """Under `folder`; without one in this machine's memory, or where temporary files are."""
        self.policy, self.run, self.versions = policy, run, 0
        size = sum(p.numel() * p.element_size() for p in policy.model.parameters() if p.requires_grad)
        root = Path(folder or (MEMORY if fits(MEMORY, ROOM * size) else tempfile.gettempdir()))
        if not folder:
            sweep(root)
        self.home = root / f"{PREFIX}{secrets.token_hex(8)}"
        self.lock = lock_of(self.home)
        self.lock.acquire()
        self.home.mkdir(mode=0o755 if folder else 0o700)  # servers may be another user's
        atexit.register(self.close)

    def publish(self) -> AdapterVersion:
        self.versions += 1
        name = f"{self.run}-v{self.versions}"
        final, part = self.home / name, self.home / f"{name}.part"
        self.policy.model.save_pretrained(str(part), save_embedding_layers=False)
        weights = part / SAFETENSORS_WEIGHTS_NAME
        digest, size = hashlib.sha256(weights.read_bytes()).hexdigest(), weights.stat().st_size
        part.rename(final)
        return AdapterVersion(name, next(_numbers), final, digest, size)

    def retire(self, version: AdapterVersion) -> None:
        """Delete its files: no engine may need them any more, one that looks for them dies."""
        shutil.rmtree(version.directory, ignore_errors=True)

    def close(self) -> None:
        remove(self.home, self.lock)


def lock_of(home: Path) -> FileLock:
    """Held while the directory is in use. A process id would say it in one container alone, and several may share the
    memory of a machine.
    """
    return FileLock(home.with_name(f"{home.name}.lock"), thread_local=False)


def sweep(root: Path) -> None:
    """Delete what processes of ours that were killed have left: in memory it would stay until the machine restarts."""
    for home in root.glob(f"{PREFIX}*"):
        if not home.is_dir():
            continue
        lock = lock_of(home)
        with suppress(Timeout, OSError):  # in use, or another user's
            lock.acquire(timeout=0)
            remove(home, lock)


def remove(home: Path, lock: FileLock) -> None:
    shutil.rmtree(home, ignore_errors=True)
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def fits(folder: Path, size: int) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free > size


def adapts_ends(model: Any) -> bool:
    """Whether a part of the adapter is in the embeddings or the output layer."""
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(p.requires_grad for layer in ends if layer is not None for p in layer.parameters())


def refuse_unusual(policy: Policy) -> None:
    """UserError for adapters that vLLM would load and compute otherwise, or not at all, before anything is sampled."""
    config = policy.model.active_peft_config
    unusual = {
        "DoRA": getattr(config, "use_dora", False),
        "a bias": getattr(config, "bias", "none") != "none" or getattr(config, "lora_bias", False),
        "modules_to_save": bool(getattr(config, "modules_to_save", None)),
        "target_parameters": bool(getattr(config, "target_parameters", None)),
        "an adapter of the embeddings or the output layer": adapts_ends(policy.model),
        f"an adapter of type {config.peft_type.value}": config.peft_type.value != "LORA",
    }
    if found := next((name for name, there in unusual.items() if there), None):
        raise UserError(f"vLLM cannot sample with {found}.", "rollout.engine: vllm", PLAIN_LORA)
