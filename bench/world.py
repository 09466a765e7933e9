"""A GRPO step of the tiny world beside one of TRL's GRPOTrainer: same model, problems, group size, LoRA, one thread.

Both run in one process, a step of one after a step of the other, in alternating order, so that a change in the load of
the machine meets both. Completion lengths are sampled, so speeds are tokens per second. Training is raced twice: each
side on its own completions (ours skips groups with equal rewards), and ours on the very rows that TRL has just
trained on.

    python bench/world.py [--quick] [--rounds N] [--trl-batch ROWS] [--set K=V ...]
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measuring import Grid, machine, options, report, shown, spread
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from scrpo_cli.methods.base import Credits, flat_credit, no_credit
from scrpo_cli.methods.registry import make_method
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.policy import load_policy
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.training.session import method_context
from scrpo_cli.training.update import Updater
from scrpo_cli.types import Attempt, Completion, FinishReason, Problem

FIXED = ["optim.lr=1e-9", "optim.max_generated_tokens=", "method.kl.beta=0"]  # the policy stands still: rounds compare


@dataclass
class Phase:
    """Seconds and tokens of one phase, a value a round."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds.append(seconds)
        self.tokens.append(tokens)

    def speeds(self, skip: int) -> np.ndarray:
        """Tokens per second of each round after the warm-up."""
        return np.array(self.tokens[skip:]) / np.array(self.seconds[skip:])


class NoLibrary:
    """GRPO learns from nothing that was recorded earlier."""

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> list[Attempt]:
        return []


class Ours:
    """One GRPO step through the project's own functions, phase by phase."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.recipe = runtime, runtime.recipe
        self.problems = runtime.task.problems(self.recipe.task.train)
        self.method = make_method(self.recipe.method, method_context(runtime, self.problems, NoLibrary()))
        self.updater = Updater(runtime.policy, self.recipe)
        self.sample, self.train, self.same_rows, self.step = Phase(), Phase(), Phase(), Phase()

    def run(self, step: int) -> None:
        runtime, start = self.runtime, time.perf_counter()
        requests = self.method.plan(step, []).requests
        origin = Origin("race", self.recipe.seed, step, "rollout")
        completions = sample_requests(runtime.engine, runtime.chat, requests, runtime.sampling, origin)
        sampled = time.perf_counter()
        reflection = self.recipe.task.reflection
        groups = grade_groups(runtime.task, reflection, requests, completions, origin, runtime.chat.prefill)
        credits = self.method.credit(groups)
        credited = time.perf_counter()
        flat = [c for group in completions for c in group]
        self.updater.update(step, flat, credits)
        end = time.perf_counter()
        tokens = sum(len(c.ids) for c in flat)
        self.sample.add(sampled - start, tokens)
        self.train.add(end - credited, tokens)
        self.step.add(end - start, tokens)

    def train_on(self, step: int, rows: Sequence[Completion], advantages: Sequence[float]) -> None:
        """The same optimizer step that TRL took: its completions, its advantages, no row skipped but truncated ones."""
        known = [self.with_logprobs(row) for row in rows]
        cut = [row.finish is FinishReason.LENGTH for row in rows]
        credits = Credits(
            [
                no_credit(len(r.ids)) if c else flat_credit(len(r.ids), a, 0.0)
                for r, a, c in zip(rows, advantages, cut, strict=True)
            ],
            "masked_tokens",
            self.recipe.method.clip,
        )
        start = time.perf_counter()
        self.updater.update(step, known, credits)
        self.same_rows.add(time.perf_counter() - start, sum(len(r.ids) for r in rows))

    @torch.no_grad()
    def with_logprobs(self, row: Completion) -> Completion:
        logp_T, _ = completion_logprobs(self.runtime.policy.model, [(row.prompt_ids, row.ids)], 1.0, 4096)
        return Completion(row.prompt_ids, row.ids, logp_T.tolist(), row.text, row.finish)


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that says how long its generation took and what it will train on."""

    batch: dict[str, Any]
    tokens: int
    sampling: float  # seconds inside its generation (tokenize, generate, decode)
    scoring: float  # seconds of generation, rewards and advantages together

    def _generate(self, prompts: list) -> Any:
        start = time.perf_counter()
        found = super()._generate(prompts)
        self.sampling = time.perf_counter() - start
        return found

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        start = time.perf_counter()
        self.batch = super()._generate_and_score_completions(inputs)
        self.scoring = time.perf_counter() - start
        self.tokens = int(self.batch["completion_mask"].sum())
        return self.batch


class Interleave(TrainerCallback):
    """Runs our step before TRL's in even rounds and after it in odd ones."""

    def __init__(self, ours: Ours, console: Console) -> None:
        self.ours, self.console = ours, console
        self.trainer: TimedTrainer | None = None
        self.sample, self.train, self.step, self.start = Phase(), Phase(), Phase(), 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % 2 == 0:
            self.ours.run(state.global_step + 1)  # ours count from 1
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds, trainer = time.perf_counter() - self.start, self.trainer
        assert trainer is not None
        self.sample.add(trainer.sampling, trainer.tokens)
        self.train.add(seconds - trainer.scoring, trainer.tokens)
        self.step.add(seconds, trainer.tokens)
        step = state.global_step - 1
        self.ours.train_on(step, *rows_of(trainer.batch))
        if step % 2 == 1:
            self.ours.run(step + 1)
        self.console.print(
            f"round {step}: TRL sample {trainer.sampling:.2f} s, train {self.train.seconds[-1]:.2f} s; "
            f"ours sample {self.ours.sample.seconds[-1]:.2f} s, train {self.ours.train.seconds[-1]:.2f} s, "
            f"train on TRL's rows {self.ours.same_rows.seconds[-1]:.2f} s"
        )


