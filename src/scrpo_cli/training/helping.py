"""The two sides of a run in several processes: how process 0 shares its work out, and what the others do with it."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from scrpo_cli import launch
from scrpo_cli.errors import RunError, ScrpoError, first_line
from scrpo_cli.methods.base import Credits
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import Around, Engine, Finished, RowKey, Sampling, Synced
from scrpo_cli.rollout.engines import chosen_engine, open_engine
from scrpo_cli.signals import deaf
from scrpo_cli.training.policy import Policy, load_policy, source_of
from scrpo_cli.training.scorer import sampled_otherwise
from scrpo_cli.training.team import Team, dealt, join, outcome, receive, send, sum_gradients, take_device
from scrpo_cli.training.update import TrainRow, Updater
from scrpo_cli.types import Completion

Stats = list[dict[str, torch.Tensor]]


class SharedEngine(Around):
    """Samples on all processes, each whole groups with an engine of its own; but servers are asked for everything by
    process 0, which keeps them busy. Where a signal stops the sampling, only answers of process 0 are kept.
    """

    def __init__(self, engine: Engine, policy: Policy, team: Team) -> None:
        super().__init__(engine)
        self.policy, self.team = policy, team
        self.one_each = one_each(engine.name)

    @property
    def copies(self) -> Sequence[str]:
        if not self.one_each:
            return self.inner.copies
        return [f"process {rank}" for rank in range(self.team.size)]

    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        if not self.one_each:
            return self.inner.score(rows)
        found = self.team.everywhere("scoring by the engines", self.team.same(rows), self.inner.score, "engine_score")
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        if not self.one_each:
            return self.inner.generate(prompts, sampling, keys, finished)
        firsts = beginnings(prompts)
        shares = [
            (prompts[part.start : part.stop], sampling, keys[part.start : part.stop])
            for part in dealt([1.0] * len(prompts), firsts, self.team.size)
        ]
        mine = partial(self.inner.generate, finished=finished)  # the first rows of all
        return [c for part in self.team.everywhere("sampling", shares, mine, "generate") for c in part]

    def sync(self) -> Synced:
        """Also sees that all processes hold the same adapter: they make the same steps, and send no weights."""
        hashes = self.team.everywhere("comparing adapters", self.team.same(), self.policy.adapter_hash)
        if other := [rank for rank, found in enumerate(hashes) if found != hashes[0]]:
            what = f"Process {other[0]} holds another adapter than process 0 after the same steps."
            raise RunError(what, f"process {other[0]} of {self.team.size}", f"Use GPUs of one kind. {self.team.again}")
        if not (self.one_each and self.has_own_weights):
            return self.inner.sync()
        done = self.team.everywhere("giving the engines the adapter", self.team.same(), self.inner.sync, "sync")
        return Synced(sum(each.bytes for each in done), max(each.seconds for each in done))

    @contextmanager
    def resting(self) -> Iterator[None]:
        with ExitStack() as rest:
            if not (self.one_each and self.has_own_weights):
                rest.enter_context(self.inner.resting())
                yield
                return
            self.tell("putting the engines to rest", lambda: rest.enter_context(self.inner.resting()), "rest")
            try:
                yield
            except BaseException:
                with suppress(ScrpoError):  # what went wrong first is what is said
                    self.tell("waking the engines", rest.close, "wake")
                raise
            self.tell("waking the engines", rest.close, "wake")

    def tell(self, what: str, mine: Callable[[], Any], task: str) -> None:
        self.team.everywhere(what, self.team.same(), mine, task)


class SharedUpdater(Updater):
    """Trains on all processes. The weights of tokens come with the rows, so that there is no denominator to reduce."""

    def __init__(self, policy: Policy, recipe: Recipe, corrects: bool, team: Team) -> None:
        super().__init__(policy, recipe, corrects)
        self.team = team

    def announce(self) -> None:
        """Wait until all have loaded the model, and give them the adapter, the reference and the optimizer's state."""
        for rank in self.team.others:
            found = self.team.answer(rank, "loading the model")
            if isinstance(found, Exception):
                raise found
            if found and self.policy.base and found != self.policy.base:
                what = f"Process {rank} has loaded other weights of the base model than process 0."
                raise RunError(what, f"process {rank} of {self.team.size}", "Give all machines the same files.")
        weights = [p.detach() for p in self.policy.trainable()]
        file = io.BytesIO()
        torch.save((weights, self.policy.frozen, self.policy.version, self.optimizer.state_dict()), file)
        asked = self.team.same(file.getvalue())
        self.team.everywhere("taking over the adapter", asked, lambda _: None, "take_over")

    def set_reference(self, which: str, share: float) -> None:
        self.team.everywhere("freezing the reference", self.team.same(which, share), super().set_reference)

    def log_ratios(self, completions: Sequence[Completion]) -> list[np.ndarray]:
        return self.scored(super().log_ratios, completions, completions)

    def own_logprobs(self, rows: Sequence[TrainRow]) -> list[np.ndarray]:
        return self.scored(super().own_logprobs, rows, [row.completion for row in rows])

    def scored(
        self, score: Callable[..., list[np.ndarray]], scored: Sequence[Any], completions: Sequence[Completion]
    ) -> list[np.ndarray]:
        """What `score` finds of all that is `scored`, whose completions these are."""
        shares = self.shares([[*c.prompt_ids, *c.ids] for c in completions], completions)
        asked = [([scored[i] for i in share], self.recorded) for share in shares]
        found = self.team.everywhere("scoring", asked, lambda mine, _: score(mine), score.__name__)
        by_row = dict(zip(chain(*shares), chain(*found), strict=True))
        return [by_row[i] for i in range(len(completions))]

    def accumulate(self, rows: Sequence[TrainRow], credits: Credits) -> Stats:
        shares = self.shares([row.read for row in rows], [row.completion for row in rows])
        plain = replace(credits, rows=())
        asked = [([rows[i] for i in share], plain, self.recorded) for share in shares]
        mine = super().accumulate
        found = self.team.everywhere("training", asked, lambda rows, credits, _: mine(rows, credits), "accumulate")
        return [{name: each.cpu() for name, each in stats.items()} for part in found for stats in part]

    def step(self, step: int) -> float:
        return self.team.everywhere("stepping", self.team.same(step), self.summed_step, "step")[0]

    def summed_step(self, step: int) -> float:
        self.team.wait(lambda: sum_gradients(self.policy.trainable()), "summing gradients")
        return super().step(step)

    def shares(self, reads: Sequence[Sequence[int]], completions: Sequence[Completion]) -> list[list[int]]:
        """Indices of the rows of each process: rows that begin alike go together, as they are computed together."""
        order = sorted(range(len(reads)), key=lambda i: tuple(reads[i]))
        firsts = beginnings([completions[i].prompt_ids for i in order])
        parts = dealt([len(reads[i]) for i in order], firsts, self.team.size)
        return [[order[k] for k in part] for part in parts]


