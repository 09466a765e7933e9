"""Rows that begin alike are computed once, with gradients: the tokens of a batch as a forest, packed without padding.

    rows  p+a, p+b, p+b+c      segments  p | a b | c       packed  p p p p a a a b b c c

A group shares its problem, a second turn begins with the first, several errors of one problem share what comes before
them. Every token attends to the segments above its own and to its own up to itself, so each computes what it computes
in a row of its own. The gain is arithmetic: a group of G rows with a prefix of p and completions of c tokens costs
p + G c instead of G (p + c).

Shapes: N packed tokens; S segments under the same chain of ancestors (a family), of at most C tokens; P tokens above
them; H heads of size D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from scrpo_cli.errors import first_line

ATTENTION = "scrpo_shared_prefixes"
"""The attention function's name in transformers. Without a forest it is their own `sdpa`."""
LEAST = 16
"""A prefix is shared where that saves as many tokens: a segment has a price of its own."""
UNEVEN = 1.25
"""How much longer than the shortest segment of a family the longest may be; some tokens more do not matter."""
CHANGES = ("sliding_window", "softcap", "s_aux", "position_bias")
"""By which attention would be another function than the one below."""
WINDOWS = ("layer_types", "sliding_window", "attention_chunk_size")
"""Keys of a config by which a token attends to some of those before it alone. Some models say so in the mask and
nowhere else, and rows longer than the probe's would show it.
"""
CLOSE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far hidden states may be from those of plain rows, as a share of the largest; norms compute in float32."""


@dataclass(frozen=True)
class Family:
    """Segments under one chain of ancestors, one after another from place `start` on."""

    start: int
    lengths_S: np.ndarray
    above: tuple[slice, ...]
    """Where the ancestors' tokens lie, from the root down."""

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.start + int(self.lengths_S.sum()))

    def places_SC(self) -> tuple[np.ndarray, np.ndarray]:
        """Where, counted from `start`, every token of every segment is, and which of them exist; others point at 0."""
        column_C = np.arange(self.lengths_S.max())
        real_SC = column_C < self.lengths_S[:, None]
        first_S = np.cumsum(self.lengths_S) - self.lengths_S
        return np.where(real_SC, first_S[:, None] + column_C, 0), real_SC


