"""What the passes of an update compute, counted: no token, row or reference that the loss has no use for. And that
leaving it out changes neither loss, gradient nor metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from methods.builders import credits_of
from peft.tuners.tuners_utils import BaseTunerLayer
from training.tiny_policy import VOCABULARY, random_policy

from scrpo_cli.methods.base import ClipConfig, Credits, flat_credit, no_credit
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.training import logprobs
from scrpo_cli.training.logprobs import completion_divergences, completion_logprobs, completion_states
from scrpo_cli.training.loss import EXACT, TokenBatch, policy_gradient_loss
from scrpo_cli.training.policy import Policy
from scrpo_cli.training.scorer import sampled_otherwise
from scrpo_cli.training.update import Updater, microbatches, weighted_rows
from scrpo_cli.types import Completion, FinishReason

POLICY = random_policy()
PROMPTS, LENGTHS = (3, 7, 3, 9), (8, 5, 6, 4)
MASKS = ([0, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0], [0, 0, 0, 1])
WEIGHTED = 3 + 4 + 1
READ = (3 + 5) + (3 + 4) + (9 + 3)  # of the three rows with a trained token, up to what predicts the last one


def recipe(level: str = "token", **optim: Any) -> Recipe:
    optim = {"lr": 1e-3, "tokens_per_microbatch": 1, "share_prefixes": False, **optim}
    return Recipe.model_validate(
        {"rollout": {"max_tokens": 16, "correction": {"level": level}}, "optim": optim, "method": {"name": "grpo"}}
    )


def sampled(seed: int = 0) -> list[Completion]:
    """Rows 0 and 2 have their prompt in common."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCABULARY, n).tolist() for n in PROMPTS]
    prompts[2] = prompts[0]
    ids = [rng.integers(0, VOCABULARY, n).tolist() for n in LENGTHS]
    logps = [rng.normal(-6, 0.3, n).tolist() for n in LENGTHS]
    return [Completion(*row, "", FinishReason.STOP) for row in zip(prompts, ids, logps, strict=True)]


def credited(betas: Sequence[float], clip: ClipConfig = ClipConfig(), estimator: str = "k3") -> Credits:
    rows = [
        flat_credit(n, 0.5 - i, beta, np.array(mask, dtype=np.float32), part="even" if i % 2 == 0 else "odd")
        for i, (n, mask, beta) in enumerate(zip(LENGTHS, MASKS, betas, strict=True))
    ]
    return credits_of(rows, "masked_tokens", clip, estimator=estimator)


