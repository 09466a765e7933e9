"""Weights & Biases, which never stops or slows a run: every call to it happens on a daemon thread behind a bounded
queue, the first failure is reported once, and the end has a deadline. Whatever gets lost here is in metrics.jsonl.

Nothing else imports wandb. The W&B run id is ours, so a resumed run continues the same W&B run; all else that W&B reads
from its environment goes before what we would choose, and what the recipe names before both.
"""

from __future__ import annotations

import netrc
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from typing import Any
from urllib.parse import urlsplit

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tracking.published import ADAPTER_FILES, Published

PROJECT = "scrpo"
QUEUE_STEPS = 1000
INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0
UPLOAD_BYTES_S = 1 << 20
"""How fast an adapter is uploaded, at least: so much longer may the end take."""
_END = None


def resolve_mode(mode: str) -> str:
    """`auto` becomes `online` or `offline`: by WANDB_MODE when that is set, else by whether W&B is logged in."""
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked:
        return {"disabled": "off", "dryrun": "offline", "offline": "offline"}.get(asked, "online")
    return "online" if logged_in() else "offline"


def unless_set(variable: str, value: str | None) -> str | None:
    """The value; None, with which W&B asks its environment, where that has the variable."""
    return None if os.environ.get(variable) else value


def logged_in() -> bool:
    """Whether a key for W&B lies on this machine: WANDB_API_KEY, or the netrc that `wandb login` writes. No network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return any(_has_key(path, host) for path in paths)


def _has_key(path: Path, host: str) -> bool:
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):  # no such file, or not one that a key can be read from
        return False


@dataclass(frozen=True)
class Place:
    """Where a run belongs: the sweep that groups it, and its job there (its arm), else the command that runs."""

    sweep: str | None = None
    job: str = "train"


class WandbSink:
    """Steps go into a queue; when that is full (W&B hangs) they are dropped and counted. `say` takes lines for the
    reader: one warning at the first failure, and the command that uploads an offline run at the end.
    """

    def __init__(
        self,
        run_dir: Path,
        run_id: str,
        recipe: Recipe,
        mode: str,
        say: Callable[[str], None],
        place: Place = Place(),
        init_seconds: float = INIT_SECONDS,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._run_dir, self._run_id, self._recipe, self._mode, self._say = run_dir, run_id, recipe, mode, say
        self._init_seconds, self._finish_seconds, self._place = init_seconds, finish_seconds, place
        self._published: Published | None = None
        self._queue: Queue[tuple[int, Mapping[str, float]] | None] = Queue(QUEUE_STEPS)
        self._summary: Mapping[str, Any] = {}
        self._failed = self._warned = False
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="wandb-sink", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        try:
            self._queue.put_nowait((step, metrics))
        except Full:
            self._lost += 1

    def event(self, text: str) -> None:
        """Lines for the reader stay on this machine."""

    def publish(self, published: Published) -> None:
        """Goes along at the end."""
        self._published = published

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """Wait for what is queued, at most `finish_seconds` and what an adapter takes to upload."""
        self._summary, self._failed = summary, failed
        patience = self._patience
        deadline = time.monotonic() + patience
        try:
            self._queue.put(_END, timeout=patience)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        except Full:
            self._lost += 1
        if self._thread.is_alive():
            self._warn(f"it did not finish within {patience:.0f} s")
        elif self._lost:
            self._warn(f"{self._lost} steps did not reach it")
        if self._offline_dirs():
            self._say(f"W&B run kept offline; upload it with: {self.sync_command}")

    @property
    def _patience(self) -> float:
        uploads = self._published.size if self._published and self._mode == "online" else 0
        return self._finish_seconds + uploads / UPLOAD_BYTES_S

    @property
    def sync_command(self) -> str:
        """Uploads every offline part of this run, the resumed ones after the first."""
        return shlex.join(["wandb", "sync", *map(str, self._offline_dirs())])

    def _offline_dirs(self) -> list[Path]:
        return sorted((self._home / "wandb").glob(f"offline-run-*-{self._run_id}"))

    @property
    def _home(self) -> Path:
        """Under which W&B keeps its files."""
        return Path(os.environ.get("WANDB_DIR") or self._run_dir)

    def _work(self) -> None:
        """The thread: everything that touches wandb."""
        try:
            run = self._init()
            while (item := self._queue.get()) is not _END:
                if not self._try_to(run.log, {"step": item[0], **item[1]}):
                    self._lost += 1
            run.summary.update(dict(self._summary))
            if self._published is not None:
                self._try_to(lambda published: self._send_published(run, published), self._published)
            run.finish(exit_code=int(self._failed))
        except Exception as error:  # noqa: BLE001 a tracker must not stop a run, whatever it raises
            self._warn(f"{type(error).__name__}: {error}")

    def _try_to(self, send: Callable[[Any], None], what: Any) -> bool:
        """Whether it was sent: what fails must not cost what comes after it."""
        try:
            send(what)
        except Exception as error:  # noqa: BLE001 a tracker must not stop a run, whatever it raises
            self._warn(f"{type(error).__name__}: {error}")
            return False
        return True

    def _init(self) -> Any:
        if self._mode == "online":
            try:
                return self._start("online")
            except Exception as error:  # noqa: BLE001 no network, no permission, an outage: keep it for later
                self._warn(f"{type(error).__name__}: {error}; it goes on offline")
        return self._start("offline")

    def _send_published(self, run: Any, published: Published) -> None:
        import wandb

        found: dict[str, Any] = {
            name: wandb.Table(columns=[*table.columns], data=[[*row] for row in table.rows])
            for name, table in published.tables.items()
        }
        found |= {name: wandb.Image(str(path)) for name, path in published.figures.items()}
        if found:
            run.log(found)
        if published.adapter is not None:
            artifact = wandb.Artifact(f"adapter-{self._run_id}", type="model", metadata=dict(published.about))
            for name in ADAPTER_FILES:  # of a finished run: they stay as they are, and need no copy elsewhere
                artifact.add_file(str(published.adapter / name), policy="immutable", skip_cache=True)
            run.log_artifact(artifact)

    def _start(self, mode: str) -> Any:
        import wandb

        run = wandb.init(
            **self._identity(),
            id=self._run_id,
            dir=str(self._home),
            config=self._recipe.model_dump(mode="json"),
            mode="online" if mode == "online" else "offline",
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**self._settings()),
        )
        run.define_metric("*", step_metric="step")
        return run

    def _identity(self) -> dict[str, Any]:
        """What the recipe names; where it names nothing, W&B's environment or else what fits the run."""
        options = self._recipe.tracking.wandb
        return {
            "project": options.project or unless_set("WANDB_PROJECT", PROJECT),
            "entity": options.entity,
            "group": options.group or unless_set("WANDB_RUN_GROUP", self._place.sweep),
            "job_type": unless_set("WANDB_JOB_TYPE", self._place.job),
            "name": unless_set("WANDB_NAME", f"{self._recipe.name} {self._run_id}"),
            "tags": options.tags or None,
        }

    def _settings(self) -> dict[str, Any]:
        """Ours, but for those that the environment has."""
        ours = {
            "init_timeout": self._init_seconds,
            "finish_timeout": self._patience,
            "console": "off",
            "silent": True,
        }
        return {name: value for name, value in ours.items() if f"WANDB_{name.upper()}" not in os.environ}

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(f"W&B: {reason}. The run goes on; metrics.jsonl has every step.")
