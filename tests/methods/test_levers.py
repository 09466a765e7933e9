"""ScRPO's own levers: joint steps, the weight of reflections. Each test fails where its lever does nothing."""

import json

import numpy as np
import pytest
from methods.builders import correction, entry, first_group, setting
from methods.test_methods import GOOD, REFLECTION, phases, scrpo

from scrpo_cli.methods.base import PhaseKind, completions_of
from scrpo_cli.methods.scrpo import ScrpoConfig
from scrpo_cli.recipe.monitors import MonitorsConfig
from scrpo_cli.training import health
from scrpo_cli.training.update import loss_weights

JOINT = {"step": "joint"}


def corrections(*rewards, error=None):
    return correction(rewards, [GOOD] * len(rewards), error)


# -- both losses in one optimizer step --------------------------------------------------------------------------------


def test_a_joint_step_asks_for_first_answers_and_then_for_reflections():
    method = scrpo(reflect_every=1, stage2=JOINT | {"prompts": 2, "group_size": 3})
    pool = [entry(str(i), 1) for i in range(5)]
    plan, alone = method.plan(3, pool), scrpo(reflect_every=1).plan(3, [])
    assert (plan.phase, alone.phase) == ("joint", "first")
    assert plan.requests[:4] == alone.requests
    assert [r.parent in pool for r in plan.requests] == [False] * 4 + [True] * 2
    needs = method.cfg.needs(setting(group_size=8))
    assert {name: (phase.kind, phase.rollouts) for name, phase in needs.phases.items()} == {
        "first": (PhaseKind.FIRST_ANSWERS, 4 * 8),
        "joint": (PhaseKind.JOINT, 4 * 8 + 2 * 3),
    }
    assert needs.context == ScrpoConfig().needs(setting()).context


def test_a_joint_step_is_a_first_answer_step_to_the_trigger():
    assert phases(scrpo(reflect_every=2, stage2=JOINT), 6, pool_size=4) == "fjfjfj"
    assert phases(scrpo(reflect_every=1, stage2=JOINT), 3, pool_size=4) == "jjj"
    assert phases(scrpo(reflect_every=1, stage2=JOINT), 3, pool_size=0) == "fff"
    assert phases(scrpo(reflect_every=3, stage2=JOINT | {"steps_per_trigger": 2}), 8, pool_size=4) == "ffjjffjj"


def test_first_answers_of_a_joint_step_fill_the_pool_and_its_reflections_empty_it():
    method = scrpo(stage2=JOINT, pool={"capacity": 4})
    pool = [entry(str(i), i) for i in range(4)]
    used = [corrections(1, 0, error=e) for e in pool[2:]]
    change = method.after_sampling(5, [first_group([1, 0], "x"), first_group([1, 0], "y"), *used], pool)
    assert change.retired == [("bad-2-2", "used"), ("bad-3-3", "used")]  # these two make room: nobody is evicted
    assert [a for a, d in change.decisions.items() if d == "kept"] == ["x1", "y1"]
    assert method.state == {"first_steps": 0, "reflections": 1, "burst": 0}


def test_each_loss_of_a_joint_step_is_divided_by_its_own_tokens_and_only_reflections_are_weighted():
    method = scrpo(stage2=JOINT, loss={"stage2_weight": 0.5})
    credits = method.credit([first_group([1, 0]), corrections(1, 0)])
    weights = loss_weights(credits.rows, credits, 8)
    sums = [float(w.sum()) for w in weights]
    assert sums == pytest.approx([0.5, 0.5, 0.5, 0.0])  # two answers of 4 tokens; one reflection, half as heavy
    assert weights[2].max() == pytest.approx(0.5 / REFLECTION)
    assert credits.rows[0].advantage_T[0] == pytest.approx(1.0, abs=1e-3)


def test_a_joint_step_takes_the_normalizer_of_each_loss():
    loss = {"normalizer": "constant", "tokens": "all", "failed": "negative"}
    credits = scrpo(stage2=JOINT, stage1={"normalizer": "all_tokens"}, loss=loss).credit(
        [first_group([1, 0]), first_group([0, 0]), corrections(1, 0)]
    )
    weights = loss_weights(credits.rows, credits, 100)
    assert weights[0][0] == pytest.approx(1 / 16)  # 4 first answers of 4 tokens
    assert weights[4][0] == pytest.approx(1 / 200)  # 2 corrections, constant of 100
    assert credits.skipped_groups == 1


@pytest.mark.parametrize(("learn_from", "taught"), [("corrections", [2]), ("first", [0, 1])])
def test_one_loss_of_a_joint_step_can_be_left_without_credit(learn_from, taught):
    credits = scrpo(stage2=JOINT, learn_from=learn_from).credit([first_group([1, 0]), corrections(1, 0)])
    assert [i for i, row in enumerate(credits.rows) if row.mask_T.any()] == taught


def test_the_kl_in_the_reward_of_a_joint_step_is_that_of_each_row():
    groups = [first_group([1, 0]), corrections(1, 0)]
    ratios = [np.full(len(c.ids), 0.1 * i, dtype=np.float32) for i, c in enumerate(completions_of(groups), 1)]
    method = scrpo(stage2=JOINT, kl={"estimator": "k1", "beta": 1.0})
    credits, first = method.credit(groups, ratios), method.credit(groups[:1], ratios[:2])
    second = method.credit(groups[1:], ratios[2:])
    for row, alone in zip(credits.rows, [*first.rows, *second.rows], strict=True):
        assert np.array_equal(row.advantage_T, alone.advantage_T)
    trained = 4 * 0.1 + 4 * 0.2 + REFLECTION * 0.3
    assert credits.metrics["train/kl"] == pytest.approx(trained / (8 + REFLECTION))
    assert credits.metrics["train/kl_reflect"] == pytest.approx(0.3)


