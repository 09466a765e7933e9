"""Log-probs of completion tokens: right positions, right temperature, the same alone, padded, batched and chunked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.errors import RunError
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.head import CPU_LOGITS, TargetLogprobs, tokens_at_once
from scrpo_cli.training.logprobs import chunk_logprobs, completion_logprobs, trained_head_logprobs
from scrpo_cli.training.policy import Policy

POLICY = random_policy()
IDS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)
ROWS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5)


def oracle(prompt, completion, temperature):
    """Full logits of one unpadded row, one token at a time."""
    with torch.no_grad():
        logits = POLICY.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].double() / temperature
    logp = torch.log_softmax(logits, -1)
    return [logp[len(prompt) - 1 + t, token].item() for t, token in enumerate(completion)]


@settings(max_examples=25, deadline=None)
@given(ROWS, st.sampled_from([0.5, 1.0, 1.7]), st.sampled_from([1, 3, 1000]))
def test_batched_and_chunked_log_probs_equal_those_of_each_row_alone(rows, temperature, chunk):
    with torch.no_grad():
        logp_N, _ = completion_logprobs(POLICY.model, rows, temperature, chunk)
    alone = [x for prompt, completion in rows for x in oracle(prompt, completion, temperature)]
    assert logp_N.numpy() == pytest.approx(alone, abs=2e-5)


def test_a_token_equal_to_the_padding_or_end_token_counts_like_any_other():
    pad, eos = POLICY.tokenizer.pad_token_id, POLICY.tokenizer.eos_token_id
    rows = [([5, pad, 6], [pad, eos, pad]), ([7] * 9, [eos])]
    with torch.no_grad():
        logp_N, _ = completion_logprobs(POLICY.model, rows, 1.0, 4)
    alone = [x for row in rows for x in oracle(*row, 1.0)]
    assert logp_N.numpy() == pytest.approx(alone, abs=2e-5)


def test_entropy_is_that_of_the_distribution_at_the_temperature():
    rows = [([3, 4], [5, 6])]
    with torch.no_grad():
        _, entropy_N = completion_logprobs(POLICY.model, rows, 2.0, 1)
        logits = POLICY.model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits[0, 1:3] / 2.0
    want = torch.distributions.Categorical(logits=logits).entropy()
    assert entropy_N.numpy() == pytest.approx(want.numpy(), rel=1e-4)


def test_chunks_do_not_change_the_gradient():
    rows = [([1, 2, 3], [4, 5, 6, 7]), ([8], [9, 10])]

    def gradient(chunk):
        POLICY.model.zero_grad()
        completion_logprobs(POLICY.model, rows, 1.0, chunk)[0].sum().backward()
        return np.concatenate([p.grad.flatten().numpy() for p in POLICY.trainable()])

    assert gradient(1) == pytest.approx(gradient(100), abs=1e-5)


def test_with_the_adapter_off_the_base_model_answers():
    rows = [([1, 2, 3], [4, 5])]
    with torch.no_grad():
        on, _ = completion_logprobs(POLICY.model, rows, 1.0, 8)
        with POLICY.reference():
            off, _ = completion_logprobs(POLICY.model, rows, 1.0, 8)
        again, _ = completion_logprobs(POLICY.model, rows, 1.0, 8)
    assert (on - off).abs().max() > 1e-3
    assert torch.equal(on, again)


# -- the engine ------------------------------------------------------------------------------------------------------


def keys(n, step=0):
    return [RowKey(0, step, "test", i) for i in range(n)]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_sampled_log_probs_equal_the_trainers(temperature):
    engine = TransformersEngine(POLICY, batch_size=3)
    prompts = [[5, 6, 7], [8] * 11, [9], [10, 11], [12] * 6]
    sampled = engine.generate(prompts, Sampling(temperature, 20), keys(5))
    with torch.no_grad():
        logp_N, _ = completion_logprobs(POLICY.model, [(c.prompt_ids, c.ids) for c in sampled], temperature, 64)
    assert np.concatenate([c.logprobs for c in sampled]) == pytest.approx(logp_N.numpy(), abs=3e-5)


def test_what_shares_the_batch_does_not_change_a_row():
    prompts = [[5, 6, 7], [8] * 11, [9], [10, 11]]
    wide = TransformersEngine(POLICY, 8).generate(prompts, Sampling(1.0, 16), keys(4))
    narrow = TransformersEngine(POLICY, 1).generate(prompts, Sampling(1.0, 16), keys(4))
    assert [c.ids for c in wide] == [c.ids for c in narrow]
    assert [c.prompt_ids for c in wide] == prompts


def test_sampling_follows_the_distribution():
    """2,000 first tokens against the exact probabilities: chi-square far below its 0.1% limit."""
    engine = TransformersEngine(POLICY, 500)
    prompt = [5, 6, 7]
    sampled = engine.generate([prompt] * 2000, Sampling(1.0, 1), keys(2000))
    with torch.no_grad():
        p = torch.softmax(POLICY.model(input_ids=torch.tensor([prompt])).logits[0, -1].double(), -1).numpy()
    counts = np.bincount([c.ids[0] for c in sampled], minlength=VOCABULARY)
    top = np.argsort(-p)[:20]
    observed = np.append(counts[top], counts.sum() - counts[top].sum())
    expected = 2000 * np.append(p[top], 1 - p[top].sum())
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert chi2 < 45.3  # 0.1% point at 20 degrees of freedom


def test_greedy_takes_the_likeliest_token_and_top_p_stays_in_the_nucleus():
    engine = TransformersEngine(POLICY)
    prompt = [5, 6, 7]
    with torch.no_grad():
        p = torch.softmax(POLICY.model(input_ids=torch.tensor([prompt])).logits[0, -1], -1).numpy()
    [greedy] = engine.generate([prompt], Sampling(0.0, 1), keys(1))
    assert greedy.ids == [int(p.argmax())]
    order = np.argsort(-p)
    nucleus = set(order[: int(np.searchsorted(p[order].cumsum(), 0.3)) + 1].tolist())
    sampled = engine.generate([prompt] * 200, Sampling(1.0, 1, top_p=0.3), keys(200))
    assert {c.ids[0] for c in sampled} <= nucleus


def test_the_models_own_generation_config_has_no_say():
    from training.tiny_policy import random_model
    from transformers import GenerationConfig

    model, plain = random_model(), random_model()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=5.0, eos_token_id=1
    )
    prompts = [[5, 6, 7]] * 4
    ours = TransformersEngine(Policy(model, POLICY.tokenizer)).generate(prompts, Sampling(1.0, 12), keys(4))
    assert ours == TransformersEngine(Policy(plain, POLICY.tokenizer)).generate(prompts, Sampling(1.0, 12), keys(4))


def test_rows_end_at_their_end_token_and_truncation_is_a_finish_reason():
    engine = TransformersEngine(POLICY)
    sampled = engine.generate([[5, 6]] * 300, Sampling(1.0, 30), keys(300))
    eos = POLICY.tokenizer.eos_token_id
    for c in sampled:
        ended = c.finish == "stop"
        assert ended == (c.ids[-1] == eos)
        assert eos not in c.ids[:-1]
        assert ended or len(c.ids) == 30
        assert len(c.logprobs) == len(c.ids)
    assert {c.finish for c in sampled} == {"stop", "length"}


def test_rows_that_are_left_after_a_stop_come_out_as_in_the_whole_to_the_bit():
    prompts = [[5 + i] * (1 + 3 * i % 7) for i in range(14)]
    whole = TransformersEngine(POLICY, 4).generate(prompts, Sampling(1.0, 12), keys(14))
    for batches in (1, 2, 3):
        kept = {}

        def keep(found, kept=kept, most=4 * batches):
            kept.update(found)
            if len(kept) == most:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            TransformersEngine(POLICY, 4).generate(prompts, Sampling(1.0, 12), keys(14), keep)
        left = [i for i in range(14) if i not in kept]
        assert len(left) == 14 - 4 * batches
        asked, drawn = [prompts[i] for i in left], [keys(14)[i] for i in left]
        rest = TransformersEngine(POLICY, 4).generate(asked, Sampling(1.0, 12), drawn)
        assert [(kept | dict(zip(left, rest, strict=True)))[i] for i in range(14)] == whole


class Tight(TransformersEngine):
    """With room for so many rows."""

    room = 3

    def generate_batch(self, prompts, *args, **kwargs):
        if len(prompts) > self.room:
            raise torch.cuda.OutOfMemoryError("no room")
        return super().generate_batch(prompts, *args, **kwargs)


def test_out_of_memory_halves_the_batch_once_and_changes_no_row():
    prompts = [[5 + i] * (1 + i % 3) for i in range(20)]
    whole = TransformersEngine(POLICY, 20).generate(prompts, Sampling(1.0, 8), keys(20))
    engine = Tight(POLICY, 16)
    with pytest.warns(UserWarning, match="out of CUDA memory") as said:
        found = engine.generate(prompts, Sampling(1.0, 8), keys(20))
    assert [c.ids for c in found] == [c.ids for c in whole]
    assert [str(w.message).split(": ")[1] for w in said] == [
        f"{n} answers are sampled at a time now" for n in (8, 4, 2)
    ]
    engine.generate(prompts, Sampling(1.0, 8), keys(20))  # it stays so, without another word


def test_out_of_memory_with_a_single_answer_is_an_error():
    engine = Tight(POLICY, 4)
    engine.room = 0
    with pytest.warns(UserWarning, match="at a time now"), pytest.raises(RunError, match="a single answer"):
        engine.generate([[5]] * 4, Sampling(1.0, 8), keys(4))


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 11, dtype=torch.float64)])
def test_the_heads_own_gradient_is_that_of_finite_differences(bias: torch.Tensor | None) -> None:
    draws = torch.Generator().manual_seed(0)
    hidden_CH = torch.randn(7, 5, dtype=torch.float64, generator=draws, requires_grad=True)
    weight_VH = torch.randn(11, 5, dtype=torch.float64, generator=draws)
    targets_C = torch.randint(0, 11, (7,), generator=draws)
    assert torch.autograd.gradcheck(
        lambda h: TargetLogprobs.apply(h, weight_VH, bias, targets_C, 0.7)[0], (hidden_CH,), atol=1e-8
    )
    ours = TargetLogprobs.apply(hidden_CH, weight_VH, bias, targets_C, 0.7)
    autograd = trained_head_logprobs(hidden_CH, targets_C, weight_VH, bias, 0.7)
    for mine, theirs in zip(ours, autograd):
        torch.testing.assert_close(mine, theirs.to(mine.dtype), rtol=1e-6, atol=1e-6)


def test_a_trained_head_gets_its_gradient_too() -> None:
    hidden_CH, targets_C = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 2, 1])
    weight_VH = torch.randn(6, 4, requires_grad=True)
    chunk_logprobs(hidden_CH, targets_C, weight_VH, None, 1.0)[0].sum().backward()
    logp_CV = torch.log_softmax(hidden_CH.detach() @ weight_VH.detach().T, -1)
    expected_VH = (torch.nn.functional.one_hot(targets_C, 6) - logp_CV.exp()).T @ hidden_CH.detach()
    torch.testing.assert_close(weight_VH.grad, expected_VH)


def test_a_large_vocabulary_has_few_tokens_at_once_on_a_cpu() -> None:
    assert tokens_at_once(2048, 384, on_cuda=False) == 2048
    assert tokens_at_once(2048, 151_936, on_cuda=False) == 110
    assert tokens_at_once(2048, CPU_LOGITS + 1, on_cuda=False) == 1
    assert tokens_at_once(2048, 151_936, on_cuda=True) == 2048