def rows_of(batch: dict[str, Any]) -> tuple[list[Completion], list[float]]:
    """TRL's padded batch as completions and their advantages. A row that TRL has masked counts as truncated."""
    rows = []
    for prompt, p_mask, ids, c_mask in zip(
        batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"], strict=True
    ):
        kept = ids[c_mask.bool()].tolist()
        finish = FinishReason.STOP if kept else FinishReason.LENGTH
        rows.append(Completion(prompt[p_mask.bool()].tolist(), kept or ids.tolist(), [], "", finish))
    return rows, batch["advantages"].tolist()


def trl_config(recipe: Recipe, rounds: int, batch: int, directory: str) -> GRPOConfig:
    """Our recipe's numbers in TRL's words; its defaults of bfloat16 and gradient checkpointing are off, as ours are."""
    rows = recipe.optim.prompts_per_step * recipe.rollout.group_size
    return GRPOConfig(
        output_dir=directory,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rows // batch,
        num_generations=recipe.rollout.group_size,
        max_completion_length=recipe.rollout.max_tokens,
        temperature=recipe.rollout.temperature,
        loss_type="dapo",
        beta=0.0,
        mask_truncated_completions=True,
        learning_rate=recipe.optim.lr,
        lr_scheduler_type="constant",
        max_grad_norm=recipe.optim.grad_clip,
        max_steps=rounds,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=recipe.seed,
    )


def grading(runtime: Runtime, problems: Sequence[Problem]) -> Callable[..., list[float | None]]:
    """Our grader as TRL's reward function."""

    def outcome(completions: list[list[dict[str, str]]], index: list[int], **_: Any) -> list[float | None]:
        pairs = [(problems[i], c[0]["content"]) for i, c in zip(index, completions, strict=True)]
        return [grade.verdict.reward for grade in runtime.task.grade(pairs)]

    return outcome


def race(recipe: Recipe, rounds: int, batch: int, console: Console) -> Interleave:
    with open_runtime(recipe) as runtime, tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = Ours(runtime)
        problems = [p for step in range(1, rounds + 1) for p in ours.method.prompts.problems(step)]
        rows = [{"prompt": list(runtime.task.messages(p)), "index": i} for i, p in enumerate(problems)]
        interleave = Interleave(ours, console)
        policy = load_policy(recipe.model, recipe.seed)  # a second copy of the same model, with an adapter of its own
        trainer = TimedTrainer(
            model=policy.model,
            reward_funcs=grading(runtime, problems),
            args=trl_config(recipe, rounds, batch, directory),
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            callbacks=[interleave],
        )
        trainer.remove_callback(PrinterCallback)  # it prints its last metrics even when told to log nothing
        interleave.trainer = trainer
        trainer.train()
        return interleave


def results(trl: Interleave, skip: int) -> dict[str, Any]:
    """Tokens per second of both by phase, and the median of the rounds' ratios ours / TRL."""
    ours = trl.ours
    pairs = {
        "generation": (ours.sample, trl.sample),
        "training, same rows": (ours.same_rows, trl.train),
        "training, own rows": (ours.train, trl.train),
        "whole step": (ours.step, trl.step),
    }
    return {
        name: {
            "ours_tokens_per_s": spread(a.speeds(skip)),
            "trl_tokens_per_s": spread(b.speeds(skip)),
            "ratio": spread(a.speeds(skip) / b.speeds(skip)),
            "rounds": {"ours": vars(a), "trl": vars(b)},
        }
        for name, (a, b) in pairs.items()
    }


def grid(found: dict[str, Any]) -> Grid:
    rows = [
        [name, shown(row["ours_tokens_per_s"], 0), shown(row["trl_tokens_per_s"], 0), shown(row["ratio"], 2)]
        for name, row in found.items()
    ]
    columns = ["phase", "ours, tokens/s", "TRL, tokens/s", "speed of ours / TRL's"]
    return Grid("tiny world, a GRPO step, medians (quartiles)", columns, rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds after two of warm-up (default 12)")
    parser.add_argument("--trl-batch", type=int, default=32, help="TRL's rows a micro-batch (default 32)")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="override a recipe key")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, skip = Console(), 1 if args.quick else 2
    recipe = load_recipe("tiny-grpo", [*FIXED, *args.set])
    before = machine()
    found = results(race(recipe, skip + (3 if args.quick else args.rounds), args.trl_batch, console), skip)
    data = {"before": before, "warm_up_rounds": skip, "trl_batch": args.trl_batch}
    report("world", [grid(found)], data | {"recipe": recipe.model_dump(mode="json"), "phases": found}, args.out)


if __name__ == "__main__":
    main()
