"""The decode loop: like transformers' generate, but waiting rows take freed slots, and the cache grows in place.

Lengths of sampled answers differ, so towards the end of a batch most of its rows are finished; generate computes them
until the longest one ends, and copies all earlier keys and values at every token. Here they leave the batch, and rows
that wait take their slots. A prompt that several rows share is computed once, and long ones piece by piece. None of
that changes what is sampled: a row's draws are its own.

Rows end at the same column of the cache, whatever their age, so that the next one serves all of them:

    prompt prompt token token token      columns that no row needs any more are dropped
                  prompt token token
    . . . . prompt prompt prompt token
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
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
    """Picks the token of a row as the inverse CDF of softmax(logits / temperature) at its uniform.

    One place decides the temperature, records the log-prob of what was picked, and uses no global random stream.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.temperature = sampling.temperature
        nucleus = sampling.top_p < 1 and sampling.temperature > 0
        self.top_p: Any = TopPLogitsWarper(sampling.top_p) if nucleus else None

    def __call__(self, logits_RV: torch.Tensor, u_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and their log-probs, both (R,); `u_R` (float64) are in [0, 1)."""
        logits_RV = logits_RV.float() / (self.temperature or 1.0)
        picked_R = self.pick(logits_RV, u_R)
        logp_RV = torch.log_softmax(logits_RV, dim=-1)
        return picked_R, logp_RV.gather(1, picked_R.unsqueeze(1))[:, 0]

    def pick(self, logits_RV: torch.Tensor, u_R: torch.Tensor) -> torch.Tensor:
        if self.temperature == 0:
            return logits_RV.argmax(-1)
        if self.top_p is not None:
            logits_RV = self.top_p(None, logits_RV)
        cdf_RV = torch.softmax(logits_RV.double(), dim=-1).cumsum(-1)
        u_R1 = u_R.unsqueeze(1) * cdf_RV[:, -1:]  # the sum is 1 up to rounding
        return torch.searchsorted(cdf_RV, u_R1, right=True).clamp_(max=cdf_RV.shape[1] - 1)[:, 0]


class RoomyLayer(DynamicLayer):
    """A cache layer that writes new tokens into room kept for them. Rows can leave and join, not be reordered."""

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
        self.keep(indices, 0)

    def keep(self, indices: torch.Tensor, start: int) -> None:
        """These rows, from column `start` on."""
        length = self.get_seq_length() - start
        self.buffers = [buffer[indices, :, start:] for buffer in self.buffers]
        self.show(length)

    def join(self, other: RoomyLayer) -> None:
        """Further rows, whose last column lies below the last one here. What lies before a row's first is zeros: it is
        masked, and a masked NaN would still be one.
        """
        lengths = self.get_seq_length(), other.get_seq_length()
        width = max(lengths)
        self.buffers = [
            torch.cat(
                [
                    torch.nn.functional.pad(x[:, :, :length], (0, 0, width - length, ROOM))
                    for x, length in zip(pair, lengths, strict=True)
                ]
            )
            for pair in zip(self.buffers, other.buffers, strict=True)
        ]
        self.show(width)

    def show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (buffer[:, :, :length] for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values


def roomy_cache(config: Any) -> DynamicCache:
    """The model's own kind of cache, with its plain layers (not sliding windows and the like) replaced."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def roomy_layers(cache: DynamicCache) -> list[RoomyLayer]:
    return [layer for layer in cache.layers if isinstance(layer, RoomyLayer)]


@dataclass
class Live:
    """The R rows that are decoded at the moment. The last of the T + 1 columns is written to once a row is finished."""

    row_R: torch.Tensor
    """Which of all rows it is."""
    start_R: torch.Tensor
    """The column of the cache with its first token."""
    open_R: torch.Tensor
    count_R: torch.Tensor
    """How many tokens it has."""
    token_R: torch.Tensor
    """The last of them."""
    draw_RT: torch.Tensor
    new_RT: torch.Tensor
    logp_RT: torch.Tensor

    def __len__(self) -> int:
        return len(self.row_R)

    def tensors(self) -> list[torch.Tensor]:
        return [getattr(self, f.name) for f in fields(self)]

    def select(self, which: torch.Tensor) -> Live:
        return Live(*(x[which] for x in self.tensors()))

    def joined(self, others: Live) -> Live:
        return Live(*(torch.cat(pair) for pair in zip(self.tensors(), others.tensors(), strict=True)))


class Decoder:
    """Decodes rows in `slots` slots. `draws` gives the uniforms (`max_tokens`,) of a row; `watch` is told after every
    token how many rows are finished.

    Rows join those that are not finished yet where all layers of the cache are plain ones. Others, as sliding windows,
    take a batch at a time.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        draws: Callable[[int], np.ndarray],
        sampler: InverseCdfSampler,
        stop_ids: Sequence[int],
        max_tokens: int,
        slots: int,
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.model, self.prompts, self.draws, self.sampler, self.watch = model, prompts, draws, sampler, watch
        self.max_tokens, self.slots, self.device = max_tokens, slots, model.device
        self.stop_S = torch.tensor(stop_ids, device=self.device)
        self.waiting = deque(range(len(prompts)))
        self.cache, self.width = roomy_cache(model.config), 0  # columns of the cache
        self.refills = len(roomy_layers(self.cache)) == len(self.cache.layers)

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Every row as it is finished: its number, the sampled ids with the end token, and their log-probs.

        RunError as soon as logits are not finite: a single NaN or +inf makes the log-prob of whatever is picked NaN,
        while a -inf, which masks a token, does not.
        """
        live: Live | None = None
        while live or self.waiting:
            logits = [self.next_logits(live)] if live else []
            free = self.slots - len(live or ())
            if self.waiting and (not live or (self.refills and free > 0)):
                rows = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
                live, logits_RV = self.join(live, rows)
                logits.append(logits_RV)
            assert live
            left = self.sample(live, torch.cat(logits) if len(logits) > 1 else logits[0])
            self.watch(len(self.prompts) - len(self.waiting) - left)
            if left <= KEEP * len(live):
                yield from finished(live.select(~live.open_R))
                live = self.cut(live) if left else None

    def sample(self, live: Live, logits_RV: torch.Tensor) -> int:
        """The next token of every row; how many rows are unfinished after it."""
        at_R1 = torch.where(live.open_R, live.count_R, self.max_tokens).unsqueeze(1)
        live.token_R, logp_R = self.sampler(logits_RV, live.draw_RT.gather(1, at_R1)[:, 0])
        live.new_RT.scatter_(1, at_R1, live.token_R.unsqueeze(1))
        live.logp_RT.scatter_(1, at_R1, logp_R.unsqueeze(1))
        finite_R = logp_R.isfinite() | ~live.open_R
        live.count_R = live.count_R + live.open_R
        live.open_R = live.open_R & ~torch.isin(live.token_R, self.stop_S) & (live.count_R < self.max_tokens)
        left = int(torch.where(finite_R.all(), live.open_R.sum(), BROKEN))  # one transfer says both
        if left == BROKEN:
            raise not_finite(self.model, int(live.count_R[~finite_R].min()), self.sampler.temperature)
        return left

    def next_logits(self, live: Live) -> torch.Tensor:
        """Logits (R, V) after the last token of every row, which joins the cache."""
        position_R1 = (self.width - live.start_R).unsqueeze(1)
        self.width += 1
        mask_RL = torch.arange(self.width, device=self.device) >= live.start_R.unsqueeze(1)
        return next_logits(self.model, live.token_R.unsqueeze(1), mask_RL, position_R1, self.cache)

    def join(self, live: Live | None, rows: Sequence[int]) -> tuple[Live, torch.Tensor]:
        """The live rows with further ones, and the logits (R, V) after the prompts of those."""
        prompts = [self.prompts[row] for row in rows]
        cache = roomy_cache(self.model.config)
        width, logits_RV = prefilled(self.model, prompts, cache)
        before, self.width = self.width, max(width, self.width) if live else width
        others = self.opened(rows, prompts)
        if not live:
            self.cache = cache
            return others, logits_RV
        live.start_R = live.start_R + self.width - before
        for layer, other in zip(roomy_layers(self.cache), roomy_layers(cache), strict=True):
            layer.join(other)
        return live.joined(others), logits_RV

    def opened(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Live:
        """Rows without a token yet, in a cache of `width` columns."""
        draws_RT = np.stack([self.draws(row) for row in rows])
        draw_RT = torch.nn.functional.pad(torch.from_numpy(draws_RT), (0, 1)).to(self.device)
        row_R = torch.tensor(rows, device=self.device)
        count_R, new_RT = torch.zeros_like(row_R), torch.zeros_like(draw_RT, dtype=torch.long)
        start_R = torch.tensor([self.width - len(prompt) for prompt in prompts], device=self.device)
        open_R, logp_RT = torch.ones_like(row_R, dtype=torch.bool), torch.zeros_like(draw_RT, dtype=torch.float32)
        return Live(row_R, start_R, open_R, count_R, count_R, draw_RT, new_RT, logp_RT)

    def cut(self, live: Live) -> Live:
        """The unfinished rows, and the columns that they need."""
        keep = live.open_R.nonzero()[:, 0]
        live = live.select(keep)
        if not self.refills:
            self.cache.batch_select_indices(keep)
            return live
        spare = int(live.start_R.min())
        for layer in roomy_layers(self.cache):
            layer.keep(keep, spare)
        self.width, live.start_R = self.width - spare, live.start_R - spare
        return live


def finished(live: Live) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    tensors = (live.row_R, live.count_R, live.new_RT, live.logp_RT)
    for row, count, new_T, logp_T in zip(*(x.cpu().numpy() for x in tensors), strict=True):
        yield int(row), new_T[:count], logp_T[:count]


def prefilled(model: Any, prompts: Sequence[Sequence[int]], cache: DynamicCache) -> tuple[int, torch.Tensor]:
    """Columns of the cache, and logits (R, V) after every prompt. What several have in common entirely is computed
    once.
    """
    width, device = max(map(len, prompts)), model.device
    distinct = list(dict.fromkeys(map(tuple, prompts)))
    place = {prompt: i for i, prompt in enumerate(distinct)}
    ids_UP, mask_UP = (x.to(device) for x in left_padded(distinct, width))
    logits_UV = prefill(model, ids_UP, mask_UP, cache)
    of_R = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(of_R)
    return width, logits_UV[of_R]


def not_finite(model: Any, token: int, temperature: float) -> RunError:
    dtype = str(model.dtype).removeprefix("torch.")
    what = (
        f"The model's logits are not finite numbers at token {token} of an answer; none that was being sampled is kept."
    )
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


def left_padded(prompts: Sequence[Sequence[int]], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids and their mask, both (B, width)."""
    ids_BP = torch.zeros((len(prompts), width), dtype=torch.long)
    mask_BP = torch.zeros((len(prompts), width), dtype=torch.bool)
    for i, prompt in enumerate(prompts):  # by length, never by token value
        ids_BP[i, width - len(prompt) :] = torch.tensor(prompt)
        mask_BP[i, width - len(prompt) :] = True
    return ids_BP, mask_BP
