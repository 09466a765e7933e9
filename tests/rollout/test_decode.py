"""The decode loop against transformers' own generate, on batches whose rows end at very different times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_configs import small_configs
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    PretrainedConfig,
)

from scrpo_cli.errors import RunError
from scrpo_cli.rollout import decode as decoding
from scrpo_cli.rollout.base import Sampling
from scrpo_cli.rollout.decode import ROOM, Decoder, InverseCdfSampler, RoomyLayer, prefill, roomy_cache

VOCABULARY, STOP, LIMIT = 24, [1, 7], 90
CONFIGS = small_configs(VOCABULARY)
PROMPTS = [np.random.default_rng(n).integers(8, VOCABULARY, n).tolist() for n in range(1, 25)]


def model_of(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    return model


def draws(row: int) -> np.ndarray:
    return np.random.default_rng(row).random(LIMIT)


def decoded(
    model: Any,
    prompts: Sequence[Sequence[int]],
    temperature: float = 1.0,
    slots: int = 100,
    draws: Callable[[int], np.ndarray] = draws,
    sampler: Any = None,
) -> list[tuple[list[int], list[float]]]:
    """Ids and log-probs of every row, in order."""
    sampler = sampler or InverseCdfSampler(Sampling(temperature, LIMIT))
    found = {row: (i.tolist(), lp.tolist()) for row, i, lp in Decoder(
        model, prompts, draws, sampler, STOP, LIMIT, slots
    ).run()}  # fmt: skip
    assert sorted(found) == list(range(len(prompts)))
    return [found[i] for i in range(len(prompts))]


def ids_of(rows: Sequence[tuple[list[int], list[float]]]) -> list[list[int]]:
    return [ids for ids, _ in rows]


def alone(model: Any, prompts: Sequence[Sequence[int]]) -> list[tuple[list[int], list[float]]]:
    """Every row in a batch of its own."""
    return [decoded(model, [prompt], draws=lambda _, i=i: draws(i))[0] for i, prompt in enumerate(prompts)]


def assert_same(found: Any, expected: Any, within: float = 1e-5) -> None:
    assert ids_of(found) == ids_of(expected)
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=within)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_decoding_equals_generate(name: str) -> None:
    model = model_of(CONFIGS[name])
    for prompt, (ids, _) in zip(PROMPTS, decoded(model, PROMPTS, 0.0, slots=10), strict=True):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=LIMIT, eos_token_id=STOP, pad_token_id=0
            ),
        )
        assert ids == out[0, len(prompt) :].tolist()


def test_rows_that_leave_the_batch_do_not_change_the_others() -> None:
    """Sampled rows end anywhere between the first token and the limit, beyond the first growth of the cache."""
    model = model_of(CONFIGS["qwen3"])
    found = decoded(model, PROMPTS)
    lengths = [len(ids) for ids, _ in found]
    assert min(lengths) < 8
    assert max(lengths) > 40
    assert_same(found, alone(model, PROMPTS))


MODELS = {name: model_of(CONFIGS[name]) for name in ("qwen3", "gpt2") if name in CONFIGS}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.integers(0, 23), min_size=1, max_size=30), st.integers(1, 9))
def test_when_and_where_a_row_is_decoded_does_not_matter(name: str, chosen: list[int], slots: int) -> None:
    """Rows that take the slots of finished ones, short prompts beside long ones and the other way round, prompts that
    several share: the same tokens as in one static batch.
    """
    prompts = [PROMPTS[i] for i in chosen]
    assert_same(decoded(MODELS[name], prompts, slots=slots), decoded(MODELS[name], prompts))


def test_freed_slots_are_taken_at_once_and_the_cache_holds_no_more_than_its_rows(monkeypatch: Any) -> None:
    """No more than 4 rows at a time, of which more than a static batch keeps are unfinished, and no column of a row
    that is gone.
    """
    model, widths, sizes = model_of(CONFIGS["qwen3"]), [], []
    plain = decoding.next_logits

    def watched(model: Any, ids_RL: torch.Tensor, mask_RL: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ids_RL.shape[1] == 1:
            sizes.append(len(ids_RL))
            widths.append(mask_RL.shape[1])
        return plain(model, ids_RL, mask_RL, *rest)

    monkeypatch.setattr(decoding, "next_logits", watched)
    prompts = [[8, 9, 10]] * 60
    found = decoded(model, prompts, slots=4)
    lengths = [len(ids) for ids, _ in found]
    static = sum(max(lengths[i : i + 4]) for i in range(0, 60, 4))
    assert max(sizes) == 4
    assert len(sizes) < 0.8 * static
    assert max(widths) <= 3 + max(lengths)
    assert min(widths[30:]) < 0.5 * max(widths)


@pytest.mark.parametrize("name", [name for name in CONFIGS if not all(
    isinstance(layer, RoomyLayer) for layer in roomy_cache(CONFIGS[name]).layers
)])  # fmt: skip
def test_other_caches_take_a_batch_at_a_time(name: str) -> None:
    model = model_of(CONFIGS[name])
    assert_same(decoded(model, PROMPTS, slots=5), decoded(model, PROMPTS), within=1e-4)


def test_a_roomy_layer_holds_what_a_plain_one_holds() -> None:
    """Through growth, and through cuts of the batch."""
    config = CONFIGS["qwen2"]
    roomy, plain = roomy_cache(config), DynamicCache(config=config)
    assert all(isinstance(layer, RoomyLayer) for layer in roomy.layers)
    rows = 5
    for step in range(2 * ROOM):
        length = 3 if step == 0 else 1
        states = torch.randn(2, rows, 2, length, 8)
        mine = roomy.update(states[0], states[1], 0)
        theirs = plain.update(states[0], states[1], 0)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        if step in (1, ROOM + 3):
            keep = torch.arange(0, rows, 2)
            rows = len(keep)
            roomy.layers[0].batch_select_indices(keep)
            plain.layers[0].batch_select_indices(keep)
    assert roomy.get_seq_length() == plain.get_seq_length() == 2 * ROOM + 2


def test_sliding_windows_keep_their_own_cache() -> None:
    layers = roomy_cache(CONFIGS["mistral_sliding_window"]).layers
    assert not any(isinstance(layer, RoomyLayer) for layer in layers)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_stop_it(value: float, temperature: float) -> None:
    model = model_of(CONFIGS["qwen3"])
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([5]), value))
    with pytest.raises(RunError, match="not finite numbers at token 1 of"):
        decoded(model, PROMPTS, temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_masked_token_is_no_trouble(temperature: float) -> None:
    model = model_of(CONFIGS["qwen3"])
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([5]), -torch.inf))
    assert not any(5 in ids for ids, _ in decoded(model, PROMPTS, temperature))


def test_a_token_is_counted_from_the_start_of_its_own_row() -> None:
    """Where it breaks in a row that joined late."""
    model, calls = model_of(CONFIGS["qwen3"]), []

    def breaks(logits_RV: torch.Tensor, u_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(logits_RV))
        token_R, logp_R = torch.full((len(logits_RV),), 9 if len(calls) != 5 else STOP[0]), torch.zeros(len(logits_RV))
        return token_R, torch.full_like(logp_R, torch.nan) if len(calls) == 8 else logp_R

    breaks.temperature = 1.0  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="at token 3 of an answer"):
        decoded(model, PROMPTS, slots=2, sampler=breaks)


def test_what_follows_the_end_of_a_row_may_be_anything() -> None:
    """Rows that are finished stay in the batch for a while, and what is sampled for them goes nowhere."""
    model = model_of(CONFIGS["qwen3"])
    live: list[Any] = []
    plain = Decoder.sample

    def spoiled(self: Decoder, mine: Any, logits_RV: torch.Tensor) -> int:
        live.append(int((~mine.open_R).sum()))
        return plain(self, mine, logits_RV.masked_fill(~mine.open_R.unsqueeze(1), torch.nan))

    expected = decoded(model, PROMPTS, slots=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "sample", spoiled)
        assert_same(decoded(model, PROMPTS, slots=20), expected, within=0)
    assert any(live)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tokens", [1, 40, 100_000])
def test_shared_prompts_and_prompts_in_pieces_change_no_row(name: str, tokens: int, monkeypatch) -> None:
    """`tokens` at a time: a piece of one token a row, of a few, and the whole."""
    model, prompts = model_of(CONFIGS[name]), [PROMPTS[i] for i in (9, 3, 9, 20, 3, 9)]
    expected = alone(model, prompts)
    monkeypatch.setattr(decoding, "PREFILL", tokens)
    computed = []
    monkeypatch.setattr(decoding, "prefill", lambda *args: computed.append(args[1].shape) or prefill(*args))
    assert_same(decoded(model, prompts), expected, within=1e-4)
    assert computed == [(3, max(map(len, prompts)))]


def test_prompts_that_join_late_are_prefilled_in_pieces_too(monkeypatch: Any) -> None:
    model, pieces = model_of(CONFIGS["qwen3"]), []
    expected = decoded(model, PROMPTS, slots=6)
    monkeypatch.setattr(decoding, "PREFILL", 12)
    plain = decoding.next_logits

    def watched(model: Any, ids_RL: torch.Tensor, *rest: Any) -> torch.Tensor:
        pieces.append(ids_RL.numel())
        return plain(model, ids_RL, *rest)

    monkeypatch.setattr(decoding, "next_logits", watched)
    assert_same(decoded(model, PROMPTS, slots=6), expected, within=1e-4)
    assert max(pieces) <= 12
