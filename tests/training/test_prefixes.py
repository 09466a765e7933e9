"""Rows packed with shared prefixes against rows computed alone: what each token attends to, states and gradients."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from small_configs import small_configs
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MambaConfig,
    PhimoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
)

from scrpo_cli.training import prefixes
from scrpo_cli.training.logprobs import completion_logprobs

CONFIGS = small_configs(48)
SMALL: dict[str, Any] = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_window_layers": 0}
FITTING = ("qwen2", "qwen3", "llama", "gpt2")
OTHERS: dict[str, PretrainedConfig] = {
    "sliding windows": CONFIGS["mistral_sliding_window"],
    "windows that only the mask knows": Qwen2MoeConfig(**SMALL, use_sliding_window=True, sliding_window=8),
    "windows that only the mask knows, always": PhimoeConfig(**SMALL, sliding_window=8),
    "recurrent": MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def model_of(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float64).eval()


def adapted(config: PretrainedConfig) -> Any:
    targets = ["c_attn", "c_proj", "c_fc"] if isinstance(config, GPT2Config) else "all-linear"
    model = get_peft_model(model_of(config), LoraConfig(target_modules=targets)).double().eval()
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p.data, std=0.1)
    return model


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=12)  # few symbols, so that prefixes meet by chance


@st.composite
def trees(draw: Any) -> list[list[int]]:
    """Rows of which some go on from others."""
    rows = draw(st.lists(TOKENS, min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 5))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        rows.append(row[: draw(st.integers(1, len(row)))] + draw(st.lists(st.integers(0, 3), max_size=8)))
    return rows


@given(trees(), st.integers(1, 20))
def test_every_token_sees_its_own_row_up_to_itself_and_nothing_else(rows: list[list[int]], least: int) -> None:
    forest = prefixes.plant(rows, least)
    sees: dict[int, list[int]] = {}
    end = 0
    for family in forest.families:
        assert family.start == end, "families lie one after another"
        end = family.tokens.stop
        above = [n for piece in family.above for n in range(piece.start, piece.stop)]
        places_SC, real_SC = family.places_SC()
        for places_C, real_C in zip(places_SC + family.start, real_SC, strict=True):
            own = places_C[real_C].tolist()
            sees |= {n: above + own[: t + 1] for t, n in enumerate(own)}
    assert sorted(sees) == list(range(len(forest.ids_N)))
    for row, places in zip(rows, forest.places, strict=True):
        assert [forest.ids_N[n] for n in places] == row
        assert [forest.position_N[n] for n in places] == list(range(len(row)))
        for t, place in enumerate(places):
            assert sees[place] == places[: t + 1].tolist()


@given(trees(), st.integers(1, 20))
def test_sharing_saves_what_it_can(rows: list[list[int]], least: int) -> None:
    size = len(prefixes.plant(rows, least).ids_N)
    nodes = {tuple(row[:t]) for row in rows for t in range(1, len(row) + 1)}
    assert len(nodes) <= size <= sum(map(len, rows))
    assert len(prefixes.plant(rows, 1).ids_N) == len(nodes), "at a price of nothing, it is the tree of all prefixes"


def test_a_group_is_its_problem_once_and_its_answers() -> None:
    problem = list(range(20))
    rows = [[*problem, 30 + i, *range(i)] for i in range(8)]
    forest = prefixes.plant(rows)
    assert len(forest.ids_N) == 20 + sum(1 + i for i in range(8))
    assert [len(f.lengths_S) for f in forest.families] == [1, 8]


@given(trees(), st.integers(1, 60))
def test_batches_hold_every_row_once_within_the_budget(rows: list[list[int]], tokens: int) -> None:
    found = list(prefixes.batches(rows, tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(rows)))
    for batch in found:
        assert len(batch) == 1 or len(prefixes.plant([rows[i] for i in batch], 1).ids_N) <= tokens


def gradients(model: Any, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs, and the gradient of a sum of them with weights of both signs."""
    model.zero_grad()
    logp_N, _ = completion_logprobs(model, rows, 0.7, 5)
    (logp_N.double() * torch.cos(torch.arange(len(logp_N), dtype=torch.float64))).sum().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    return logp_N.detach().numpy(), found.numpy()


ROWS = [
    *([[*range(20), 7], answer] for answer in ([5, 6, 1], [5], [9, 9, 2, 3, 4, 1], [5, 6, 1])),
    [[*range(20), 7, 5, 6, 1, 40, 41], [8, 1]],  # a second turn, which goes on from a first
    [[*range(20), 7, 5, 6, 1, 40, 41], [3]],
    [[11, 12], [13]],
]


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("recompute", [False, True])
def test_log_probs_and_gradients_are_those_of_every_row_alone(name: str, recompute: bool) -> None:
    model = adapted(CONFIGS[name])
    plain = gradients(model, ROWS)
    base = model.get_base_model()
    assert prefixes.enable(base) == ""
    if recompute:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        for module in model.modules():
            module.training = bool(vars(module).get("gradient_checkpointing"))
    shared = gradients(model, ROWS)
    assert len(prefixes.plant([p + c for p, c in ROWS], 1).ids_N) < 45
    for ours, theirs in zip(shared, plain, strict=True):
        assert np.abs(theirs).max() > 0
        assert ours == pytest.approx(theirs, abs=float(1e-6 * np.abs(theirs).max()))


MODEL = adapted(CONFIGS["qwen3"])


@settings(max_examples=30, deadline=None)
@given(trees())
def test_any_rows_packed_have_the_states_that_they_have_alone(rows: list[list[int]]) -> None:
    decoder = MODEL.get_base_model().get_decoder()
    assert prefixes.enable(MODEL.get_base_model()) == ""
    with torch.no_grad():
        hidden_NH, places = prefixes.states(decoder, rows)
        for row, at in zip(rows, places, strict=True):
            alone = decoder(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(hidden_NH[at], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_an_architecture_that_it_does_not_fit_is_left_as_it_was(name: str) -> None:
    model = model_of(OTHERS[name]).float()  # experts are not computed in float64
    before, ids = model.config._attn_implementation, torch.tensor([[*range(30)]])
    with torch.no_grad():
        states = model(ids).logits
        assert prefixes.enable(model) != ""
        assert torch.equal(model(ids).logits, states)
    assert model.config._attn_implementation == before


def test_a_model_that_attends_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the packed rows and computes something else, without a word."""
    model = model_of(CONFIGS["llama"])
    monkeypatch.setattr(prefixes, "of_family", lambda query, key, value, family, *_: query[:, :, family.tokens] * 0)
    assert prefixes.enable(model) == "its hidden states come out differently"


def test_eager_attention_is_not_replaced() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    assert prefixes.enable(model) == "model.attn is eager"


def test_what_generates_attends_as_before() -> None:
    model, ids = model_of(CONFIGS["qwen2"]), torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        assert prefixes.enable(model) == ""
        assert torch.equal(model(ids, attention_mask=mask).logits[1], before[1])
        torch.testing.assert_close(model(ids, attention_mask=mask).logits[:, -1], before[:, -1], rtol=0, atol=1e-12)
        prefixes.disable(model)
    assert model.config._attn_implementation == "sdpa"