@dataclass
class Forest:
    """Packed tokens, their positions in their rows, and where row i has its tokens (`places[i]`)."""

    ids_N: list[int]
    position_N: list[int]
    families: list[Family]
    places: list[np.ndarray]
    _padding: dict[tuple[int, torch.device], Any] = field(default_factory=dict)

    def padding(self, number: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`places_SC` of a family on `device`, made once for all layers; None where nothing needs padding."""
        family, key = self.families[number], (number, device)
        if key not in self._padding:
            even = (family.lengths_S == family.lengths_S[0]).all()
            self._padding[key] = None if even else tuple(torch.from_numpy(x).to(device) for x in family.places_SC())
        return self._padding[key]


def plant(rows: Sequence[Sequence[int]], least: int = LEAST) -> Forest:
    """The forest of `rows` (token ids), which share a prefix wherever that saves `least` tokens."""
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    common = [0, *(shared(rows[a], rows[b]) for a, b in pairwise(order))]
    forest = Forest([], [], [], [np.empty(0, dtype=np.int64)] * len(rows))
    waiting: list[tuple[range, int, tuple[slice, ...]]] = [(range(len(rows)), 0, ())]
    while waiting:
        members, start, above = waiting.pop()
        branches = sorted(branch(members, start, order, common, rows, least), key=lambda found: found[1])
        for family in alike(branches, start):
            first = len(forest.ids_N)
            for mine, end in family:
                place = len(forest.ids_N)
                ids = rows[order[mine[0]]][start:end]
                forest.ids_N += ids
                forest.position_N += range(start, end)
                chain = (*above, slice(place, place + len(ids)))
                for k in mine:  # what continues it is written over by its own, longer chain
                    forest.places[order[k]] = np.concatenate([np.arange(s.start, s.stop) for s in chain])
                if rest := [k for k in mine if len(rows[order[k]]) > end]:
                    waiting.append((range(rest[0], rest[-1] + 1), end, chain))
            forest.families.append(Family(first, np.array([end - start for _, end in family]), above))
    return forest


def alike(branches: Sequence[tuple[range, int]], start: int) -> Iterator[list[tuple[range, int]]]:
    """Segments from `start` on, in order of their lengths, in families of like lengths: a family is padded."""
    family: list[tuple[range, int]] = []
    for found in branches:
        if family and found[1] - start > UNEVEN * (family[0][1] - start) + 2 * LEAST:
            yield family
            family = []
        family.append(found)
    yield family


def branch(
    members: range, start: int, order: Sequence[int], common: Sequence[int], rows: Sequence[Sequence[int]], least: int
) -> Iterator[tuple[range, int]]:
    """The segments from `start` on of rows that share what comes before it: (rows of a segment, where it ends)."""
    waiting = [members]
    while waiting:
        mine = waiting.pop(0)
        if len(mine) == 1:
            yield mine, len(rows[order[mine[0]]])
            continue
        depth = min(common[k] for k in mine[1:])
        if (len(mine) - 1) * (depth - start) >= least:
            yield mine, depth
            continue
        cuts = [mine[0], *(k for k in mine[1:] if common[k] == depth), mine[-1] + 1]
        waiting = [range(a, b) for a, b in pairwise(cuts)] + waiting


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Indices of rows, those that begin alike together, whose forest has at most `tokens` tokens; a longer row stands
    alone.
    """
    batch: list[int] = []
    size = 0
    for i in sorted(range(len(rows)), key=lambda i: tuple(rows[i])):
        more = len(rows[i]) - (shared(rows[batch[-1]], rows[i]) if batch else 0)
        if batch and size + more > tokens:
            yield batch
            batch, size, more = [], 0, len(rows[i])
        batch.append(i)
        size += more
    if batch:
        yield batch


def states(decoder: Any, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Hidden states (N, hidden) of the packed rows, and where row i has those of its tokens."""
    forest = plant(rows)
    device = decoder.device
    hidden_1NH = decoder(
        input_ids=torch.tensor([forest.ids_N], device=device),
        position_ids=torch.tensor([forest.position_N], device=device),
        attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device),  # 4D: taken for finished, not built
        use_cache=False,
        forest=forest,
    ).last_hidden_state
    return hidden_1NH[0], forest.places


def enable(model: Any) -> str:
    """Give the model this attention. Says why its architecture does not take it, and leaves it as it was, if so."""
    if model.config._attn_implementation == ATTENTION:
        return ""
    if model.config._attn_implementation != "sdpa":
        return f"model.attn is {model.config._attn_implementation}"
    if limited := [name for name in WINDOWS if limits(model.config.get_text_config(), name)]:
        return f"its attention is limited by {limited[0]}"
    try:
        model.set_attn_implementation(ATTENTION)
        gap, largest = probe(model.get_decoder())
        reason = "" if gap <= CLOSE[model.dtype] * largest else "its hidden states come out differently"
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = first_line(error)
    if reason:
        model.set_attn_implementation("sdpa")
    return reason


def limits(config: Any, name: str) -> bool:
    """Whether this key is there and in use."""
    value = getattr(config, name, None)
    if name == "layer_types":
        return any(kind != "full_attention" for kind in value or ())
    return bool(value) and not (name == "sliding_window" and getattr(config, "use_sliding_window", None) is False)


def disable(model: Any) -> None:
    if model.config._attn_implementation == ATTENTION:
        model.set_attn_implementation("sdpa")


@torch.no_grad()
def probe(decoder: Any) -> tuple[float, float]:
    """The largest difference between the hidden states of a few rows packed and alone, and the largest of them."""
    start = [*range(2, 2 + 2 * LEAST)]
    rows = [[*start, 5, 6], [*start, 5], [*start, 9, 4, 7, *start, 8], [*start, 9, 4, 7, *start, 3, 2], [8, 4]]
    hidden_NH, places = states(decoder, rows)
    alone = [
        decoder(input_ids=torch.tensor([row], device=decoder.device), use_cache=False).last_hidden_state[0]
        for row in rows
    ]
    gap = max(float((hidden_NH[at] - mine).abs().max()) for at, mine in zip(places, alone, strict=True))
    return gap, max(float(mine.abs().max()) for mine in alone)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    forest: Forest | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query, key, value (1, H, N, D) of packed tokens to (1, N, H, D), as transformers wants it."""
    if forest is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if unknown := [name for name in CHANGES if kwargs.get(name) is not None]:
        raise NotImplementedError(f"its attention has {unknown[0]}")
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    found = [
        of_family(query, key, value, family, forest.padding(number, query.device), scaling)
        for number, family in enumerate(forest.families)
    ]
    return torch.cat(found, dim=2).transpose(1, 2), None


def of_family(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    family: Family,
    padding: tuple[torch.Tensor, torch.Tensor] | None,
    scaling: float | None,
) -> torch.Tensor:
    """What a family's own tokens attend to (1, H, tokens, D): what lies above them, and themselves causally."""
    count = len(family.lengths_S)
    past, mine = sum(piece.stop - piece.start for piece in family.above), int(family.lengths_S.max())

    def own(x: torch.Tensor) -> torch.Tensor:  # (S, H, C, D)
        x = x[0, :, family.tokens]
        x = x.unflatten(1, (count, -1)) if padding is None else x[:, padding[0]]
        return x.transpose(0, 1)

    def whole(x: torch.Tensor) -> torch.Tensor:  # (S, H, P + C, D)
        above = [x[:, :, piece].expand(count, -1, -1, -1) for piece in family.above]
        return torch.cat([*above, own(x)], dim=2) if above else own(x)

    # A kernel skips what a causal mask hides, and computes all of any other mask. So where little lies above, attention
    # is computed for that too, once more, and dropped.
    if past <= mine:
        out_SHCD = scaled_dot_product_attention(whole(query), whole(key), whole(value), is_causal=True, scale=scaling)[
            :, :, past:
        ]
    else:
        mask = torch.ones((mine, past + mine), dtype=torch.bool, device=query.device).tril(past)
        out_SHCD = scaled_dot_product_attention(own(query), whole(key), whole(value), attn_mask=mask, scale=scaling)
    out_HSCD = out_SHCD.transpose(0, 1)
    out = out_HSCD.flatten(1, 2) if padding is None else out_HSCD[:, padding[1]]
    return out.unsqueeze(0)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
