"""The default engine: transformers' own generate, with sampling by inverse CDF from per-row uniforms.

The policy's module is the engine's module, so there is nothing to copy at a sync. Sampling happens in a logits
processor that picks the token itself and leaves generate a one-hot choice: one place decides the temperature, records
the log-prob of what was picked, and uses no global random stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.types import Completion, FinishReason


class InverseCdfSampler(LogitsProcessor):
    """Picks token t of row i as the inverse CDF of softmax(logits / temperature) at uniforms_BT[i, t]."""

    def __init__(self, sampling: Sampling, uniforms_BT: np.ndarray, device: torch.device) -> None:
        self.temperature = sampling.temperature
        self.uniforms_TB = torch.from_numpy(np.ascontiguousarray(uniforms_BT.T)).to(device)
        self.top_p = TopPLogitsWarper(sampling.top_p) if sampling.top_p < 1 and sampling.temperature > 0 else None
        self.logprobs_TB: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits_BV = scores.float() / (self.temperature or 1.0)
        logp_BV = torch.log_softmax(logits_BV, dim=-1)
        picked_B1 = self.pick(input_ids, logits_BV)
        self.logprobs_TB.append(logp_BV.gather(1, picked_B1)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, picked_B1, 0.0)

    def pick(self, input_ids: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        if self.temperature == 0:
            return logits_BV.argmax(-1, keepdim=True)
        if self.top_p is not None:
            logits_BV = self.top_p(input_ids, logits_BV)
        cdf_BV = torch.softmax(logits_BV.double(), dim=-1).cumsum(-1)
        u_B1 = self.uniforms_TB[len(self.logprobs_TB)].unsqueeze(1) * cdf_BV[:, -1:]  # the sum is 1 up to rounding
        return torch.searchsorted(cdf_BV, u_B1, right=True).clamp_(max=cdf_BV.shape[1] - 1)


class TransformersEngine:
    """Generates with the policy's module in evaluation mode, the adapter on.

    `model` is a (PEFT-wrapped) causal language model; `tokenizer` gives the pad and end tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 128) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.version = 0
        self.stop_ids = stop_ids(model, tokenizer)
        # A checkpoint's generation_config.json may set a repetition penalty or top-k: none of it may touch our samples.
        model.generation_config = GenerationConfig()

    def sync(self, version: int) -> None:
        self.version = version

    def close(self) -> None: ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[RowKey]
    ) -> list[Completion]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # like lengths together: less padding
        done: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                completions = self.generate_batch([prompts[i] for i in rows], sampling, [keys[i] for i in rows])
                done.update(zip(rows, completions, strict=True))
        finally:
            self.model.train(was_training)
        return [done[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def generate_batch(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[RowKey]
    ) -> list[Completion]:
        device = self.model.device
        width = max(len(p) for p in prompts)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stop_ids[0]
        ids_BP = torch.full((len(prompts), width), pad)
        mask_BP = torch.zeros_like(ids_BP)
        for i, prompt in enumerate(prompts):  # left padding, by length and not by token value
            ids_BP[i, width - len(prompt) :] = torch.tensor(prompt)
            mask_BP[i, width - len(prompt) :] = 1
        uniforms_BT = np.stack([key.uniforms(sampling.max_tokens) for key in keys])
        sampler = InverseCdfSampler(sampling, uniforms_BT, device)
        out_BL = self.model.generate(
            input_ids=ids_BP.to(device),
            attention_mask=mask_BP.to(device),
            logits_processor=LogitsProcessorList([sampler]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=sampling.max_tokens, eos_token_id=self.stop_ids, pad_token_id=pad
            ),
        )
        new_BT = out_BL[:, width:].cpu().numpy()
        logp_BT = torch.stack(sampler.logprobs_TB, dim=1).cpu().numpy()
        return [self.completion(p, n, lp) for p, n, lp in zip(prompts, new_BT, logp_BT, strict=True)]

    def completion(self, prompt: Sequence[int], new_T: np.ndarray, logp_T: np.ndarray) -> Completion:
        """Cut a row at its first end token; what follows in the batch's width is padding."""
        ends = np.flatnonzero(np.isin(new_T, self.stop_ids))
        length = int(ends[0]) + 1 if len(ends) else len(new_T)
        ids = new_T[:length].tolist()
        return Completion(
            prompt_ids=list(prompt),
            ids=ids,
            logprobs=logp_T[:length].tolist(),
            text=self.tokenizer.decode(ids[:-1] if len(ends) else ids),
            finish=FinishReason.STOP if len(ends) else FinishReason.LENGTH,
            policy_version=self.version,
        )


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """End tokens: the model's own generation config and the tokenizer's, without repeats."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id] if i is not None))