class Counter:
    """Tokens that the decoder reads and rows that the output layer is given, with the policy and with the reference."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.forget()

    def forget(self) -> None:
        self.passes = {"policy": 0, "reference": 0}
        self.read, self.headed = dict(self.passes), dict(self.passes)

    @property
    def who(self) -> str:
        layer = next(m for m in self.policy.model.modules() if isinstance(m, BaseTunerLayer))
        return "reference" if layer.disable_adapters else "policy"

    def decoder(self, _: Any, args: Any, kwargs: Any) -> None:
        self.passes[self.who] += 1
        self.read[self.who] += kwargs["input_ids"].numel()

    def head(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(hidden_CH: torch.Tensor, *rest: Any) -> Any:
            self.headed[self.who] += len(hidden_CH)
            return work(hidden_CH, *rest)

        return counted


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """The two places where the output layer is applied, of targets and of whole distributions; these without their
    recomputation in the backward pass, so that they are counted once.
    """
    counter = Counter(POLICY)
    for name in ("chunk_logprobs", "chunk_distributions"):
        monkeypatch.setattr(logprobs, name, counter.head(getattr(logprobs, name)))
    monkeypatch.setattr(logprobs, "checkpoint", lambda work, *args, use_reentrant: work(*args))
    hook = POLICY.model.get_base_model().get_decoder().register_forward_pre_hook(counter.decoder, with_kwargs=True)
    before = [p.detach().clone() for p in POLICY.trainable()]
    yield counter
    hook.remove()
    with torch.no_grad():
        for p, old in zip(POLICY.trainable(), before, strict=True):
            p.copy_(old)


def test_only_tokens_with_a_weight_are_given_to_the_output_layer(counter: Counter) -> None:
    Updater(POLICY, recipe()).update(1, sampled(), credited([0.0] * 4))
    assert counter.headed == {"policy": WEIGHTED, "reference": 0}
    assert counter.read == {"policy": READ, "reference": 0}
    assert counter.passes == {"policy": 3, "reference": 0}, "the silent row has none"


def test_the_reference_reads_the_rows_with_a_kl_coefficient(counter: Counter) -> None:
    updater = Updater(POLICY, recipe(tokens_per_microbatch=1000))
    updater.update(1, sampled(), credited([0.1, 0.1, 0.0, 0.1]))
    assert counter.headed == {"policy": WEIGHTED, "reference": 3 + 1}
    assert counter.passes == {"policy": 1, "reference": 1}
    assert counter.read["reference"] == 2 * (9 + 3), "two rows, padded"


def test_a_coefficient_on_tokens_without_a_weight_needs_no_reference(counter: Counter) -> None:
    credits = credited([0.0] * 4)
    rows = [replace(row, kl_T=1 - row.mask_T) for row in credits.rows]
    Updater(POLICY, recipe()).update(1, sampled(), replace(credits, rows=rows))
    assert counter.passes == {"policy": 3, "reference": 0}


@pytest.mark.parametrize("estimator", EXACT)
def test_a_divergence_takes_the_whole_vocabulary_at_tokens_with_a_weight(counter: Counter, estimator: str) -> None:
    Updater(POLICY, recipe()).update(1, sampled(), credited([0.1, 0.1, 0.0, 0.1], estimator=estimator))
    assert counter.headed["policy"] == WEIGHTED + 3 + 1, "the reference's distributions are made in the same place"
    assert counter.passes == {"policy": 3, "reference": 2}


@pytest.mark.parametrize(("level", "tokens"), [("token", WEIGHTED), ("none", WEIGHTED), ("sequence", 6 + 5 + 4)])
def test_old_log_probs_are_those_that_the_loss_uses(counter: Counter, level: str, tokens: int) -> None:
    """With another sampler and two minibatches; a weight by sequence is that of every token that was sampled."""
    updater = Updater(POLICY, recipe(level, minibatches=2), corrects=True)
    updater.update(1, sampled(), credited([0.0] * 4))
    assert counter.headed == {"policy": 2 * tokens, "reference": 0}
    assert counter.read == {"policy": 2 * READ, "reference": 0}


@pytest.mark.parametrize(
    ("engine", "dtype", "otherwise"),
    [
        ("transformers", torch.float32, False),
        ("transformers", torch.bfloat16, True),
        ("transformers", torch.float16, True),
        ("vllm", torch.float32, True),
        ("vllm_server", torch.bfloat16, True),
    ],
)
def test_whose_log_probs_differ_from_the_trainers(engine, dtype, otherwise):
    """Rounded to 8 or 11 bits, they depend on what shares a batch."""
    policy = SimpleNamespace(model=SimpleNamespace(dtype=dtype))
    assert sampled_otherwise(engine, policy) is otherwise


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_step_without_signal_has_no_pass(counter: Counter, minibatches: int) -> None:
    credits = credits_of([no_credit(n) for n in LENGTHS], "masked_tokens")
    Updater(POLICY, recipe(minibatches=minibatches), corrects=True).update(1, sampled(), credits)
    assert counter.passes == {"policy": 0, "reference": 0}


# -- it changes nothing ----------------------------------------------------------------------------------------------


def exact_policy() -> Policy:
    policy = random_policy()
    policy.model.double()
    return policy


def of_all_tokens(policy: Policy, completions: Sequence[Completion], credits: Credits) -> tuple[float, np.ndarray]:
    """Loss and gradient with every token of every whole row, silent ones too, in one pass."""
    trained = [(c, credit) for c, credit in zip(completions, credits.rows, strict=True) if credit.mask_T.any()]
    pairs = [(c.prompt_ids, c.ids) for c, _ in trained]
    weight = 1 / sum(float(credit.mask_T.sum()) for _, credit in trained)
    of = {name: joined([getattr(credit, name) for _, credit in trained]) for name in ("advantage_T", "mask_T", "kl_T")}
    divergence_N = ref_N = None
    with torch.no_grad(), policy.reference():
        reference_NH, _ = completion_states(policy.model, pairs)
        if credits.estimator not in EXACT:
            ref_N, _ = completion_logprobs(policy.model, pairs, 1.0, 64)
    if credits.estimator in EXACT:
        logp_N, _, divergence_N = completion_divergences(policy.model, pairs, reference_NH, credits.estimator, 1.0, 64)
    else:
        logp_N, _ = completion_logprobs(policy.model, pairs, 1.0, 64)
    row_N = torch.tensor([i for i, (c, _) in enumerate(trained) for _ in c.ids])
    old_N = joined([c.logprobs for c, _ in trained])
    weight_N = (of["mask_T"] * weight).float()
    batch = TokenBatch(logp_N, old_N, ref_N, of["advantage_T"], weight_N, of["kl_T"], row_N, divergence_N)
    policy.model.zero_grad()
    loss, _ = policy_gradient_loss(batch, credits.clip, credits.estimator)
    loss.backward()
    return float(loss), gradient(policy)


def joined(parts: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def gradient(policy: Policy) -> np.ndarray:
    return np.concatenate([p.grad.flatten().numpy() for p in policy.trainable()])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tokens", [1, 1000])
@pytest.mark.parametrize(
    ("clip", "estimator"),
    [("ppo", "k3"), ("gspo", "k2"), ("cispo", "k3"), ("none", "reverse_kl"), ("ppo", "jsd")],
)
def test_loss_and_gradient_are_those_of_all_tokens(clip: str, estimator: str, tokens: int, share: bool) -> None:
    """In float64, on a policy that is not the one that was sampled with."""
    policy, completions = exact_policy(), sampled()
    credits = credited([0.1, 0.1, 0.0, 0.3], ClipConfig(kind=clip, low=0.5, high=0.5), estimator)
    cfg = recipe(tokens_per_microbatch=tokens, share_prefixes=share)
    updater = Updater(policy, cfg)
    expected, expected_gradient = of_all_tokens(policy, completions, credits)
    policy.model.zero_grad()
    rows = weighted_rows(completions, credits.rows, credits, cfg)
    losses = [updater.backward(micro, credits)["loss"] for micro in microbatches(rows, tokens, share)]
    assert float(sum(losses)) == pytest.approx(expected, rel=1e-10)
    assert np.abs(expected_gradient).max() > 1e-3
    assert gradient(policy) == pytest.approx(expected_gradient, abs=1e-10 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("tokens", [1, 20, 1000])
def test_metrics_are_means_over_trained_tokens_however_the_step_is_cut(tokens: int) -> None:
    """The KL: over those with a coefficient, of all parts and of each."""
    policy, completions, betas = random_policy(), sampled(), [0.1, 0.1, 0.0, 0.1]
    pairs = [[(c.prompt_ids, c.ids)] for c in completions]
    with torch.no_grad():
        found = [completion_logprobs(policy.model, p, 1.0, 64) for p in pairs]
        with policy.reference():
            refs = [completion_logprobs(policy.model, p, 1.0, 64)[0] for p in pairs]
    masks = [torch.tensor(mask, dtype=torch.bool) for mask in MASKS]
    entropy = torch.cat([e[mask] for (_, e), mask in zip(found, masks, strict=True)])
    d = [(r - lp)[mask] for r, (lp, _), mask in zip(refs, found, masks, strict=True)]
    kl = [x.exp() - x - 1 for x in d]
    metrics = Updater(policy, recipe(tokens_per_microbatch=tokens)).update(1, completions, credited(betas))
    assert metrics["train/tokens"] == WEIGHTED
    assert metrics["train/entropy"] == pytest.approx(entropy.mean().item(), rel=1e-4)
    assert metrics["train/kl"] == pytest.approx(torch.cat([kl[0], kl[3]]).mean().item(), rel=1e-3)
    assert metrics["train/kl_even"] == pytest.approx(kl[0].mean().item(), rel=1e-3), "row 2 has no coefficient"
    assert metrics["train/kl_even_sequence"] == pytest.approx(kl[0].sum().item(), rel=1e-3)
    assert metrics["train/kl_odd_sequence"] == pytest.approx(kl[3].sum().item(), rel=1e-3)


def test_without_a_coefficient_no_kl_is_reported() -> None:
    metrics = Updater(random_policy(), recipe()).update(1, sampled(), credited([0.0] * 4))
    assert not [name for name in metrics if "kl" in name]
