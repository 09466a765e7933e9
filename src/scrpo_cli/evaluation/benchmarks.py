"""The problems of benchmarks, what is recorded of the protocol with every number, and the average of a suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import sqrt
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.recipe.benchmark import Benchmark
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Problem


def benchmark_problems(benchmark: Benchmark, task: Task, limit: int | None) -> Sequence[Problem]:
    """The problems of a benchmark, cut at `eval.limit`."""
    return task.problems(benchmark.problems)[:limit]


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 over the problems in order: what was scored, to the letter, with what the grader knows of each."""
    digest = hashlib.sha256()
    for p in problems:
        row = [p.source, p.id, p.text, p.answer, dict(p.meta)]
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def protocol(benchmark: Benchmark, evaluator: Evaluator, problems: Sequence[Problem]) -> dict[str, Any]:
    """How the numbers of a benchmark were made; with the weights (`model_identity`) one can make them again."""
    recipe, task = evaluator.recipe, evaluator.recipe.task
    sampling = evaluator.protocol.model_dump()
    asked = {"system": task.system, "prompt": task.prompt} | second_turn_prompts(recipe, sampling["turns"])
    return {
        **sampling,
        "second_turn": recipe.eval.second_turn if sampling["turns"] > 1 else None,
        "prompts": asked,
        "prompt_sha256": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        "prefill": evaluator.chat.prefill,
        "task": task.name,
        "grader": evaluator.task.grader,
        "source": benchmark.problems.source,
        "split": benchmark.problems.split,
        "origin": benchmark.origin.model_dump(),
        "revision": benchmark.problems.revision or benchmark.origin.revision or None,
        "problems": len(problems),
        "limit": recipe.eval.limit,
        "problems_sha256": fingerprint(problems),
        "seed": recipe.seed,
        "scrpo_version": version("scrpo-cli"),
    }


def second_turn_prompts(recipe: Recipe, turns: int) -> dict[str, str]:
    keys = {
        "check": ["check_prompt"],
        "retry": ["retry_prompt"],
        "reflect": ["reflect_prompt"],
        "self_refine": ["feedback_prompt", "refine_prompt"],
    }[recipe.eval.second_turn]
    return {key: getattr(recipe.task, key) for key in keys} if turns > 1 else {}


def suite_average(results: Mapping[str, Mapping[str, Any]], members: Sequence[str]) -> dict[str, Any]:
    """The plain mean of the members' avg@k, each benchmark counting once whatever its size.

    Interval: the benchmarks are independent, so the squared half-widths add up (MOVER, Zou and Donner 2008, Statistics
    in Medicine 27:1693): lower = mean - sqrt(sum (m_i - l_i)^2) / M, upper likewise. With symmetric intervals this is
    the sum of squared standard errors; near 0 and 1 each side keeps the shape of its benchmark's own interval.
    """
    found = [results[name] for name in members]
    mean = sum(r["avg"] for r in found) / len(found)
    below = sqrt(sum((r["avg"] - r["ci95"][0]) ** 2 for r in found)) / len(found)
    above = sqrt(sum((r["ci95"][1] - r["avg"]) ** 2 for r in found)) / len(found)
    ci95 = [max(0.0, mean - below), min(1.0, mean + above)]
    return {"avg": mean, "ci95": ci95, "benchmarks": [*members], "problems": sum(r["n"] for r in found)}


def check_context(evaluator: Evaluator, name: str, problems: Sequence[Problem], positions: int | None) -> None:
    """Refuse a benchmark whose longest conversation may not fit the model, before anything is sampled."""
    cfg, protocol = evaluator.recipe.eval, evaluator.protocol
    longest = max(len(evaluator.chat.ids(evaluator.task.messages(p))) for p in problems)
    follow_up = max((len(t) for t in second_turn_prompts(evaluator.recipe, protocol.turns).values()), default=0)
    per_turn = 2 if cfg.second_turn == "self_refine" else 1
    answers = 1 + per_turn * (protocol.turns - 1) if protocol.turns > 1 else 2 if cfg.repair else 1
    room = (positions or 0) - longest - (answers - 1) * follow_up // 3  # a token has three letters or more, about
    if positions is not None and answers * (protocol.max_tokens or 0) > room:
        raise UserError(
            f"{name}: a prompt of {longest} tokens and {answers} answers of up to {protocol.max_tokens} tokens do not "
            f"fit the model's {positions} positions.",
            "eval.max_tokens, or the benchmark's sampling.max_tokens",
            f"Give at most --set eval.max_tokens={max(1, room // answers)}.",
        )


def check_turns(evaluator: Evaluator) -> None:
    """Refuse turns and curves that the protocol cannot give."""
    cfg, protocol = evaluator.recipe.eval, evaluator.protocol
    if cfg.second_turn == "reflect" and protocol.turns > 2:
        what = "A reflection shows one earlier answer and is no conversation: it has no third turn."
        raise UserError(what, f"eval.turns: {protocol.turns}", "Use check, retry or self_refine, or two turns.")
    if cfg.scaling and (protocol.turns < 2 or protocol.samples < 2):
        what = "Inference scaling compares first answers with corrected ones, over several samples."
        raise UserError(what, "eval.scaling", "Add --turns 2 and --samples 8 or more.")
