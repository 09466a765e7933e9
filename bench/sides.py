"""What the races against TRL run: the cells of a race, their rows, and our side of a training step.

In a group with signal every second answer is right; in a silent one none is. All rows of a cell have the same lengths
(`uneven`: completions of half to one and a half times the length), so that no side wins by the padding of the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import clock, spread

from scrpo_cli.methods.base import ClipConfig, Credits, flat_credit, no_credit
from scrpo_cli.methods.parts.advantages import group_norm, has_signal
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.policy import Policy, load_policy
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Completion, FinishReason

SIZE = 8
"""Answers of a group, the G of the floor."""


@dataclass(frozen=True)
class Cell:
    """`groups` prompts of `prompt` tokens with SIZE completions of `completion` tokens each."""

    prompt: int
    completion: int
    groups: int
    silent: bool = False
    """Every second group has no signal."""
    uneven: bool = False

    @property
    def floor(self) -> float:
        """The share of the tokens that is left where a prompt is computed once a group: (p / G + c) / (p + c)."""
        return (self.prompt / SIZE + self.completion) / (self.prompt + self.completion)

    @property
    def alive(self) -> float:
        """The share of groups with signal."""
        return ((self.groups + 1) // 2) / self.groups if self.silent else 1.0

    @property
    def rows(self) -> int:
        return self.groups * SIZE

    @property
    def name(self) -> str:
        lengths = f"{self.prompt} : {self.completion}"
        return f"{lengths}, uneven" if self.uneven else lengths

    def rows_within(self, tokens: int) -> int:
        """Rows of the largest micro-batch within `tokens`, a power of two."""
        found = 1
        while 2 * found * (self.prompt + self.completion) <= tokens and 2 * found <= self.rows:
            found *= 2
        return found


def cells(lengths: Sequence[tuple[int, int]], groups: int, uneven: bool = False) -> list[Cell]:
    """Every pair of lengths with signal in all groups and in half of them, and with uneven completions if wanted."""
    kinds = [{}, {"silent": True}, *([{"uneven": True}] if uneven else [])]
    return [Cell(prompt, completion, groups, **kind) for kind in kinds for prompt, completion in lengths]


@dataclass(frozen=True)
class Batch:
    """The rows of a cell: random tokens, and what their answers earn."""

    cell: Cell
    vocabulary: int

    @cached_property
    def prompts(self) -> list[list[int]]:
        """One a row, those of a group alike."""
        found = np.random.default_rng(0).integers(1, self.vocabulary - 1, (self.cell.groups, self.cell.prompt))
        return [ids for ids in found.tolist() for _ in range(SIZE)]

    @cached_property
    def completions(self) -> list[list[int]]:
        rng, length = np.random.default_rng(1), self.cell.completion
        lengths = rng.integers(length // 2, length * 3 // 2 + 1, self.cell.rows) if self.cell.uneven else None
        counts = [length] * self.cell.rows if lengths is None else lengths.tolist()
        return [rng.integers(1, self.vocabulary - 1, count).tolist() for count in counts]

    @property
    def rewards(self) -> np.ndarray:
        """(groups, SIZE)."""
        found = np.tile(np.arange(SIZE) % 2, (self.cell.groups, 1)).astype(float)
        if self.cell.silent:
            found[1::2] = 0.0
        return found

    def recorded(self) -> list[Completion]:
        """With the log-probs that random weights give, so that no ratio is clipped."""
        known = -float(np.log(self.vocabulary))
        rows = zip(self.prompts, self.completions)
        return [Completion(p, c, [known] * len(c), "", FinishReason.STOP) for p, c in rows]

    def credits(self, completions: Sequence[Completion]) -> Credits:
        advantages = [group_norm(r) if has_signal(r) else np.zeros(SIZE) for r in self.rewards]
        rows = [
            flat_credit(len(row.ids), float(a), 0.0) if a else no_credit(len(row.ids))
            for row, a in zip(completions, np.concatenate(advantages))
        ]
        return Credits(rows, "masked_tokens", ClipConfig())


def recipe_of(model: Path, microbatch_tokens: int, share: bool, sets: Sequence[str] = ()) -> Recipe:
    """GRPO with LoRA on a model of `models.build`; the policy all but stands still, so that repeats compare."""
    fixed = [f"model.name={model}", "model.device=cpu", "optim.lr=1e-9", f"optim.share_prefixes={share}"]
    return load_recipe("tiny-grpo", [*fixed, f"optim.tokens_per_microbatch={microbatch_tokens}", *sets])


class Ours:
    """Our side of a step: `share` computes what rows begin with once, without it every row is computed alone."""

    def __init__(self, policy: Policy, recipe: Recipe) -> None:
        self.policy, self.recipe = policy, recipe
        self.engine = TransformersEngine(policy, recipe.rollout.batch_size)
        self.engine.stop_ids = []  # every answer takes its whole length
        self.asked = 0

    def update(self, batch: Batch) -> float:
        """Seconds of an optimizer step on the batch's rows."""
        rows = batch.recorded()
        return self.trained(rows, batch.credits(rows))

    def trained(self, rows: Sequence[Completion], credits: Credits) -> float:
        updater = Updater(self.policy, self.recipe)  # also chooses how rows are computed
        start = clock()
        updater.update(1, rows, credits)
        return clock() - start

    def sampled(self, batch: Batch) -> tuple[float, list[Completion]]:
        self.asked += 1
        keys = [RowKey(0, self.asked, "bench", i) for i in range(batch.cell.rows)]
        start = clock()
        rows = self.engine.generate(batch.prompts, Sampling(1.0, batch.cell.completion), keys)
        return clock() - start, rows

    def step(self, batch: Batch) -> dict[str, float]:
        """Seconds of sampling, training and both, on completions of its own."""
        sampling, rows = self.sampled(batch)
        training = self.trained(rows, batch.credits(rows))
        return {"sample": sampling, "train": training, "step": sampling + training}


def our_policy(recipe: Recipe) -> Policy:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return load_policy(recipe.model, 0)


def rounds(work: dict[str, Callable[[], Any]], seconds: float, least: int = 2) -> dict[str, list[Any]]:
    """What each returns, a value a round, in alternating order, until the time is used up; the first round warms up."""
    found: dict[str, list[Any]] = {name: [] for name in work}
    end, count = time.monotonic() + seconds, -1
    while count < least or time.monotonic() < end:
        for name in list(work) if count % 2 else list(work)[::-1]:
            value = work[name]()
            if count >= 0:
                found[name].append(value)
        count += 1
    return found


def ratio(a: Sequence[float], b: Sequence[float]) -> dict[str, float | int]:
    """The spread of a / b, round by round."""
    return spread(np.array(a) / np.array(b))