class Helper:
    """What every process but the first holds, and what process 0 may ask it for. `recorded` is `Updater.recorded`."""

    def __init__(self, recipe: Recipe) -> None:
        device = take_device(recipe.model)
        kind = chosen_engine(recipe.rollout, device)
        self.policy = load_policy(recipe.model, recipe.seed)
        self.engine, self.resting = None, ExitStack()
        if one_each(kind):
            self.engine = open_engine(recipe.rollout, self.policy, source_of(recipe.model))
        self.updater = Updater(self.policy, recipe, sampled_otherwise(kind, self.policy))

    def take_over(self, state: bytes) -> None:
        """What `SharedUpdater.announce` sends."""
        device = self.policy.device
        weights, self.policy.frozen, self.policy.version, optimizer = torch.load(io.BytesIO(state), map_location=device)
        with torch.no_grad():
            for p, other in zip(self.policy.trainable(), weights, strict=True):
                p.copy_(other)
        self.updater.optimizer.load_state_dict(optimizer)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[RowKey]
    ) -> list[Completion]:
        assert self.engine is not None
        return self.engine.generate(prompts, sampling, keys)

    def engine_score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        assert self.engine is not None
        return self.engine.score(rows)

    def sync(self) -> Synced:
        assert self.engine is not None
        return self.engine.sync()

    def rest(self) -> None:
        assert self.engine is not None
        self.resting.enter_context(self.engine.resting())

    def wake(self) -> None:
        self.resting.close()

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def adapter_hash(self) -> str:
        return self.policy.adapter_hash()

    def set_reference(self, which: str, share: float) -> None:
        self.updater.set_reference(which, share)

    def log_ratios(self, completions: Sequence[Completion], recorded: bool) -> list[np.ndarray]:
        self.updater.recorded = recorded
        return self.updater.log_ratios(completions)

    def own_logprobs(self, rows: Sequence[TrainRow], recorded: bool) -> list[np.ndarray]:
        self.updater.recorded = recorded
        return self.updater.own_logprobs(rows)

    def accumulate(self, rows: Sequence[TrainRow], credits: Credits, recorded: bool) -> Stats:
        self.updater.recorded = recorded
        found = self.updater.accumulate(rows, credits)
        return [{name: each.cpu() for name, each in stats.items()} for stats in found]

    def step(self, step: int) -> float:
        sum_gradients(self.policy.trainable())
        return self.updater.step(step)


def one_each(engine: str) -> bool:
    """Whether each process has an engine of this name."""
    return engine != "vllm_server"


def beginnings(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Where another prompt begins than the row before has."""
    return [i for i, prompt in enumerate(prompts) if not i or list(prompt) != list(prompts[i - 1])]


def help_out() -> None:
    """What every process but the first does: help until it is dismissed. It says nothing, since process 0 says it all,
    its warnings too, and once it has loaded it hears no signals, since process 0 decides when to stop. RunError when
    process 0 has gone.
    """
    warnings.simplefilter("ignore")
    helper: Helper | Exception | None = None
    try:
        join()
        recipe = receive(0)
        helper = outcome(lambda: Helper(recipe))
        reply(helper if isinstance(helper, Exception) else helper.policy.base)
        with deaf():
            serve(helper)
    except RuntimeError as error:  # gloo: the connection is closed
        if launch.rank() > 1:  # one is enough to say so
            sys.exit(RunError.exit_code)
        raise RunError("Process 0 of this run has gone, and so the others end.", "", "See its output.") from error
    finally:
        if isinstance(helper, Helper):
            helper.close()
    dist.destroy_process_group()


def serve(helper: Any) -> None:
    """Do what is asked for, until process 0 dismisses (None)."""
    while (asked := receive(0)) is not None:
        with warnings.catch_warnings(record=True) as said:
            warnings.filterwarnings("always", module="scrpo_cli")  # not our dependencies' talk to each other
            found = outcome(partial(getattr(helper, asked[0]), *asked[1]))
        reply(found, [str(each.message) for each in said])


def reply(found: Any, said: Sequence[str] = ()) -> None:
    """Give process 0 what was found, or the error that was met, and the warnings for it to say."""
    send((sendable(found) if isinstance(found, Exception) else found, said), 0)


def sendable(error: Exception) -> ScrpoError:
    if isinstance(error, ScrpoError):
        return error
    return RunError(f"{type(error).__name__}: {first_line(error)}", "", "This is unexpected.")