def test_metrics_of_a_joint_step_keep_first_answers_and_reflections_apart():
    method = scrpo(stage2=JOINT)
    groups = [first_group([1, 1, 1, 0]), first_group([0, 0, 0, 0]), corrections(0, 0)]
    credits = method.credit(groups)
    found = health.step_metrics("joint", PhaseKind.JOINT, groups, credits, [], 3, MonitorsConfig())
    assert (found["first/reward"], found["first/accuracy"], found["reflect/reward"]) == (3 / 8, 3 / 8, 0)
    assert (found["first/groups"], found["reflect/groups"], found["joint/groups"]) == (2, 1, 3)
    assert found["first/length"] == 4
    assert found["rollout/tokens"] == found["first/tokens"] + found["reflect/tokens"] == 32 + 2 * len(GOOD)
    assert (found["groups/skipped"], found["groups/skipped_share"]) == (2, 2 / 3)


# -- the weight of reflections ----------------------------------------------------------------------------------------


def updated(method, groups, norm=1.0):
    """One step of the method's life: its credit, and what it is told of the update."""
    credits = method.credit(groups)
    tokens = sum(float(row.mask_T.sum()) for row in credits.rows)
    method.after_update(1, {"train/tokens": tokens, "train/grad_norm": norm, **credits.metrics})
    return credits


def test_a_weight_by_tokens_makes_every_trained_token_weigh_the_same():
    method = scrpo(loss={"stage2_weight": "tokens"})
    assert method.credit([corrections(1, 0)]).scale == 1.0  # nothing to compare with yet
    first = updated(method, [first_group([1, 0]), first_group([1, 0])])
    updated(method, [first_group([0, 0])])  # trains nothing: the one before still counts
    second = updated(method, [corrections(1, 0)])
    assert second.scale == second.metrics["train/stage2_weight"] == REFLECTION / 16
    per_token = {round(float(w), 9) for c in (first, second) for row in loss_weights(c.rows, c, 8) for w in row if w}
    assert per_token == {1 / 16}
    assert method.credit([corrections(1, 0)]).scale == second.scale  # a reflection is no first answer


def test_a_weight_by_tokens_in_a_joint_step_is_that_of_the_step_itself():
    method = scrpo(stage2=JOINT, loss={"stage2_weight": "tokens"})
    credits = method.credit([first_group([1, 0]), corrections(1, 0)])
    per_token = {round(float(w), 9) for row in loss_weights(credits.rows, credits, 8) for w in row if w}
    assert per_token == {1 / 8}
    assert method.credit([first_group([0, 0]), corrections(1, 0)]).metrics["train/stage2_weight"] == 1.0


def test_a_weight_by_gradient_norm_brings_reflections_to_the_norm_of_first_answers():
    method = scrpo(loss={"stage2_weight": "grad_norm"})
    for norm in (9.0, 1.0, 2.0, 3.0, 4.0, 5.0):  # the first is too long ago
        updated(method, [first_group([1, 0])], norm)
    assert updated(method, [corrections(1, 0)], norm=0.5).scale == 1.0
    assert updated(method, [corrections(1, 0)], norm=6 * 0.7).scale == pytest.approx(3 / 0.5)
    # told 4.2 at weight 6, it knows that the gradient itself was 0.7 long
    assert method.credit([corrections(1, 0)]).scale == pytest.approx(3 / 0.6)


@pytest.mark.parametrize("weight", ["tokens", "grad_norm"])
def test_a_measured_weight_goes_on_from_a_checkpoint(weight):
    steps = [[first_group([1, 0])], [corrections(1, 0)], [first_group([1, 0, 0])], [corrections(1, 0)]]
    method, resumed = (scrpo(loss={"stage2_weight": weight}) for _ in range(2))
    for i, groups in enumerate(steps):
        updated(method, groups, norm=1.0 + i)
    resumed.state |= json.loads(json.dumps(method.state))
    scale = method.credit([corrections(1, 0)]).scale
    assert resumed.credit([corrections(1, 0)]).scale == scale != 1.0


def test_a_fixed_weight_measures_nothing():
    method = scrpo(loss={"stage2_weight": 3.0})
    assert updated(method, [corrections(1, 0)]).metrics == {}
    assert method.state.keys() == {"first_steps", "reflections", "burst"}


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"stage2": JOINT, "loss": {"stage2_weight": "grad_norm"}}, "needs gradients apart"),
        ({"learn_from": "corrections", "loss": {"stage2_weight": "tokens"}}, "compares two kinds of steps"),
        ({"stage1": {"normalizer": "sequence_mean"}, "loss": {"stage2_weight": "tokens"}}, "needs masked_tokens"),
        ({"loss": {"normalizer": "constant", "stage2_weight": "tokens"}}, "needs masked_tokens"),
    ],
)
def test_a_weight_that_cannot_be_measured_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        ScrpoConfig(**cfg)
