"""How an evaluation asks, samples and grades: made in one place, checked before anything is sampled, and recorded with
every number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.benchmark import Benchmark
from scrpo_cli.recipe.models import SECOND_TURNS, GateConfig, Recipe, TaskConfig
from scrpo_cli.rollout.base import Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Problem


@dataclass(frozen=True)
class Protocol:
    """All that an evaluation needs to know of a recipe. `task` phrases and grades; `limit` cuts the problems."""

    task: TaskConfig
    samples: int
    turns: int
    temperature: float
    top_p: float
    max_tokens: int
    second_turn: str
    repair: bool
    scaling: bool
    gate: GateConfig
    seed: int
    limit: int | None

    @classmethod
    def of(cls, recipe: Recipe, benchmark: Benchmark | None = None) -> Protocol:
        """What `eval` says, else the benchmark's own sampling, else the defaults; the benchmark's task."""
        sampling, cfg = recipe.protocol(benchmark.sampling if benchmark else None), recipe.eval
        assert sampling.max_tokens
        return cls(
            task=benchmark.task if benchmark else recipe.task,
            samples=sampling.samples,
            turns=sampling.turns,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            second_turn=cfg.second_turn,
            repair=cfg.repair,
            scaling=cfg.scaling,
            gate=cfg.gate,
            seed=recipe.seed,
            limit=cfg.limit,
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.max_tokens, self.top_p)

    @property
    def second_turn_prompts(self) -> dict[str, str]:
        """What is asked after a first answer, by key; empty where nothing is."""
        return {key: getattr(self.task, key) for key in SECOND_TURNS[self.second_turn]} if self.turns > 1 else {}

    @property
    def in_a_row(self) -> int:
        """Answers of the longest conversation."""
        per_turn = 2 if self.second_turn == "self_refine" else 1
        return 1 + per_turn * (self.turns - 1) if self.turns > 1 else 2 if self.repair else 1

    @property
    def answers(self) -> int:
        """Answers for each sample, at most: those in a row, and the repair of a first answer beside further turns."""
        return self.in_a_row + (self.repair and self.turns > 1 and self.second_turn != "reflect")

    def check(self) -> None:
        """Refuse turns, curves and a gate that this protocol cannot give."""
        if self.second_turn == "reflect" and self.turns > 2:
            what = "A reflection shows one earlier answer and is no conversation: it has no third turn."
            raise UserError(what, f"eval.turns: {self.turns}", "Use check, retry or self_refine, or two turns.")
        if self.scaling and (self.turns < 2 or self.samples < 2):
            what = "Inference scaling compares first answers with corrected ones, over several samples."
            raise UserError(what, "eval.scaling", "Add --turns 2 and --samples 8 or more.")
        if self.gate.signal != "none" and self.turns != 2:
            why = "and there is none" if self.turns < 2 else "alone, and there are more"
            comma = "," if self.turns < 2 else ""
            what = f"A gate decides on the second turn{comma} {why}."
            raise UserError(what, f"eval.turns: {self.turns}", "Use --turns 2.")
        if self.gate.signal == "agreement" and self.samples < 2:
            fix = "Ask for more with --samples, or use another signal."
            raise UserError("One answer to a problem always agrees with itself.", "eval.samples: 1", fix)

    def check_length(self, name: str, task: Task, chat: Chat, problems: Sequence[Problem], positions: int) -> None:
        """Refuse a benchmark whose longest conversation may not fit the model's positions."""
        longest = max(chat.lengths([task.messages(p) for p in problems]))
        asked = [*self.second_turn_prompts.values(), *([self.task.reflection_request()] if self.repair else [])]
        answers = self.in_a_row
        room = positions - longest - (answers - 1) * max(map(chat.follow_up_tokens, asked), default=0)
        if answers * self.max_tokens > room:
            raise UserError(
                f"{name}: a prompt of {longest} tokens and {answers} answers of up to {self.max_tokens} tokens do not "
                f"fit the model's {positions} positions.",
                "eval.max_tokens, or the benchmark's sampling.max_tokens",
                f"Give at most --set eval.max_tokens={max(1, room // answers)}.",
            )

    def record(self, benchmark: Benchmark, task: Task, chat: Chat, problems: Sequence[Problem]) -> dict[str, Any]:
        """How the numbers of a benchmark were made; with the weights (`model_identity`) one can make them again."""
        asked = {"system": self.task.system, "prompt": self.task.prompt} | self.second_turn_prompts
        sampled = ("samples", "turns", "temperature", "top_p", "max_tokens", "limit", "seed")
        return {
            **{key: value for key, value in asdict(self).items() if key in sampled},
            "second_turn": self.second_turn if self.turns > 1 else None,
            "prompts": asked,
            "prompt_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
            "prefill": chat.prefill,
            "task": task.name,
            "grader": task.grader,
            "source": benchmark.problems.source,
            "split": benchmark.problems.split,
            "origin": benchmark.origin.model_dump(),
            "revision": benchmark.problems.revision or benchmark.origin.revision or None,
            "problems": len(problems),
            "problems_sha256": fingerprint(problems),
            "scrpo_version": version("scrpo-cli"),
        }


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 over the problems in order: what was scored, to the letter, with what the grader knows of each."""
    digest = hashlib.sha256()
    for p in problems:
        row = [p.source, p.id, p.text, p.answer, dict(p.meta)]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
