"""The decode loop: like transformers' generate, but finished rows leave the batch and the cache grows in place.

Lengths of sampled answers differ, so towards the end of a batch most of its rows are finished; generate computes them
until the longest one ends, and copies all earlier keys and values at every token. A prompt that several rows share is
computed once, and long ones piece by piece. None of that changes what is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer

from scrpo_cli.errors import RunError
from scrpo_cli.rollout.base import Sampling

ROOM = 64  # positions that a cache layer grows by
BROKEN = -1
PREFILL = 32_768  # tokens of all prompts that are computed at a time: activations of a prompt are large
KEEP = 7 / 8  # the batch is cut down when at most this share of its rows is unfinished: a cut copies the cache


class InverseCdfSampler:
    """Picks token t of row i as the inverse CDF of softmax(logits / temperature) at uniforms_BT[i, t].

    One place decides the temperature, records the log-prob of what was picked, and uses no global random stream.
    """

    def __init__(self, sampling: Sampling, uniforms_BT: np.ndarray, device: torch.device) -> None:
        self.temperature = sampling.temperature
        self.uniforms_BT = torch.from_numpy(uniforms_BT).to(device)
        nucleus = sampling.top_p < 1 and sampling.temperature > 0
        self.top_p: Any = TopPLogitsWarper(sampling.top_p) if nucleus else None

    def __call__(self, logits_RV: torch.Tensor, row_R: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and their log-probs (both (R,)) for the rows `row_R` of the batch."""
        logits_RV = logits_RV.float() / (self.temperature or 1.0)
        picked_R = self.pick(logits_RV, row_R, t)
        logp_RV = torch.log_softmax(logits_RV, dim=-1)
        return picked_R, logp_RV.gather(1, picked_R.unsqueeze(1))[:, 0]

    def pick(self, logits_RV: torch.Tensor, row_R: torch.Tensor, t: int) -> torch.Tensor:
        if self.temperature == 0:
            return logits_RV.argmax(-1)
        if self.top_p is not None:
            logits_RV = self.top_p(None, logits_RV)
        cdf_RV = torch.softmax(logits_RV.double(), dim=-1).cumsum(-1)
        u_R1 = self.uniforms_BT[row_R, t].unsqueeze(1) * cdf_RV[:, -1:]  # the sum is 1 up to rounding
        return torch.searchsorted(cdf_RV, u_R1, right=True).clamp_(max=cdf_RV.shape[1] - 1)[:, 0]


class RoomyLayer(DynamicLayer):
    """A cache layer that writes new tokens into room kept for them. Rows can be selected, not reordered."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        rows, heads, _, size = key_states.shape
        self.buffers = [key_states.new_empty((rows, heads, 0, size)), value_states.new_empty((rows, heads, 0, size))]
        self.show(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if end > self.buffers[0].shape[2]:
            self.buffers = [torch.nn.functional.pad(b, (0, 0, 0, end + ROOM - b.shape[2])) for b in self.buffers]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self.show(end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.show(self.get_seq_length())

    def show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (buffer[:, :, :length] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values


def roomy_cache(config: Any) -> DynamicCache:
    """The model's own kind of cache, with its plain layers (not sliding windows and the like) replaced."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampler: InverseCdfSampler,
    stop_ids: Sequence[int],
    max_tokens: int,
    watch: Callable[[int], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sampled ids and log-probs, both (B, T). What follows a row's first end token is meaningless. `watch` is told
    after every token how many rows are finished.

    RunError as soon as logits are not finite: a single NaN or +inf makes the log-prob of whatever is picked NaN, while
    a -inf, which masks a token, does not.
    """
    width, device = max(len(p) for p in prompts), model.device
    row_R = torch.arange(len(prompts), device=device)  # R: the rows still computed, of the B of the batch
    open_R = torch.ones_like(row_R, dtype=torch.bool)
    stop_S = torch.tensor(stop_ids, device=device)
    new_BT = torch.zeros((len(prompts), max_tokens), dtype=torch.long, device=device)
    logp_BT = torch.zeros((len(prompts), max_tokens), device=device)
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place = {prompt: i for i, prompt in enumerate(distinct)}
    of_R = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    ids_UL, mask_UL = (x.to(device) for x in left_padded(distinct, width, max_tokens))
    cache = roomy_cache(model.config)
    logits_RV = prefill(model, ids_UL, mask_UL[:, :width], cache)[of_R]
    if len(distinct) < len(prompts):
        cache.batch_select_indices(of_R)
    mask_RL, ids_R1 = mask_UL[of_R], ids_UL[of_R, -1:]
    position_R1 = mask_RL[:, :width].sum(-1, keepdim=True) - 1
    for t in range(max_tokens):
        if t:
            logits_RV = next_logits(model, ids_R1, mask_RL[:, : width + t], position_R1, cache)
        token_R, logp_R = sampler(logits_RV, row_R, t)
        new_BT[row_R, t], logp_BT[row_R, t] = token_R, logp_R
        finite = (logp_R.isfinite() | ~open_R).all()
        open_R = open_R & ~torch.isin(token_R, stop_S)
        ids_R1, position_R1 = token_R.unsqueeze(1), position_R1 + 1
        left = int(torch.where(finite, open_R.sum(), BROKEN))  # one transfer says both
        if left == BROKEN:
            raise not_finite(model, t, sampler.temperature)
        watch(len(prompts) - left)
        if left == 0:
            break
        if left <= KEEP * len(row_R):
            keep = open_R.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            row_R, open_R, mask_RL, ids_R1, position_R1 = (
                x[keep] for x in (row_R, open_R, mask_RL, ids_R1, position_R1)
            )
    return new_BT.cpu().numpy(), logp_BT.cpu().numpy()


def not_finite(model: Any, t: int, temperature: float) -> RunError:
    dtype = str(model.dtype).removeprefix("torch.")
    what = f"The model's logits are not finite numbers at token {t + 1} of an answer; no answer of this batch is kept."
    where = f"weights in {dtype}, temperature {temperature:g}"
    overflow = "float16 ends at 65504: set model.dtype to bfloat16 or float32. " if dtype == "float16" else ""
    return RunError(what, where, f"{overflow}`scrpo doctor` checks the model; an earlier checkpoint may be whole.")


def prefill(model: Any, ids_UP: torch.Tensor, mask_UP: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Logits (U, V) after the prompts, whose keys and values join the cache."""
    position_UP = (mask_UP.cumsum(-1) - 1).clamp(min=0)
    rows, width = ids_UP.shape
    piece = max(1, PREFILL // rows)
    logits_UV = torch.empty(0)
    for start in range(0, width, piece):
        part = slice(start, min(width, start + piece))
        logits_UV = next_logits(model, ids_UP[:, part], mask_UP[:, : part.stop], position_UP[:, part], cache)
    return logits_UV


def next_logits(
    model: Any, ids_RL: torch.Tensor, mask_RL: torch.Tensor, position_RL: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Logits (R, V) after the last of `ids_RL`, whose keys and values join the cache."""
    return model(
        input_ids=ids_RL,
        attention_mask=mask_RL,
        position_ids=position_RL,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def left_padded(prompts: Sequence[Sequence[int]], width: int, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids (B, width), and a mask (B, width + room) that lets every sampled token be seen."""
    ids_BP = torch.zeros((len(prompts), width), dtype=torch.long)
    mask_BL = torch.ones((len(prompts), width + room), dtype=torch.long)
    for i, prompt in enumerate(prompts):  # by length, never by token value
        ids_BP[i, width - len(prompt) :] = torch.tensor(prompt)
        mask_BL[i, : width - len(prompt)] = 0
    return ids_BP, mask_BL
