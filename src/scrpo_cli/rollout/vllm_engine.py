"""vLLM in this program: the base model once, and the policy's adapter by path, under a new name at every sync.

vLLM keys its prefix cache by the adapter's name and path, so new weights under an old path would be served with stale
keys and values. It reads an adapter's files when the first request needs them, and a missing file is the end of its
process; so the version before last is forgotten, and its files are deleted one sync later still.
"""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import resource_tracker
from typing import Any

import psutil

from scrpo_cli import launch
from scrpo_cli.errors import RunError, UserError, first_line
from scrpo_cli.recipe.models import VllmConfig
from scrpo_cli.rollout.adapters import AdapterVersion, Publisher
from scrpo_cli.rollout.base import Policy
from scrpo_cli.rollout.versioned import LOADED, Answer, Heard, VersionedEngine
from scrpo_cli.signals import shielded
from scrpo_cli.streams import stdout_on_stderr
from scrpo_cli.threads import Turn, in_a_thread

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""
FITS = -1
"""As `max_model_len`: as long as the model can and the memory allows."""
READY = "VLLM_ENGINE_READY_TIMEOUT_S"
"""vLLM's own name for the seconds in which it has to start."""
WATCH_SECONDS = 1.0
LAST_WORDS_SECONDS = 10.0
"""In which an engine whose process is gone may still say so by itself."""
REPORT = "See vLLM's own output above; rollout.engine=transformers samples without it."
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def rank_slot(rank: int) -> int:
    """The smallest `max_lora_rank` that holds an adapter."""
    found = next((slot for slot in RANKS if slot >= rank), None)
    if found is None:
        raise UserError(f"vLLM takes adapters up to rank {RANKS[-1]}.", f"model.lora.r: {rank}", "Lower the rank.")
    return found


