"""The default engine: the policy's own module, sampled by inverse CDF from per-row uniforms.

The policy's module is the engine's module, so there is nothing to copy at a sync. In float32 the adapter is merged into
the weights while answers are sampled: a LoRA layer costs three matrix products a token, and one when it is merged.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from scrpo_cli.errors import RunError
from scrpo_cli.rollout.base import Finished, Policy, RowKey, Sampling, Synced
from scrpo_cli.rollout.decode import InverseCdfSampler, decode
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Completion, FinishReason


class TransformersEngine:
    """Generates with the policy's module in evaluation mode, the adapter on."""

    name = "transformers"
    has_own_weights = False
    copies = (name,)

    def __init__(self, policy: Policy, batch_size: int = 128) -> None:
        self.policy, self.batch_size = policy, batch_size
        self.model, self.tokenizer = policy.model, policy.tokenizer
        self.stop_ids = stop_ids(policy.model, policy.tokenizer)

    def sync(self) -> Synced:
        return Synced()

    def resting(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None: ...

    @torch.inference_mode()
    def score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        found = []
        with merged(self.model):
            for prompt, ids in rows:
                row_1L = torch.tensor([[*prompt, *ids]], device=self.model.device)
                logits_LV = self.model(input_ids=row_1L, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
                logp_TV = torch.log_softmax(logits_LV, dim=-1)
                found.append(logp_TV.gather(1, row_1L[0, len(prompt) :, None]).T.cpu().numpy())
        return found

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        finished: Finished = lambda found: None,
    ) -> list[Completion]:
        """Batch by batch in an order that the lengths of the prompts decide: without the rows of the first batches, the
        others make the same batches.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # like lengths together: less padding
        done: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            with merged(self.model):
                while len(done) < len(order):
                    start = len(done)
                    rows = order[start : start + self.batch_size]
                    try:
                        completions = self.generate_batch(
                            [prompts[i] for i in rows], sampling, [keys[i] for i in rows], before=start, of=len(order)
                        )
                    except torch.cuda.OutOfMemoryError as error:
                        self.shrink(len(rows), error)
                        continue
                    batch = dict(zip(rows, completions, strict=True))
                    done |= batch
                    finished(batch)  # at once: the rest of a batch would be sampled in other company
        finally:
            self.model.train(was_training)
        return [done[i] for i in range(len(prompts))]

    def shrink(self, rows: int, error: Exception) -> None:
        """Half as many rows from now on; RunError where one was too many. What shares a batch changes no row."""
        if rows == 1:
            what = "Out of CUDA memory while a single answer was sampled."
            fix = "Lower rollout.max_tokens, set model.dtype=bfloat16, or free memory of the GPU."
            raise RunError(what, "rollout.max_tokens", fix) from error
        torch.cuda.empty_cache()
        self.batch_size = rows // 2
        warnings.warn(f"out of CUDA memory: {self.batch_size} answers are sampled at a time now", stacklevel=2)

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        keys: Sequence[RowKey],
        before: int,
        of: int,
    ) -> list[Completion]:
        """`before` of all `of` rows are done."""
        uniforms_BT = np.stack([key.uniforms(sampling.max_tokens) for key in keys])
        sampler = InverseCdfSampler(sampling, uniforms_BT, self.model.device)
        new_BT, logp_BT = decode(
            self.model,
            prompts,
            sampler,
            self.stop_ids,
            sampling.max_tokens,
            watch=lambda finished: now().progress(before + finished, of),
        )
        return [self.completion(p, n, lp) for p, n, lp in zip(prompts, new_BT, logp_BT, strict=True)]

    def completion(self, prompt: Sequence[int], new_T: np.ndarray, logp_T: np.ndarray) -> Completion:
        """Cut a row at its first end token."""
        ends = np.flatnonzero(np.isin(new_T, self.stop_ids))
        length = int(ends[0]) + 1 if len(ends) else len(new_T)
        ids = new_T[:length].tolist()
        return Completion(
            prompt_ids=list(prompt),
            ids=ids,
            logprobs=logp_T[:length].tolist(),
            text=self.tokenizer.decode(ids[:-1] if len(ends) else ids),
            finish=FinishReason.STOP if len(ends) else FinishReason.LENGTH,
            policy_version=self.policy.version,
        )


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside, the adapter is part of the weights; afterwards they are the very tensors that they were.

    Only in float32. A merged weight of 16 bits is rounded, and most of what a small adapter adds would be lost. A layer
    whose adapter is off, or whose weights are another module's too (as those of a tied output layer), stays as it is.
    """
    kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    layers = [
        m
        for m in model.modules()
        if isinstance(m, BaseTunerLayer)
        and not m.disable_adapters
        and all(p.dtype == torch.float32 and uses[id(p)] == 1 for p in m.get_base_layer().parameters())
    ]
    try:
        for layer in layers:
            for p in layer.get_base_layer().parameters():
                kept.append((p, p.data))
                p.data = p.data.clone()
            layer.merge()
        yield
    finally:
        for p, data in reversed(kept):
            p.data = data
        for layer in layers:
            layer.merged_adapters.clear()


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """End tokens: the model's own generation config and the tokenizer's, without repeats."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id] if i is not None))
