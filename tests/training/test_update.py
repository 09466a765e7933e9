"""The optimizer step: the same gradient however the batch is cut, and no cost for rows without credit."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.builders import credits_of
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import ClipConfig, PoolChange, Term, flat_credit, no_credit
from scrpo_cli.methods.parts.kl import kl_in_reward
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training.checkpoint import Progress
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.loop import commit
from scrpo_cli.training.update import Updater, learning_rate, microbatches, minibatches, weighted_rows
from scrpo_cli.types import Completion, FinishReason

POLICY = random_policy()
NORMALIZERS = ["masked_tokens", "all_tokens", "constant", "sequence_mean", "sequence_sum"]


def recipe(method=None, **optim) -> Recipe:
    optim = {"lr": 1e-3, **optim}
    return Recipe.model_validate({"rollout": {"max_tokens": 16}, "optim": optim, "method": method or {"name": "grpo"}})


def rows(seed: int, n: int = 7):
    """Completions of random length with random masks, advantages and KL coefficients; old log-probs off-policy."""
    rng = np.random.default_rng(seed)
    completions, credits = [], []
    for _ in range(n):
        prompt, ids = rng.integers(0, VOCABULARY, rng.integers(1, 9)), rng.integers(0, VOCABULARY, rng.integers(1, 12))
        old = rng.normal(-6, 0.3, len(ids))
        completions.append(Completion(prompt.tolist(), ids.tolist(), old.tolist(), "", FinishReason.STOP))
        mask_T = rng.integers(0, 2, len(ids)).astype(np.float32)
        credits.append(flat_credit(len(ids), rng.normal(), 0.05, mask_T))
    return completions, credits


def gradient(completions, credits, normalizer, tokens, method=None, **fields):
    """Accumulated gradient before the optimizer step, with micro-batches of at most `tokens`."""
    cfg = recipe(method, tokens_per_microbatch=tokens)
    updater = Updater(POLICY, cfg)
    POLICY.model.zero_grad()
    whole = credits_of(credits, normalizer, cfg.method.clip, **fields)
    for micro in microbatches(weighted_rows(completions, credits, whole, cfg), tokens):
        updater.backward(micro, whole)
    return np.concatenate([p.grad.flatten().numpy() for p in POLICY.trainable()])


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 1000), st.sampled_from(["masked_tokens", "all_tokens", "constant", "sequence_mean", "sequence_sum"])
)
def test_the_same_batch_split_differently_gives_the_same_gradient(seed, normalizer):
    completions, credits = rows(seed)
    if not any(c.mask_T.any() for c in credits):
        return
    whole = gradient(completions, credits, normalizer, tokens=10_000)
    scale = np.abs(whole).max()
    for tokens in (1, 25, 60):
        assert gradient(completions, credits, normalizer, tokens) == pytest.approx(
            whole, abs=float(1e-5 * scale + 1e-9)
        )


def test_a_ratio_of_whole_rows_does_not_see_how_the_batch_is_cut():
    """gspo numbers its rows anew in each micro-batch."""
    completions, credits = rows(3)
    gspo = {"name": "gspo", "clip": {"kind": "gspo", "low": 0.5, "high": 0.5}}
    whole = gradient(completions, credits, "sequence_mean", 10_000, gspo)
    assert np.abs(whole).max() > 0
    for tokens in (1, 25, 60):
        cut = gradient(completions, credits, "sequence_mean", tokens, gspo)
        assert cut == pytest.approx(whole, abs=float(1e-5 * np.abs(whole).max()))


def test_a_step_with_two_terms_has_the_sum_of_their_gradients():
    """J = J_1 + w J_2, each with its own denominator: the two gradients, computed apart, are the oracle."""
    completions, credits = rows(4, n=9)
    marked = [replace(c, part="reflect") if i % 3 == 0 else c for i, c in enumerate(credits)]
    first = [i for i in range(9) if i % 3]
    for normalizer, own in (("masked_tokens", "masked_tokens"), ("sequence_mean", "all_tokens")):
        both = gradient(completions, marked, normalizer, 50, terms={"reflect": Term(own, 0.7)})
        one = gradient([completions[i] for i in first], [credits[i] for i in first], normalizer, 50)
        other = gradient(completions[::3], credits[::3], own, 50)
        assert both == pytest.approx(one + 0.7 * other, abs=float(1e-5 * np.abs(both).max()))
        assert np.abs(other).max() > 1e-3 * np.abs(one).max()
        together = gradient(completions, credits, normalizer, 50)
        assert np.abs(both - together).max() > 1e-3 * np.abs(both).max()


def test_order_of_rows_does_not_matter():
    completions, credits = rows(3)
    forward = gradient(completions, credits, "masked_tokens", 40)
    backward = gradient(completions[::-1], credits[::-1], "masked_tokens", 40)
    assert backward == pytest.approx(forward, abs=float(1e-5 * np.abs(forward).max()))


def test_masked_tokens_have_no_gradient():
    """A token outside the mask may carry any advantage: nothing changes."""
    completions, credits = rows(5)
    wild = [type(c)(np.where(c.mask_T > 0, c.advantage_T, 1e6), c.mask_T, c.kl_T) for c in credits]
    plain = gradient(completions, credits, "masked_tokens", 50)
    assert np.array_equal(gradient(completions, wild, "masked_tokens", 50), plain)


def test_what_follows_the_last_trained_token_is_not_read():
    """Its tokens may be any, and the gradient is that of the whole row."""
    completions, credits = rows(6)
    batch = credits_of(credits, "sequence_mean")
    kept = weighted_rows(completions, credits, batch, recipe())
    assert sum(len(r.completion.ids) for r in kept) < sum(len(c.ids) for c in completions)
    assert all(r.credit.mask_T[-1] and len(r.weight_T) == len(r.completion.logprobs) for r in kept)
    tails = [
        replace(c, ids=[7 if not credit.mask_T[t:].any() else token for t, token in enumerate(c.ids)])
        for c, credit in zip(completions, credits, strict=True)
    ]
    assert tails != completions
    plain = gradient(completions, credits, "masked_tokens", 50)
    assert np.array_equal(gradient(tails, credits, "masked_tokens", 50), plain)


def test_rows_without_credit_are_dropped_and_still_counted_in_the_denominator():
    completions, credits = rows(2, n=4)
    credits[0] = no_credit(len(completions[0].ids))
    kept = weighted_rows(completions, credits, credits_of(credits, "sequence_mean"), recipe())
    assert len(kept) == 3
    assert sum(r.weight_T.sum() for r in kept) == pytest.approx(3 / 4)


def test_a_batch_without_any_credit_leaves_the_policy_alone():
    policy = random_policy()
    completions, _ = rows(1)
    before, version = policy.adapter_hash(), policy.version
    credits = credits_of([no_credit(len(c.ids)) for c in completions], "masked_tokens")
    metrics = Updater(policy, recipe()).update(1, completions, credits)
    assert (policy.adapter_hash(), policy.version) == (before, version)
    assert metrics["train/tokens"] == 0


def test_an_update_raises_what_was_rewarded_and_lowers_what_was_punished():
    policy = random_policy()
    good, bad = ([5, 6], [7, 8, 9]), ([5, 6], [10, 11, 12])

    def logps():
        with torch.no_grad():
            return completion_logprobs(policy.model, [good, bad], 1.0, 64)[0].numpy()

    before = logps()
    completions = [
        Completion(p, c, before[3 * i : 3 * i + 3].tolist(), "", FinishReason.STOP)
        for i, (p, c) in enumerate([good, bad])
    ]
    credits = credits_of([flat_credit(3, 1.0, 0.0), flat_credit(3, -1.0, 0.0)], "masked_tokens")
    metrics = Updater(policy, recipe(lr=1e-2)).update(1, completions, credits)
    change = logps() - before
    assert change[:3].sum() > 0 > change[3:].sum()
    assert policy.version == 1
    assert metrics["train/drift_max"] < 1e-4
    assert metrics["train/clip_share"] == 0


def test_minibatches_cover_every_row_once():
    parts = minibatches(10, 3)
    assert sorted(np.concatenate(parts)) == list(range(10))
    assert len(minibatches(2, 5)) == 2


def test_microbatches_respect_the_token_budget():
    completions, credits = rows(4, n=12)
    batch = weighted_rows(completions, credits, credits_of(credits, "all_tokens"), recipe())
    for micro in microbatches(batch, 40):
        assert len(micro) == 1 or max(len(r.read) for r in micro) * len(micro) <= 40


def test_learning_rate_schedules():
    cfg = recipe(lr=1.0, warmup_steps=4, steps=10)
    assert [learning_rate(9, u, cfg) for u in (1, 2, 4, 9)] == pytest.approx([0.25, 0.5, 1, 1])
    linear = recipe(lr=1.0, schedule="linear", steps=10)
    assert [learning_rate(s, 1, linear) for s in (1, 6, 10)] == pytest.approx([1, 0.5, 0.1])
    cosine = recipe(lr=1.0, schedule="cosine", steps=10)
    assert learning_rate(6, 1, cosine) == pytest.approx(0.5)


def test_warm_up_counts_optimizer_steps_not_training_steps():
    """A step without signal takes none, and the methods that fit after sampling begin late."""
    completions, credits = rows(6)
    policy = random_policy()
    updater = Updater(policy, recipe(lr=1.0, warmup_steps=4, minibatches=2))
    rates = []
    updater.optimizer.step = lambda: rates.append(updater.optimizer.param_groups[0]["lr"])
    nothing = [no_credit(len(c.ids)) for c in completions]
    updater.update(1, completions, credits_of(nothing, "masked_tokens"))
    updater.update(7, completions, credits_of(credits, "masked_tokens"))
    assert rates == pytest.approx([0.25, 0.5])


def test_out_of_cuda_memory_halves_the_micro_batches_and_keeps_the_gradient(monkeypatch):
    completions, credits = rows(6)
    whole = gradient(completions, credits, "masked_tokens", tokens=10_000)
    updater = Updater(POLICY, recipe(tokens_per_microbatch=100))
    backward = updater.backward

    def small_card(micro, credits):
        loss = backward(micro, credits)
        if max(len(r.read) for r in micro) * len(micro) > 30:
            raise torch.cuda.OutOfMemoryError("too much")
        return loss

    monkeypatch.setattr(updater, "backward", small_card)
    POLICY.model.zero_grad()
    whole_credits = credits_of(credits, "masked_tokens")
    batch = weighted_rows(completions, credits, whole_credits, recipe())
    with pytest.warns(UserWarning, match="micro-batches of 25 tokens now"):
        updater.accumulate(batch, whole_credits)
    got = np.concatenate([p.grad.flatten().numpy() for p in POLICY.trainable()])
    assert got == pytest.approx(whole, abs=float(1e-5 * np.abs(whole).max()))
    updater.microbatch_tokens = 1
    monkeypatch.setattr(updater, "backward", lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError()))
    with pytest.raises(RunError, match="single row"):
        updater.accumulate(batch, whole_credits)


def test_each_minibatch_is_an_optimizer_step_with_a_denominator_of_its_own():
    policy = random_policy()
    completions, credits = rows(8, n=6)
    cfg = recipe(minibatches=2)
    seen = []
    updater = Updater(policy, cfg)
    backward = updater.backward
    updater.backward = lambda micro, credits: seen.extend(micro) or backward(micro, credits)
    metrics = updater.update(1, completions, credits_of(credits, "masked_tokens"))
    assert policy.version == 2
    assert sum(r.weight_T.sum() for r in seen) == pytest.approx(2)  # each minibatch's weights add up to 1
    assert np.isfinite(list(metrics.values())).all()


# -- credit that is settled before the update -------------------------------------------------------------------------


def own_log_ratios(policy, completions):
    """log pi - log pi_ref of each completion alone."""
    with torch.no_grad():
        pairs = [[(c.prompt_ids, c.ids)] for c in completions]
        ours = [completion_logprobs(policy.model, p, 1.0, 64)[0].numpy() for p in pairs]
        with policy.reference():
            theirs = [completion_logprobs(policy.model, p, 1.0, 64)[0].numpy() for p in pairs]
    return [a - b for a, b in zip(ours, theirs)]


@pytest.mark.parametrize("tokens", [1, 30, 10_000])
def test_log_ratios_come_in_the_order_of_the_completions_however_they_are_batched(tokens):
    completions, _ = rows(9)
    found = Updater(POLICY, recipe(tokens_per_microbatch=tokens)).log_ratios(completions)
    expected = own_log_ratios(POLICY, completions)
    assert max(np.abs(e).max() for e in expected) > 1e-2
    for got, want in zip(found, expected, strict=True):
        assert got == pytest.approx(want, abs=1e-4)


def test_metrics_of_the_credit_are_reported_beside_those_of_the_update():
    completions, credits = rows(9)
    measured = credits_of(credits, "masked_tokens", metrics={"train/margin": 7.0})
    assert Updater(random_policy(), recipe()).update(1, completions, measured)["train/margin"] == 7.0


def test_a_kl_inside_the_reward_needs_no_reference_in_the_loss(monkeypatch):
    """Its value is reported all the same, by part, at the policy before the update."""
    policy = random_policy()
    completions, _ = rows(9, n=4)
    parts = ["turn1", "turn2", "turn1", "turn2"]
    credits = credits_of(
        [flat_credit(len(c.ids), 0.5, 0.1, part=p) for c, p in zip(completions, parts)], "sequence_sum"
    )
    updater = Updater(policy, recipe({"name": "rloo"}))
    calls = []
    plain = updater.reference_logprobs
    monkeypatch.setattr(
        updater, "reference_logprobs", lambda pairs, wanted: calls.append(len(pairs)) or plain(pairs, wanted)
    )
    sums = [float(r.sum()) for r in own_log_ratios(policy, completions)]
    credits = kl_in_reward(credits, "pppp", updater.log_ratios(completions))
    metrics = updater.update(1, completions, credits)
    assert sum(calls) == len(completions)
    assert metrics["train/kl_turn1_sequence"] == pytest.approx((sums[0] + sums[2]) / 2, abs=1e-3)
    assert metrics["train/kl_turn2_sequence"] == pytest.approx((sums[1] + sums[3]) / 2, abs=1e-3)
    assert metrics["train/kl"] == pytest.approx(sum(sums) / sum(len(c.ids) for c in completions), abs=1e-3)


def test_imitation_raises_the_log_prob_of_what_is_imitated():
    policy = random_policy()
    completions, _ = rows(11, n=3)
    likely = credits_of(
        [flat_credit(len(c.ids), 1.0, 0.0) for c in completions], "masked_tokens", ClipConfig(kind="none")
    )
    updater = Updater(policy, recipe({"name": "sft", "runs": ["r"]}, lr=1e-2))
    losses = [updater.update(step, completions, likely)["train/loss"] for step in range(1, 6)]
    assert losses == sorted(losses, reverse=True)
    with torch.no_grad():
        logp_N, _ = completion_logprobs(random_policy().model, [(c.prompt_ids, c.ids) for c in completions], 1.0, 64)
    assert losses[0] == pytest.approx(-logp_N.mean().item(), rel=1e-4)  # mean negative log-likelihood of the tokens


@pytest.mark.parametrize("size", [1e30, float("nan")], ids=["infinite", "nan"])
def test_a_gradient_that_is_not_finite_stops_before_the_optimizer_steps(size):
    """An infinite norm clips every gradient to 0 or NaN; the weights and the optimizer's moments stay as they were."""
    policy = random_policy()
    completions, _ = rows(2, n=3)
    updater = Updater(policy, recipe())
    before = policy.adapter_hash()
    credits = [flat_credit(len(c.ids), size, 0.0) for c in completions]
    with pytest.raises(RunError, match=r"gradient of step 4 has the norm (inf|nan); nothing of the step") as error:
        updater.update(4, completions, credits_of(credits, "masked_tokens"))
    assert len(error.value.lines()) == 3
    assert (policy.adapter_hash(), policy.version, updater.optimizer.state) == (before, 0, {})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_step_with_a_metric_that_is_not_finite_is_not_recorded(value, tmp_path):
    run = SimpleNamespace(progress=Progress(), directory=tmp_path)
    with pytest.raises(RunError, match=r"measured (inf|nan) in train/kl; nothing of it was kept"):
        commit(run, 1, "first", [], PoolChange(), {"train/kl": value})
    assert run.progress == Progress()


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_log_probs_are_those_of_the_updaters_temperature(temperature):
    """Against full logits, one row at a time. The loop sets 1 for recorded examples."""
    completions, _ = rows(12, n=4)
    cfg = Recipe.model_validate({"rollout": {"temperature": 0.6}, "method": {"name": "grpo"}})
    updater = Updater(random_policy(), cfg)
    assert updater.temperature == 0.6
    updater.recorded = temperature == 1.0

    def oracle():
        for c in completions:
            with torch.no_grad():
                logits = updater.policy.model(torch.tensor([[*c.prompt_ids, *c.ids]])).logits[0].double()
            logp_TV = (logits[len(c.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
            yield logp_TV.gather(1, torch.tensor(c.ids)[:, None]).squeeze(1).numpy()

    ours = list(oracle())
    with updater.policy.reference():
        theirs = list(oracle())
    for got, a, b in zip(updater.log_ratios(completions), ours, theirs):
        assert got == pytest.approx(a - b, abs=1e-4)
    rows_of_one = [flat_credit(len(c.ids), 1.0, 0.0) for c in completions]
    loss = updater.update(1, completions, credits_of(rows_of_one, "masked_tokens", ClipConfig(kind="none")))[
        "train/loss"
    ]
    assert loss == pytest.approx(-np.concatenate(ours).mean(), rel=1e-4)


# -- another sampler than the trainer ----------------------------------------------------------------------------------


def shifted(completions, by):
    return [replace(c, logprobs=[lp + by for lp in c.logprobs]) for c in completions]


def own(policy, completions):
    """The same completions as the trainer itself would have sampled them."""
    with torch.no_grad():
        logps = [completion_logprobs(policy.model, [(c.prompt_ids, c.ids)], 1.0, 64)[0] for c in completions]
    return [replace(c, logprobs=logp_T.tolist()) for c, logp_T in zip(completions, logps, strict=True)]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_clip_measures_from_the_trainers_own_log_probs(minibatches):
    """A sampler that is off by 0.5 nats everywhere, out of the clip's range, changes nothing but the weight."""
    completions, credits = rows(7, n=8)
    credits = [replace(c, kl_T=0 * c.kl_T) for c in credits]
    batch = credits_of(credits, "sequence_mean")
    cfg = recipe(minibatches=minibatches, lr=1e-3)
    plain, other = random_policy(), random_policy()
    exact = Updater(plain, cfg).update(1, own(plain, completions), batch)
    metrics = Updater(other, cfg, corrects=True).update(1, shifted(own(other, completions), -math.log(1.5)), batch)
    assert metrics["correction/mean"] == pytest.approx(1.5, rel=1e-4)
    assert metrics["train/drift"] > 0.3
    assert metrics["train/clip_share"] == pytest.approx(exact["train/clip_share"])
    assert metrics["train/grad_norm"] == pytest.approx(1.5 * exact["train/grad_norm"], rel=1e-3)
    assert "correction/mean" not in exact


def test_recorded_examples_are_not_corrected():
    completions, credits = rows(8, n=4)
    policy = random_policy()
    updater = Updater(policy, recipe(), corrects=True)
    updater.recorded = True
    metrics = updater.update(1, completions, credits_of(credits, "sequence_mean"))
    assert not [key for key in metrics if key.startswith("correction")]
