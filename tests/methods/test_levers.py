"""ScRPO's own levers: joint steps, the weight of reflections, the trigger by signal, the replay of solutions. Each test
fails where its lever does nothing.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from methods.builders import context, correction, entry, first_group, setting
from methods.test_methods import GOOD, REFLECTION, FakePrompts, phases, scrpo

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import Phase, PhaseKind, completions_of
from scrpo_cli.methods.scrpo import Scrpo, ScrpoConfig
from scrpo_cli.recipe.monitors import MonitorsConfig
from scrpo_cli.training import health
from scrpo_cli.training.update import loss_weights
from scrpo_cli.types import Group

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


# -- a trigger by signal ----------------------------------------------------------------------------------------------


def by_signal(**trigger):
    return scrpo(trigger={"mode": "signal", "window": 2, "probe_every": 4, **trigger})


def life(method, steps, reflections, trials=((0, 0),), start=0):
    """Phases of `steps` steps whose pool is never empty. The reflection groups of the n-th reflection have the rewards
    reflections(n), those of first answers are `trials`.
    """
    seen = []
    for step in range(start + 1, start + steps + 1):
        pool = [entry(str(i), step) for i in range(4)]
        phase = method.plan(step, pool).phase
        groups = [first_group(r) for r in trials] if phase in ("first", "joint") else []
        if phase != "first":
            rewards = reflections(method.state["reflections"])
            groups += [corrections(*r, error=e) for r, e in zip(rewards, pool)]
        method.after_sampling(step, groups, pool)
        seen.append(phase[0])
    return "".join(seen)


def rising(n):
    """Repair rates 1/8, 2/8, ... 7/8, all with signal."""
    return [[1] * min(n + 1, 7) + [0] * (8 - min(n + 1, 7))]


def flat(n):
    return [[1, 0]]


def hopeless(n):
    return [[0, 0]]


def test_it_reflects_while_reflections_have_signal_and_repairs_rise():
    assert life(by_signal(), 6, rising) == "rrrrrr"


def test_it_probes_at_the_start_and_now_and_then_where_reflections_have_no_signal():
    assert life(by_signal(), 12, hopeless) == "rffffrffffrf"
    assert life(by_signal(probe_every=2), 7, hopeless) == "rffrffr"


def test_it_stops_where_the_repair_rate_rises_no_more_and_goes_on_where_it_does_again():
    assert life(by_signal(), 10, flat) == "rrrrffffrf"  # four reflections: two windows of two that are equal
    method = by_signal()
    assert life(method, 4, flat) == "rrrr"
    assert life(method, 7, lambda n: [[1, 1, 1, 0]], start=4) == "ffffrrr"  # the probe's repair rate is higher


@pytest.mark.parametrize(
    ("rewards", "seen"), [([[1, 0], [0, 0], [0, 0]], "rffffr"), ([[1, 0], [1, 0], [0, 0]], "rrffff")]
)
def test_it_needs_more_signal_than_first_answers_have(rewards, seen):
    """A third and two thirds of the reflection groups, where half of the groups of first answers have signal."""
    method, trials = by_signal(min_signal=0.3, window=1), [(1, 0), (0, 0)]
    method.after_sampling(1, [first_group(r) for r in trials], [])
    method.state["first_steps"] = 0
    assert life(method, 6, lambda n: rewards, trials) == seen


def test_least_signal_and_least_rise_are_thresholds():
    third = [[1, 0], [0, 0], [0, 0]]
    assert life(by_signal(min_signal=0.3), 2, lambda n: third) == "rr"
    assert life(by_signal(min_signal=0.4), 2, lambda n: third) == "rf"
    assert life(by_signal(min_rise=0.2), 6, rising) == "rrrrrr"  # by 2/8 from window to window
    assert life(by_signal(min_rise=0.3), 6, rising) == "rrrrff"


def test_no_reflection_by_signal_before_a_batch_of_errors_waits():
    assert by_signal(size=5).plan(2, [entry(str(i), 1) for i in range(4)]).phase == "first"
    with pytest.raises(ValueError, match="waits for 20 errors and the pool holds 16"):
        by_signal(size=20).cfg.needs(setting())


def test_a_joint_step_counts_as_both_kinds_of_step():
    method = scrpo(trigger={"mode": "signal", "window": 2, "probe_every": 3}, stage2=JOINT)
    assert life(method, 8, hopeless) == "jffjffjf"
    assert method.state["first_signal"] == [0, 0]
    assert method.state["reflect_signal"] == [0, 0]


@pytest.mark.parametrize("reflections", [rising, flat, hopeless])
def test_the_trigger_by_signal_goes_on_from_a_checkpoint(reflections):
    undisturbed = life(by_signal(), 20, reflections)
    for stop in (3, 7, 12):
        first, second = by_signal(), by_signal()
        head = life(first, stop, reflections)
        second.state |= json.loads(json.dumps(first.state))
        assert head + life(second, 20 - stop, reflections, start=stop) == undisturbed


@pytest.mark.parametrize("mode", ["signal", "ratio"])
def test_a_trigger_that_nobody_asks_is_refused(mode):
    with pytest.raises(ValueError, match=f"reflect_every: 5 says when to reflect, and method.trigger.mode: {mode}"):
        ScrpoConfig(reflect_every=5, trigger={"mode": mode})
    ScrpoConfig(reflect_every="never", trigger={"mode": mode})


# -- replay -----------------------------------------------------------------------------------------------------------


class Recorded:
    """What the steps so far have recorded."""

    def __init__(self, *groups):
        self.attempts = {a.id: a for g in groups for a in g.attempts}

    def by_id(self, ids):
        return [self.attempts[i] for i in ids]


def replaying(*groups, **cfg):
    replay = {"batch": 8} | cfg.pop("replay", {})
    return Scrpo(ScrpoConfig(replay=replay, **cfg), context(FakePrompts(), Recorded(*groups), group_size=8))


def named(prefix, group):
    return Group(group.request, [replace(a, id=f"{prefix}{i}") for i, a in enumerate(group.attempts)])


def test_solutions_that_succeeded_are_fitted_under_the_prompt_of_a_first_answer():
    group = correction([1, 0, 1], [GOOD, GOOD, "no marker"])
    method = replaying(group, replay={"weight": 0.25}, loss={"tokens": "all", "failed": "negative"})
    method.after_sampling(3, [group], [])
    plan = method.plan(4, [])
    (row,) = completions_of(plan.recorded)
    assert (plan.phase, plan.requests) == ("replay", ())
    assert (row.prompt_ids, row.ids) == ([*map(ord, "question p")], [ord("1")] * 2)  # 1 and its end
    credits = method.credit(plan.recorded)
    assert (credits.clip.kind, credits.scale, credits.metrics) == ("none", 0.25, {"train/replayed": 1})
    (credit,) = credits.rows
    assert np.array_equal([credit.advantage_T, credit.mask_T, credit.kl_T], [[1, 1], [1, 1], [0, 0]])
    needs = method.cfg.needs(setting())
    assert needs.phases["replay"] == Phase(PhaseKind.REPLAY, 0)


def test_a_replay_comes_once_after_a_reflection_and_changes_no_trigger():
    group = correction([1, 0], [GOOD, GOOD])
    method = replaying(group, reflect_every=2)
    pool, seen = [entry("p", 1)], []
    for step in range(1, 10):
        plan = method.plan(step, pool)
        seen.append(plan.phase)
        method.after_sampling(
            step, {"first": [first_group([1, 0])], "reflect": [group], "replay": []}[plan.phase], pool
        )
    assert seen == ["first", "first", "reflect", "replay"] * 2 + ["first"]
    assert "replay" not in scrpo().cfg.needs(setting()).phases


def test_how_many_solutions_are_replayed_and_how_old_they_may_be_is_bounded():
    old, new = (named(p, corrections(1, 1, 1, 1)) for p in ("old", "new"))
    replayed = {}
    for step in (6, 9):
        method = replaying(old, new, replay={"batch": 3, "max_age_steps": 5})
        method.after_sampling(2, [old], [])
        once = {a.id for g in method.plan(3, []).recorded for a in g.attempts}
        method.after_sampling(3, [], [])
        method.after_sampling(step, [new], [])
        again = [a.id for g in method.plan(step + 1, []).recorded for a in g.attempts]
        assert len(once) == len(set(again)) == 3
        assert not once & set(again)
        replayed[step] = len(method.state["solved"])
    assert replayed == {6: 2, 9: 1}  # 1 + 4 - 3, and 4 - 3: the one that was left of the old ones is too old


def test_a_replay_goes_on_from_a_checkpoint():
    group = named("c", corrections(*[1] * 8))
    method, resumed = replaying(group, replay={"batch": 3}), replaying(group, replay={"batch": 3})
    method.after_sampling(2, [group], [])
    resumed.state |= json.loads(json.dumps(method.state))
    drawn = [[a.id for g in m.plan(3, []).recorded for a in g.attempts] for m in (method, resumed)]
    assert drawn[0] == drawn[1] != ["c0", "c1", "c2"]


def test_a_replay_is_no_first_answer_step_to_a_measured_weight():
    group = corrections(1, 0)
    method = replaying(group, loss={"stage2_weight": "tokens"})
    updated(method, [first_group([1, 0])])
    method.after_sampling(2, [group], [])
    updated(method, method.plan(3, []).recorded)
    assert method.credit([group]).scale == REFLECTION / 8


def test_a_template_that_opens_thoughts_has_no_replay():
    prompts = FakePrompts()
    prompts.opens_thought = True
    with pytest.raises(UserError, match="opens a thought"):
        Scrpo(ScrpoConfig(replay={"batch": 1}), context(prompts))
    Scrpo(ScrpoConfig(), context(prompts))
