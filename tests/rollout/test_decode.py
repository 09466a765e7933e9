"""The decode loop against transformers' own generate, on batches whose rows end at very different times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
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
from scrpo_cli.rollout.decode import ROOM, InverseCdfSampler, RoomyLayer, decode, prefill, roomy_cache

VOCABULARY, STOP, LIMIT = 24, [1, 7], 90
CONFIGS = small_configs(VOCABULARY)
PROMPTS = [np.random.default_rng(n).integers(8, VOCABULARY, n).tolist() for n in range(1, 25)]


def model_of(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)
    return model


def sampler(rows: int, temperature: float = 1.0) -> InverseCdfSampler:
    uniforms_BT = np.random.default_rng(0).random((rows, LIMIT))
    return InverseCdfSampler(Sampling(temperature, LIMIT), uniforms_BT, torch.device("cpu"))


def cut(ids_T: np.ndarray) -> list[int]:
    ends = np.flatnonzero(np.isin(ids_T, STOP))
    return ids_T[: ends[0] + 1].tolist() if len(ends) else ids_T.tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_decoding_equals_generate(name: str) -> None:
    model = model_of(CONFIGS[name])
    new_BT, _ = decode(model, PROMPTS, sampler(len(PROMPTS), 0.0), STOP, LIMIT)
    for prompt, ids_T in zip(PROMPTS, new_BT, strict=True):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=LIMIT, eos_token_id=STOP, pad_token_id=0
            ),
        )
        assert cut(ids_T) == out[0, len(prompt) :].tolist()


def test_rows_that_leave_the_batch_do_not_change_the_others() -> None:
    """Sampled rows end anywhere between the first token and the limit, beyond the first growth of the cache."""
    model = model_of(CONFIGS["qwen3"])
    draw = sampler(len(PROMPTS))
    new_BT, logp_BT = decode(model, PROMPTS, draw, STOP, LIMIT)
    lengths = [len(cut(ids_T)) for ids_T in new_BT]
    assert min(lengths) < 8
    assert max(lengths) > 40
    for i, prompt in enumerate(PROMPTS):
        alone = InverseCdfSampler(Sampling(1.0, LIMIT), draw.uniforms_BT[i : i + 1].numpy(), torch.device("cpu"))
        new_1T, logp_1T = decode(model, [prompt], alone, STOP, LIMIT)
        assert cut(new_BT[i]) == cut(new_1T[0])
        assert logp_BT[i, : lengths[i]] == pytest.approx(logp_1T[0, : lengths[i]], abs=1e-5)


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
        decode(model, PROMPTS, sampler(len(PROMPTS), temperature), STOP, LIMIT)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_masked_token_is_no_trouble(temperature: float) -> None:
    model = model_of(CONFIGS["qwen3"])
    model.lm_head.register_forward_hook(lambda _, __, logits: logits.index_fill(-1, torch.tensor([5]), -torch.inf))
    new_BT, _ = decode(model, PROMPTS, sampler(len(PROMPTS), temperature), STOP, LIMIT)
    assert not any(5 in cut(row) for row in new_BT)


def test_what_follows_the_end_of_a_row_may_be_anything() -> None:
    """Rows that are finished stay in the batch for a while."""
    model = model_of(CONFIGS["qwen3"])
    expected, _ = decode(model, PROMPTS, sampler(len(PROMPTS)), STOP, LIMIT)

    ended = torch.zeros(len(PROMPTS), dtype=torch.bool)
    draw = sampler(len(PROMPTS))

    def spoil(logits_RV: torch.Tensor, row_R: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        logits_RV = logits_RV.masked_fill(ended[row_R].unsqueeze(1), torch.nan)
        token_R, logp_R = InverseCdfSampler.__call__(draw, logits_RV, row_R, t)
        ended[row_R] |= torch.isin(token_R, torch.tensor(STOP))
        return token_R, logp_R

    spoil.temperature = 1.0  # type: ignore[attr-defined]
    found, _ = decode(model, PROMPTS, spoil, STOP, LIMIT)  # type: ignore[arg-type]
    assert ended.any()
    assert [cut(row) for row in found] == [cut(row) for row in expected]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tokens", [1, 40, 100_000])
def test_shared_prompts_and_prompts_in_pieces_change_no_row(name: str, tokens: int, monkeypatch) -> None:
    """`tokens` at a time: a piece of one token a row, of a few, and the whole."""
    model, prompts = model_of(CONFIGS[name]), [PROMPTS[i] for i in (9, 3, 9, 20, 3, 9)]
    alone = [decode(model, [p], sampler_of(i), STOP, LIMIT) for i, p in enumerate(prompts)]
    monkeypatch.setattr(decoding, "PREFILL", tokens)
    computed = []
    monkeypatch.setattr(decoding, "prefill", lambda *args: computed.append(args[1].shape) or prefill(*args))
    new_BT, logp_BT = decode(model, prompts, sampler(len(prompts)), STOP, LIMIT)
    assert computed == [(3, max(map(len, prompts)))]
    for i, (ids_1T, logp_1T) in enumerate(alone):
        mine = cut(new_BT[i])
        assert mine == cut(ids_1T[0])
        assert logp_BT[i][: len(mine)] == pytest.approx(logp_1T[0][: len(mine)], abs=1e-4)


def sampler_of(row: int) -> InverseCdfSampler:
    uniforms_BT = np.random.default_rng(0).random((6, LIMIT))[row : row + 1]
    return InverseCdfSampler(Sampling(1.0, LIMIT), uniforms_BT, torch.device("cpu"))
