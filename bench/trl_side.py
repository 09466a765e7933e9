"""TRL's side of a training step: GRPOTrainer as it is, one optimizer step at a time, with the seconds of its parts."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from datasets import Dataset
from measuring import clock
from sides import SIZE, Batch
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from scrpo_cli.training.policy import Policy

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # of `rollout_func`, by which it is given our rows
NEVER = -1
"""No token's id: every answer takes its whole length."""


class Watch(TrainerCallback):
    """The seconds of a step, from its begin to its end."""

    start = seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = clock() - self.start


class Opponent(GRPOTrainer):
    """`samples`: it samples completions of its own; else it is given the batch's."""

    def __init__(self, policy: Policy, batch: Batch, microbatch_rows: int, directory: Path, samples: bool) -> None:
        self.watch, self.sampling, self.scoring = Watch(), 0.0, 0.0
        texts = [" ".join(map(str, ids)) for ids in batch.prompts[::SIZE]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(
                model=policy.model,
                reward_funcs=lambda prompts, **_: batch.rewards.ravel().tolist(),
                args=config(policy, batch, microbatch_rows, directory),
                train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
                processing_class=policy.tokenizer,
                callbacks=[self.watch],
                rollout_func=None if samples else lambda prompts, trainer: given(batch),
            )
        self.eos_token_ids = [NEVER]
        self.remove_callback(PrinterCallback)  # it prints its last metrics even when told to log nothing
        logging.getLogger("trl").setLevel(logging.ERROR)

    def step(self) -> dict[str, float]:
        """Seconds of sampling, training and the whole step, rewards and advantages included."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.train()
        whole = self.watch.seconds
        return {"sample": self.sampling, "train": whole - self.scoring, "step": whole}

    def _generate(self, prompts: list) -> Any:
        start = clock()
        found = super()._generate(prompts)
        self.sampling = clock() - start
        return found

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        start = clock()
        found = super()._generate_and_score_completions(inputs)
        self.scoring = clock() - start
        return found


def given(batch: Batch) -> dict[str, Any]:
    return {"prompt_ids": batch.prompts, "completion_ids": batch.completions, "logprobs": None}


def config(policy: Policy, batch: Batch, microbatch_rows: int, directory: Path) -> GRPOConfig:
    """One step of our GRPO in TRL's words; its defaults of bfloat16 and gradient checkpointing are off, as ours are."""
    return GRPOConfig(
        output_dir=str(directory),
        per_device_train_batch_size=microbatch_rows,
        gradient_accumulation_steps=batch.cell.rows // microbatch_rows,
        num_generations=SIZE,
        max_completion_length=batch.cell.completion,
        generation_kwargs={"eos_token_id": None},
        temperature=1.0,
        loss_type="dapo",
        beta=0.0,
        learning_rate=1e-9,
        lr_scheduler_type="constant",
        max_steps=1,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=policy.device.type == "cpu",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
