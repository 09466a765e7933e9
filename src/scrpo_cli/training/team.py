"""Several processes in one run: process 0 leads, and the others help it to sample and to train.

`accelerate launch -m scrpo_cli train ...` starts them all alike, and each holds the base model, the adapter and an
optimizer. Process 0 runs the command as if it was alone: it alone plans, grades, credits, records and saves. Where it
samples or passes rows through the model, it sends every process a share of them and does one itself; what comes back is
as if it had done all. One thing is summed over the processes, the gradients, so that all make the same optimizer step.

What is sent goes through torch.distributed with gloo, over TCP: it tells at once when a process has gone, and what the
tests run on CPUs is what GPUs run. Only process 0 has deadlines. Others wait as long as it lives, and end when it ends.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from scrpo_cli import launch
from scrpo_cli.errors import RunError, ScrpoError, UserError
from scrpo_cli.recipe.models import ModelConfig, Recipe
from scrpo_cli.rollout.engines import chosen_engine
from scrpo_cli.threads import in_a_thread
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.policy import pick_device

Result = TypeVar("Result")
DEADLINE_S = 3600.0
"""How long process 0 waits for another once its own share is done: the longest answers may all be the other's."""
LAST_WORDS_S = 2.0
LIFE = timedelta(days=30)
"""torch.distributed's own deadline, which holds for waits that may last as long as the run."""


class Team:
    """The processes of a run as process 0 sees them. `again` says how to go on after an interruption."""

    def __init__(self, size: int, again: str = "") -> None:
        self.size, self.again = size, again
        self._owing: set[int] = set()
        self._idle: set[int] = set()

    @property
    def others(self) -> range:
        return range(1, self.size)

    def everywhere(
        self, what: str, shares: Sequence[tuple[Any, ...]], mine: Callable[..., Result], task: str = ""
    ) -> list[Result]:
        """The results of all processes, in their order: `mine` of the first share here, and elsewhere the method `task`
        (without it, called like `mine`) of the `Helper`. Raises the first error once all have ended; `what` names the
        work in it.
        """
        for rank in self.others:
            self.tell(rank, (task or mine.__name__, shares[rank]), what)
        found = [outcome(lambda: mine(*shares[0])), *(self.answer(rank, what) for rank in self.others)]
        if error := next((each for each in found if isinstance(each, Exception)), None):
            raise error
        return found  # type: ignore[return-value]

    def same(self, *args: Any) -> list[tuple[Any, ...]]:
        """The same arguments for every process."""
        return [args] * self.size

    def tell(self, rank: int, message: Any, what: str, seconds: float | None = None) -> None:
        self._idle.discard(rank)
        self.wait(lambda: send(message, rank), what, f"Process {rank}", seconds)
        self._owing.add(rank)

    def answer(self, rank: int, what: str, seconds: float | None = None) -> Any:
        """What process `rank` has found, or the error that it has met. What it warned of is said here."""
        self._owing.discard(rank)
        found, said = self.wait(lambda: receive(rank), what, f"Process {rank}", seconds)
        self._idle.add(rank)
        for each in said:
            warnings.warn(f"process {rank}: {each}", stacklevel=2)
        if isinstance(found, ScrpoError):
            found.what = f"Process {rank}, {what}: {found.what}"
        return found

    def wait(
        self, work: Callable[[], Result], what: str, who: str = "Another process", seconds: float | None = None
    ) -> Result:
        """`work`, which waits for others. RunError where they have gone, or do nothing until the deadline."""
        seconds, where = DEADLINE_S if seconds is None else seconds, f"{self.size} processes"
        try:
            return watched(work, seconds)
        except TimeoutError as error:
            told = f"{who} did not end {what} within {seconds:g} s after process 0."
            raise RunError(told, where, f"See what it hangs on. {self.again}") from error
        except RuntimeError as error:  # gloo: the connection is closed
            raise RunError(f"{who} has gone while {what}.", where, f"See its own output. {self.again}") from error

    def dismiss(self) -> None:
        """End the others. Who is still at work then, finds process 0 gone after it."""
        end = time.monotonic() + LAST_WORDS_S
        with suppress(ScrpoError):
            for rank in sorted(self._owing):
                self.answer(rank, "ending", max(0.0, end - time.monotonic()))
        with suppress(ScrpoError):
            for rank in sorted(self._idle):
                self.tell(rank, None, "ending", LAST_WORDS_S)


@contextmanager
def gathered(recipe: Recipe, again: str = "") -> Iterator[Team | None]:
    """The processes that a launcher has started with this one, told the recipe; None where this one is alone."""
    if launch.processes() == 1:
        yield None
        return
    chosen_engine(recipe.rollout, take_device(recipe.model))  # says what is not there before it waits for anybody
    team = Team(launch.processes(), again)
    now().stage(f"waiting for the other {team.size - 1} of {team.size} processes")
    try:
        watched(join, DEADLINE_S)
    except (TimeoutError, dist.DistError) as error:
        what = f"Not all of the {team.size} processes came within {DEADLINE_S:g} s."
        raise RunError(what, "torch.distributed", "Start all of them with one launcher.") from error
    try:
        for rank in team.others:
            team.tell(rank, recipe, "starting")
        yield team
    finally:
        team.dismiss()
    dist.destroy_process_group()


def join() -> None:
    """Meet the other processes at the address that the launcher has put into the environment."""
    store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=DEADLINE_S)))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=LIFE)


def take_device(cfg: ModelConfig) -> str:
    """The recipe's kind of device; of several GPUs this process takes the one with its own number from here on."""
    device = pick_device(cfg)
    if device == "cuda":
        if launch.local_rank() >= (there := torch.cuda.device_count()):
            what = f"Process {launch.rank()} has no GPU: its machine has {there}."
            raise UserError(what, "--num_processes", "Start one process a GPU.")
        torch.cuda.set_device(launch.local_rank())
    return device


def send(message: Any, rank: int) -> None:
    dist.send_object_list([message], dst=rank)


def receive(rank: int) -> Any:
    found = [None]
    dist.recv_object_list(found, src=rank)
    return found[0]


def outcome(work: Callable[[], Result]) -> Result | Exception:
    """What `work` returns or raises."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 it is raised when all have ended
        return error


def watched(work: Callable[[], Result], seconds: float) -> Result:
    """`work` in a thread of its own, so that signals are heard meanwhile. TimeoutError after so many seconds."""
    return in_a_thread(work).result(seconds)


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Every process has the sum of all gradients after it. A parameter that none has a gradient of has none still."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    there_P = torch.tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([there_P, *(g.detach().flatten().float().cpu() for g in grads)])
    dist.all_reduce(flat)
    there_P, *sums = flat.split([len(grads), *(g.numel() for g in grads)])
    for p, grad, total, there in zip(parameters, grads, sums, there_P, strict=True):
        p.grad = total.view_as(grad).to(grad) if there else None


def dealt(costs: Sequence[float], firsts: Sequence[int], parts: int) -> list[range]:
    """Shares of rows in a row, of costs as like as can be, cut only before the rows `firsts`, where groups begin. Where
    there are fewer groups than parts, some get nothing.
    """
    before = np.concatenate([[0.0], np.cumsum(costs)])
    cuts = np.array([*firsts, len(costs)])
    ends = [int(cuts[np.abs(before[cuts] - k * before[-1] / parts).argmin()]) for k in range(parts + 1)]
    return [range(a, b) for a, b in pairwise([0, *ends[1:-1], len(costs)])]
