"""SFT, STaR, Pair-SFT and DPO: which recorded attempts become examples, and how rounds of sampling and fitting go."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from methods.builders import context, problem, setting
from methods.turns_builders import Recorded, TurnPrompts, answer

from scrpo_cli.errors import RunError
from scrpo_cli.methods.base import completions_of
from scrpo_cli.methods.dpo import Dpo, DpoConfig, preference_credits
from scrpo_cli.methods.pair_sft import PairSft, PairSftConfig
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.methods.sft import Sft, SftConfig
from scrpo_cli.methods.star import Star, StarConfig
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, FinishReason, Group, PoolEntry, SampleRequest

METHODS = {
    "sft": (Sft, SftConfig),
    "star": (Star, StarConfig),
    "pair_sft": (PairSft, PairSftConfig),
    "dpo": (Dpo, DpoConfig),
}
NAN = float("nan")


def made(name: str, own=(), runs=None, tokens: int | None = 1000, **cfg):
    method, section = METHODS[name]
    defaults = {"runs": ["r"]} if runs is not None else {}
    library = Recorded({"r": runs or []}, own)
    return method(section(**{**defaults, **cfg}), context(TurnPrompts(), library, token_budget=tokens))


def first(reward, name: str, of: str = "p", text: str = "", **fields) -> Attempt:
    request = TurnPrompts().first(problem(of), 1)
    return answer(reward, text or f"{name}", name, request, **fields)


def second(reward, before: Attempt, name: str) -> Attempt:
    return answer(reward, name, name, TurnPrompts().check(TurnPrompts().first(before.problem, 1), before))


def correction(reward, before: Attempt, name: str) -> Attempt:
    return answer(
        reward, name, name, SampleRequest(before.problem, [], 1, AttemptKind.CORRECTION, PoolEntry.of(before))
    )


def fitted_by(method):
    """The completions of the next batch."""
    return completions_of(method.plan(1, []).recorded)


def texts(method) -> list[str]:
    """What is fitted, as text: completions of one epoch."""
    return sorted(c.text for c in fitted_by(method))


# -- the examples of each method ------------------------------------------------------------------------------------


def test_sft_imitates_right_first_answers():
    attempts = [first(1, "a"), first(0, "b"), first(1, "c", "q"), first(NAN, "d")]
    attempts.append(second(1, attempts[1], "e"))
    assert texts(made("sft", runs=attempts)) == ["a", "c"]


def test_cut_off_and_empty_answers_are_no_examples():
    attempts = [first(1, "a"), first(1, "b", finish=FinishReason.LENGTH), first(1, "c", finish=FinishReason.UNKNOWN)]
    attempts.append(replace(first(1, "d"), completion=replace(first(1, "d").completion, ids=[], logprobs=[])))
    assert texts(made("sft", runs=attempts)) == ["a"]


def turns() -> list[Attempt]:
    wrong, right, ungraded = first(0, "w"), first(1, "r"), first(NAN, "n")
    return [
        wrong,
        right,
        ungraded,
        second(1, wrong, "repairs"),
        second(0, wrong, "fails"),
        second(1, right, "stays"),
        second(0, right, "breaks"),
        second(1, ungraded, "unknown"),
    ]


def test_star_keeps_wrong_to_right_and_with_plus_right_to_right():
    assert texts(made("star", runs=turns())) == ["repairs"]
    assert texts(made("star", runs=turns(), plus=True)) == ["repairs", "stays"]


def test_star_takes_right_corrections_whose_error_lies_in_another_run():
    elsewhere = first(0, "x")
    attempts = [correction(1, elsewhere, "fixed"), correction(0, elsewhere, "failed"), second(1, elsewhere, "check")]
    assert texts(made("star", runs=attempts)) == ["fixed"]


def test_star_fits_the_second_answer_as_it_was_sampled():
    attempts = turns()
    (kept,) = fitted_by(made("star", runs=attempts))
    assert kept is attempts[3].completion


def test_star_samples_both_turns():
    method = made("star")
    (request, _) = method.plan(1, []).requests
    group = Group(request, [first(0, "a"), first(1, "b")])
    requests = method.next_round(1, [group], 1)
    assert [(a.kind, a.previous.id) for a in requests] == [(AttemptKind.CHECK, "a"), (AttemptKind.CHECK, "b")]
    assert method.next_round(1, [group], 2) == []


def test_pair_sft_puts_a_right_answer_behind_a_wrong_one_of_the_same_problem():
    attempts = [first(0, "w"), first(1, "r"), first(1, "s"), first(1, "only-right", "q"), first(0, "only-wrong", "o")]
    fitted = fitted_by(made("pair_sft", runs=attempts))
    assert sorted(c.text for c in fitted) == ["r", "s"]
    for c in fitted:
        assert "".join(map(chr, c.prompt_ids)) == "question pwcheck it"  # problem, wrong answer, instruction
        assert c.text == "".join(map(chr, c.ids))


def test_pair_sft_plus_also_shows_right_answers():
    attempts = [first(0, "w"), first(1, "r"), first(1, "only", "q")]
    shown = lambda method: Counter(  # noqa: E731
        "".join(map(chr, c.prompt_ids)).split("check")[0] + ">" + c.text for c in fitted_by(method)
    )
    assert shown(made("pair_sft", runs=attempts)) == {"question pw>r": 1}
    plus = {"question pw>r": 1, "question pr>r": 1, "question qonly>only": 1}
    assert shown(made("pair_sft", runs=attempts, plus=True)) == plus


def test_dpo_pairs_right_with_wrong_answers_of_one_problem_each_used_once():
    attempts = [first(1, "a"), first(1, "b"), first(0, "c"), first(0, "d"), first(0, "e"), first(1, "f", "q")]
    found = [c.text for c in fitted_by(made("dpo", runs=attempts))]
    chosen, rejected = found[0::2], found[1::2]
    assert sorted(chosen) == ["a", "b"]
    assert set(rejected) < {"c", "d", "e"}
    assert len(set(rejected)) == 2


def test_at_most_so_many_examples_of_one_problem():
    attempts = [first(1, f"p{i}") for i in range(9)] + [first(1, f"q{i}", "q") for i in range(2)]
    found = texts(made("sft", runs=attempts, per_problem=4))
    assert Counter(t[0] for t in found) == {"p": 4, "q": 2}
    assert found == texts(made("sft", runs=attempts, per_problem=4))
    drawn = {t for seed in range(30) for t in sampled_with(seed, attempts)}
    assert len(drawn) == 11  # uniformly: with other seeds the others come


def sampled_with(seed: int, attempts) -> list[str]:
    method = made("sft", runs=attempts, per_problem=4)
    method.setting = setting(seed=seed)
    return texts(method)


# -- credit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sft", "star", "pair_sft"])
def test_imitation_is_maximum_likelihood_over_the_tokens_of_the_batch(name):
    method = made(name, runs=[*turns(), first(1, "longer")])
    credits = method.credit(method.plan(1, []).recorded)
    assert all((r.advantage_T == 1).all() and r.mask_T.all() and not r.kl_T.any() for r in credits.rows)
    weights = np.concatenate(token_weights(credits.rows, credits.normalizer, 100))
    assert weights == pytest.approx([1 / len(weights)] * len(weights))
    assert credits.clip.kind == "none"


def test_dpo_by_hand():
    """beta 0.5; log-ratios +1 and -1 in sum: margin 1, pull 0.5 sigmoid(-1) up and down; then a pair the wrong way."""
    ratios = [np.array([0.4, 0.6]), np.array([-1.0]), np.array([-2.0]), np.array([2.0])]
    credits = preference_credits(ratios, 0.5)
    rows, stats = credits.rows, credits.metrics
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    assert [float(r.advantage_T[0]) for r in rows] == pytest.approx(
        [0.5 * sigmoid(-1), -0.5 * sigmoid(-1), 0.5 * sigmoid(2), -0.5 * sigmoid(2)]
    )
    assert stats["train/dpo_margin"] == pytest.approx((1 - 2) / 2)
    assert stats["train/dpo_accuracy"] == 0.5
    assert stats["train/dpo_loss"] == pytest.approx(-np.mean([np.log(sigmoid(1)), np.log(sigmoid(-2))]))
    weights = [credits.scale * w for w in token_weights(rows, credits.normalizer, 100)]
    assert [w.tolist() for w in weights] == [[0.5, 0.5], [0.5], [0.5], [0.5]]  # sums over tokens, mean over two pairs


def test_dpo_is_one_optimizer_step_a_batch():
    """Rows are dealt to minibatches in turn: two would be all right answers, then all wrong ones."""
    dpo = {"name": "dpo", "runs": ["r"]}
    assert Recipe.model_validate({"method": dpo}).optim.minibatches == 1
    with pytest.raises(ValueError, match="minibatches must be 1"):
        Recipe.model_validate({"method": dpo, "optim": {"minibatches": 2}})


# -- rounds -----------------------------------------------------------------------------------------------------------


def run(method, library: Recorded, tokens: int, answers=(1, 0), versions: bool = True, limit: int = 100):
    """Play a run whose every sampling step gives these answers of four tokens to two problems: phases, fitted texts."""
    phases, fitted, version, spent = [], [], 0, 0
    for step in range(1, limit):
        if method.is_finished(spent >= tokens):
            break
        plan = method.plan(step, [])
        phases.append(plan.phase[0])
        if plan.recorded:
            fitted.append([c.text for c in completions_of(plan.recorded)])
            method.after_sampling(step, [], [])
            version += 1
            continue
        groups = []
        for request in plan.requests:
            name = f"{step}{request.problem.id[-1]}"
            made_here = [
                first(r, f"{name}{i}v", request.problem.id, version=version if versions else 0)
                for i, r in enumerate(answers)
            ]
            groups.append(Group(request, made_here))
            library.own = [*library.own, *made_here]
            spent += sum(len(a.completion.ids) for a in made_here)
        method.after_sampling(step, groups, [])
    return "".join(phases), fitted


def test_sampling_ends_with_its_tokens_and_every_epoch_covers_each_example_once():
    method = made("sft", tokens=48, batch=2, epochs=3)
    phases, fitted = run(method, method.library, 48)
    assert phases == "ccc" + "fff" * 3  # 16 tokens a step; 6 examples in batches of 2
    epochs = [sorted(t for batch in fitted[e : e + 3] for t in batch) for e in (0, 3, 6)]
    assert epochs[0] == epochs[1] == epochs[2] == sorted(f"{s}{p}0v" for s in (1, 2, 3) for p in (0, 1))
    assert len({tuple(map(tuple, fitted[e : e + 3])) for e in (0, 3, 6)}) == 3  # shuffled anew


def test_the_last_batch_of_an_epoch_may_be_smaller():
    attempts = [first(1, str(i), f"p{i}") for i in range(5)]
    method = made("sft", runs=attempts, batch=3, epochs=2)
    _, fitted = run(method, method.library, 0)
    assert [len(b) for b in fitted] == [3, 2, 3, 2]


def test_each_round_samples_its_share_with_the_newest_policy_and_fits_only_that():
    method = made("sft", tokens=64, iterations=2, batch=100, epochs=2)
    phases, fitted = run(method, method.library, 64)
    assert phases == "ccff" * 2
    assert {t[0] for t in fitted[0]} == {"1", "2"}
    assert {t[0] for t in fitted[2]} == {"5", "6"}


def test_the_run_ends_when_what_was_sampled_has_been_fitted():
    method = made("sft", tokens=16, batch=100, epochs=2)
    assert not method.is_finished(True)  # the tokens are spent, the examples not fitted
    run(method, method.library, 16)
    assert method.is_finished(False)
    assert method.is_finished(True)


def test_recorded_runs_are_fitted_without_sampling():
    method = made("sft", runs=[first(1, "a")], epochs=2)
    assert run(method, method.library, 0)[0] == "ff"


def test_recorded_runs_count_whatever_policy_sampled_them():
    attempts = [first(1, "a", version=0), first(1, "b", version=7)]
    assert texts(made("sft", runs=attempts)) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("sft", "No first answer is right"),
        ("star", "No wrong answer was repaired"),
        ("pair_sft", "both a right and a wrong answer"),
        ("dpo", "both a right and a wrong answer"),
    ],
)
def test_nothing_to_learn_from_is_an_error_that_says_so(name, what):
    with pytest.raises(RunError, match=what):
        made(name, runs=[first(0, "a"), first(0, "b", "q")]).plan(1, [])
    with pytest.raises(RunError, match=what):
        made(name, runs=[]).plan(1, [])


@pytest.mark.parametrize("name", METHODS)
def test_the_state_is_plain_json_and_a_resumed_run_fits_the_same_batches(name):
    attempts = [
        a
        for i in range(6)
        for w, r in [(first(0, f"w{i}", f"p{i}"), first(1, f"r{i}", f"p{i}"))]
        for a in (w, r, second(1, w, f"s{i}"))
    ]
    whole = made(name, runs=attempts, batch=2, epochs=2, iterations=2)
    _, expected = run(whole, whole.library, 0)
    head = made(name, runs=attempts, batch=2, epochs=2, iterations=2)
    seen = []
    for _ in range(4):
        seen.append([c.text for c in fitted_by(head)])
        head.after_sampling(1, [], [])
    tail = made(name, runs=attempts, batch=2, epochs=2, iterations=2)
    tail.state |= json.loads(json.dumps(head.state))
    seen += run(tail, tail.library, 0)[1]
    assert seen == expected
    assert tail.state == whole.state
    assert len(expected) == 3 * 2 * 2