class Vllm:
    """vLLM in its processes, for the engine of one run or for those of several, whose requests share its batches.

    `source` are the arguments by which the base model of `model`, which has the adapter, was loaded.
    """

    def __init__(self, model: Any, source: Mapping[str, Any], cfg: VllmConfig, runs: int = 1) -> None:
        self.cfg, self.restarts, self.restarting = cfg, 0, threading.Lock()
        self.stepped = 0.0
        """When vLLM made its last step (time.monotonic)."""
        on_cuda = model.device.type == "cuda"
        self.rests = on_cuda and cfg.rest and runs == 1  # while one of several trains, the others sample
        self.arguments = {
            "model": source["pretrained_model_name_or_path"],
            "revision": source["revision"],
            "trust_remote_code": source["trust_remote_code"],
            "skip_tokenizer_init": True,  # token ids in and out
            "generation_config": "vllm",  # the model's own file has no say in how is sampled
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": cfg.context or FITS,
            "enable_lora": True,
            "max_loras": runs,
            "max_cpu_loras": LOADED * runs,
            "max_lora_rank": rank_slot(model.active_peft_config.r),
            "logprobs_mode": "processed_logprobs",  # of what was sampled from: temperature and top-p included
            "enable_prefix_caching": True,
            "enforce_eager": cfg.eager,
            "gpu_memory_utilization": cfg.gpu_memory,
            "enable_sleep_mode": self.rests,
            "disable_log_stats": True,
        }
        if not on_cuda:  # a prompt in pieces sets a seeded generator back, which CPU ones cannot
            self.arguments["enable_chunked_prefill"] = False
        self.start()

    def start(self) -> None:
        os.environ.setdefault(READY, str(math.ceil(self.cfg.timeout)))
        from vllm import LLM  # takes the deadline of its start from there

        resource_tracker.ensure_running()  # Python's own: whoever uses it first starts it, and `kill` must not end it
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        try:
            with stdout_on_stderr(), shielded(), launch.alone():
                self.llm = LLM(**self.arguments)
        except TimeoutError as error:
            fix = f"Raise it, or {READY} where that is set, if the model is large and its files are slow to read."
            raise RunError(f"vLLM did not start in {os.environ[READY]} s.", "rollout.vllm.timeout", fix) from error
        except (ValueError, RuntimeError, OSError) as error:
            fix = "Lower rollout.vllm.gpu_memory or raise it, or set rollout.engine=transformers."
            where = f"model: {self.arguments['model']}"
            raise RunError(f"vLLM could not start: {first_line(error)}", where, fix) from error
        self.processes = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
        self.mourner = mourner(self.processes)
        self.turn = Turn()  # who works with it; one that was killed may never give it back
        self.finished: dict[str, Any] = {}

    @property
    def engine(self) -> Any:
        return self.llm.llm_engine

    def told(self, tell: Callable[[Any], Any], what: str) -> None:
        """Tell its engine of an adapter."""

        def work() -> None:
            with self.turn:
                tell(self.engine)

        self.surviving(work, what)

    def outputs(self, asked: Mapping[int, tuple[Sequence[int], dict[str, Any]]], adapter: Any) -> Iterator[Any]:
        """(row, output) as vLLM finishes them; `LLM.generate` would keep them to itself until the last. Whoever waits
        lets vLLM make its next step, for all.
        """
        from vllm import SamplingParams

        texts = [{"prompt_token_ids": list(prompt)} for prompt, _ in asked.values()]
        wanted = [SamplingParams(**params) for _, params in asked.values()]
        turn = self.turn
        with turn:
            numbers = self.llm.enqueue(texts, wanted, lora_request=adapter, use_tqdm=False)
        rows = {number.split("-")[0]: row for number, row in zip(numbers, asked, strict=True)}  # without vLLM's suffix
        while rows:
            with turn:
                if not rows.keys() & self.finished.keys():
                    self.finished |= {out.request_id: out for out in self.engine.step() if out.finished}
                    self.stepped = time.monotonic()
                mine = {number: self.finished.pop(number) for number in rows.keys() & self.finished.keys()}
            for number, out in mine.items():
                used = out.lora_request.lora_name if out.lora_request else "the base model"
                if used != adapter.lora_name:
                    told = f"vLLM answered with {used} and not with {adapter.lora_name}."
                    raise RunError(told, "rollout.engine: vllm", REPORT)
                yield rows.pop(number), out.outputs[0]

    # -- time and trouble ----------------------------------------------------------------------------------------------

    def surviving(self, work: Callable[[], Any], what: str) -> Any:
        """`work`; where the engine dies in it, again after one restart, with the same draws, since each row has a seed
        of its own. RunError where it dies again, and where it makes no step for `cfg.timeout` seconds.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        for last in (False, True):
            began = self.restarts
            try:
                return self.watched(work, what)
            except EngineDeadError as error:
                if last:
                    raise RunError(f"vLLM died twice while {what}.", "rollout.engine: vllm", REPORT) from error
                with self.restarting:
                    if self.restarts == began:  # by nobody else yet
                        warnings.warn(f"vLLM died while {what}; it is started again", stacklevel=2)
                        self.restart()
        raise AssertionError("unreachable")

    def watched(self, work: Callable[[], Any], what: str) -> Any:
        """`work` in a thread of its own: vLLM has no deadline for a call, and waits for ever for a process that was
        killed.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        began, done, start = self.restarts, in_a_thread(work), time.monotonic()
        while not wait([done], WATCH_SECONDS).done:
            if time.monotonic() > max(start, self.stepped) + self.cfg.timeout:
                self.kill()
                told = f"vLLM made no step in {self.cfg.timeout:g} s while {what}."
                fix = "Resume it; a longer rollout.vllm.timeout takes a new run, or `scrpo fork` from a checkpoint."
                raise RunError(told, "rollout.vllm.timeout", fix)
            if self.restarts != began:
                raise EngineDeadError
            if not self.alive() and not wait([done], LAST_WORDS_SECONDS).done:
                raise EngineDeadError
        return done.result()

    def alive(self) -> bool:
        return all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self.processes)

    def restart(self) -> None:
        """Adapters come with the requests, which name their files."""
        self.kill()
        self.start()
        self.restarts += 1

    def kill(self) -> None:
        if self.mourner.poll() is None:
            self.mourner.communicate(b"\n")
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Keys and values are given back, and the frozen base stays where vLLM can do that (from 0.32 on): it is needed
        unchanged after the update. Before, level 1 moves it to the host; the sync after the update loads the adapter
        anew in any case. One that dies here is started again: awake, with nothing to wake it from.
        """
        self.surviving(self.lie_down, "going to sleep")
        sleeper = self.llm
        try:
            yield
        finally:
            self.surviving(lambda: self.get_up() if self.llm is sleeper else None, "waking up")

    def lie_down(self) -> None:
        if self.keeps_base:
            self.llm.sleep(level=0)
            self.llm.release_kv_cache_memory()
        else:
            self.llm.sleep(level=1)

    def get_up(self) -> None:
        self.llm.wake_up(["kv_cache", "scheduling"] if self.keeps_base else None)

    @property
    def keeps_base(self) -> bool:
        return hasattr(self.llm, "release_kv_cache_memory")

    def close(self) -> None:
        with suppress(Exception):  # whatever it says on its way out, its processes are ended below
            self.engine.engine_core.shutdown()
        self.kill()


class VllmEngine(VersionedEngine):
    """A run's engine over a vLLM, which it closes with itself unless others have it too."""

    name = "vllm"

    def __init__(self, policy: Policy, publisher: Publisher, vllm: Vllm, shared: bool = False) -> None:
        super().__init__(policy, publisher)
        self.vllm, self.shared = vllm, shared

    @property
    def room(self) -> int:
        return self.vllm.llm.model_config.max_model_len

    def load(self, version: AdapterVersion) -> None:
        self.vllm.told(lambda engine: engine.add_lora(request(version)), "loading the adapter")

    def forget(self, version: AdapterVersion) -> None:
        self.vllm.told(lambda engine: engine.remove_lora(version.number), "forgetting an adapter")

    def ask(self, prompts: Sequence[Sequence[int]], params: Sequence[dict[str, Any]], what: str, heard: Heard) -> None:
        left, adapter = dict(enumerate(zip(prompts, params, strict=True))), request(self.current)

        def work() -> None:  # after a restart once more, for those that are left
            for row, output in self.vllm.outputs(left, adapter):
                heard(row, answer_of(output))
                del left[row]

        self.vllm.surviving(work, what)

    def resting(self) -> AbstractContextManager[None]:
        return self.vllm.asleep() if self.vllm.rests else nullcontext()

    def close(self) -> None:
        if not self.shared:
            self.vllm.close()
        super().close()


def request(version: AdapterVersion) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(version.name, version.number, str(version.directory))


def answer_of(found: Any) -> Answer:
    ids = [int(token) for token in found.token_ids]
    tables = found.logprobs or []
    sampled = [float(at[token].logprob) for token, at in zip(ids, tables, strict=True)]
    first = {token: float(each.logprob) for token, each in tables[0].items()} if tables else {}
    return Answer(ids, sampled, first, found.finish_reason == "stop")


def mourner(processes: Sequence[psutil.Process]) -> subprocess.Popen[bytes]:
    """A shell that waits for a line, and ends these processes where none comes because we are gone: a vLLM whose parent
    was killed keeps its memory for ever.
    """
    script = f"read line || kill -9 {' '.join(str(process.pid) for process in processes)}"
    with shielded():
        return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
