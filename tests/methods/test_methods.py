"""GRPO and ScRPO: the credit of each token, the trigger, and the life of pool entries."""

from dataclasses import replace

import numpy as np
import pytest
from methods.builders import CharTokenizer, context, correction, entry, first_group, problem, setting

from scrpo_cli.methods.base import MethodConfig, Needs, PhaseKind
from scrpo_cli.methods.grpo import Grpo, GrpoConfig
from scrpo_cli.methods.parts.advantages import token_weights
from scrpo_cli.methods.parts.offline import OfflineConfig
from scrpo_cli.methods.registry import NAMES, method_class
from scrpo_cli.methods.rloo import RlooConfig
from scrpo_cli.methods.rrr import RrrConfig
from scrpo_cli.methods.score import ScoreConfig
from scrpo_cli.methods.scrpo import Scrpo, ScrpoConfig
from scrpo_cli.methods.sft import SftConfig
from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.rollout.segments import graded_text, reflection_mask, solution_alone, solution_mask
from scrpo_cli.types import AttemptKind, Completion, FinishReason, SampleRequest, Verdict

SEGMENTS = ReflectionConfig()
GOOD = "Analysis: x Corrected Solution: 1"
REFLECTION = len("Analysis: x Corrected Solution:")


class FakePrompts:
    error_kinds = ("wrong",)
    opens_thought = False

    def problems(self, step):
        return [problem(f"{step}-{i}") for i in range(4)]

    def first(self, p, samples):
        return SampleRequest(p, [], samples)

    def reflection(self, e, samples):
        return SampleRequest(e.problem, [], samples, AttemptKind.CORRECTION, e)

    def error_kind(self, e):
        return e.response

    def reflection_mask(self, ids, text):
        return reflection_mask(ids, text, SEGMENTS, CharTokenizer())

    def solution_mask(self, ids, text):
        return solution_mask(ids, text, SEGMENTS, CharTokenizer())

    def solution(self, completion):
        return solution_alone(completion, SEGMENTS, CharTokenizer())

    def ids(self, request):
        return [ord(c) for c in request.problem.text]


def scrpo(**cfg) -> Scrpo:
    return Scrpo(ScrpoConfig(**cfg), context(FakePrompts(), group_size=8))


def trained(credits):
    """(row, token) pairs with weight, and their advantages."""
    return {(i, t): c.advantage_T[t] for i, c in enumerate(credits.rows) for t in np.flatnonzero(c.mask_T)}


# -- GRPO ---------------------------------------------------------------------------------------------------------


def test_grpo_gives_every_token_of_a_completion_the_same_group_normalised_advantage():
    credits = Grpo(GrpoConfig(), context(FakePrompts(), group_size=4)).credit([first_group([1, 0, 0, 0])])
    for row, want in zip(credits.rows, [1.7321, -0.5774, -0.5774, -0.5774]):
        assert row.advantage_T == pytest.approx([want] * 4, rel=1e-3)
        assert row.mask_T == pytest.approx([1] * 4)
        assert row.kl_T == pytest.approx([0.001] * 4)


def test_groups_without_signal_are_skipped_and_counted():
    credits = Grpo(GrpoConfig(), context(FakePrompts(), group_size=2)).credit(
        [first_group([1, 1]), first_group([0, 0]), first_group([1, 0])]
    )
    assert credits.skipped_groups == 2
    assert [bool(r.mask_T.any()) for r in credits.rows] == [False] * 4 + [True] * 2


def test_without_a_baseline_a_group_that_is_all_right_still_teaches():
    plain = Grpo(GrpoConfig(loss={"advantage": "raw"}), context(FakePrompts(), group_size=2))
    credits = plain.credit([first_group([1, 1]), first_group([0, 0]), first_group([1, 0])])
    assert credits.skipped_groups == 1
    assert [r.advantage_T[0] for r in credits.rows] == [1, 1, 0, 0, 1, 0]
    found = trained(scrpo(loss={"advantage": "raw"}).credit([correction([1, 1], [GOOD] * 2)]))
    assert {i for i, _ in found} == {0, 1}


def test_truncated_completions_earn_nothing_but_stay_in_the_baseline():
    group = first_group([1, 0, 0, 0], cut=True)
    masked = Grpo(GrpoConfig(), context(FakePrompts(), group_size=4)).credit([group])
    assert not any(r.mask_T.any() for r in masked.rows)
    kept = Grpo(GrpoConfig(loss={"overlong": "keep"}), context(FakePrompts(), group_size=4)).credit([group])
    assert all(r.mask_T.all() for r in kept.rows)


def test_a_grader_failure_is_left_out_of_its_group():
    group = first_group([1, 0])
    broken = first_group([0], verdict=Verdict.GRADER_ERROR).attempts[0]
    credits = Grpo(GrpoConfig(loss={"advantage": "group_mean"}), context(FakePrompts(), group_size=3)).credit(
        [type(group)(group.request, [*group.attempts, broken])]
    )
    assert [r.advantage_T[0] for r in credits.rows] == pytest.approx([0.5, -0.5, 0])
    assert not credits.rows[2].mask_T.any()


def test_successes_alone_and_errors_alone_add_up_to_both():
    """Hand-computed: one right answer of four, population std sqrt(3)/4. The denominator stays that of both."""

    def credits(signs):
        return Grpo(GrpoConfig(loss={"signs": signs}), context(FakePrompts(), group_size=4)).credit([group])

    group = first_group([1, 0, 0, 0])
    found = {signs: [row.advantage_T[0] for row in credits(signs).rows] for signs in ("both", "positive", "negative")}
    assert found["positive"] == pytest.approx([3**0.5, 0, 0, 0], rel=1e-3)
    assert found["negative"] == pytest.approx([0, *[-(3**-0.5)] * 3], rel=1e-3)
    assert np.add(found["positive"], found["negative"]) == pytest.approx(found["both"])
    masks = [[row.mask_T.tolist() for row in credits(signs).rows] for signs in found]
    assert masks[0] == masks[1] == masks[2]


@pytest.mark.parametrize("signs", ["positive", "negative"])
def test_a_grader_failure_earns_nothing_with_one_sign_either(signs):
    group = first_group([1, 0])
    broken = first_group([0], verdict=Verdict.GRADER_ERROR).attempts[0]
    method = Grpo(GrpoConfig(loss={"signs": signs}), context(FakePrompts(), group_size=3))
    row = method.credit([replace(group, attempts=[*group.attempts, broken])]).rows[2]
    assert not row.mask_T.any()
    assert not row.advantage_T.any()


def test_nothing_is_below_a_baseline_that_is_not_there():
    with pytest.raises(ValueError, match="no baseline to be below"):
        GrpoConfig(loss={"advantage": "raw", "signs": "negative"})


# -- ScRPO's reflection credit --------------------------------------------------------------------------------------


def test_only_the_reflection_of_the_one_success_is_trained_with_weight_1_7321():
    credits = scrpo().credit([correction([1, 0, 0, 0], [GOOD] * 4)])
    found = trained(credits)
    assert set(found) == {(0, t) for t in range(REFLECTION)}
    assert list(found.values()) == pytest.approx([1.7321] * REFLECTION, rel=1e-3)


@pytest.mark.parametrize("rewards", [[1, 1, 1, 1], [0, 0, 0, 0]])
def test_corrections_that_all_end_alike_give_no_gradient(rewards):
    credits = scrpo().credit([correction(rewards, [GOOD] * 4)])
    assert trained(credits) == {}
    assert credits.skipped_groups == 1


def test_token_switch():
    group = correction([1, 0], [GOOD] * 2)
    whole = set(range(len(GOOD)))
    by_switch = {"reflection": set(range(REFLECTION)), "solution": whole - set(range(REFLECTION)), "all": whole}
    for tokens, want in by_switch.items():
        credits = scrpo(loss={"tokens": tokens}).credit([group])
        assert {t for _, t in trained(credits)} == want


def test_failed_corrections_are_pushed_down_only_on_request():
    group = correction([1, 0], [GOOD] * 2)
    assert {i for i, _ in trained(scrpo().credit([group]))} == {0}
    found = trained(scrpo(loss={"failed": "negative"}).credit([group]))
    assert {i for i, _ in found} == {0, 1}
    assert found[1, 0] == pytest.approx(-1, rel=1e-3)


def test_truncated_corrections_earn_nothing_where_stage_1_masks_them():
    group = correction([1, 0], [GOOD] * 2)
    cut = [replace(a, completion=replace(a.completion, finish=FinishReason.LENGTH)) for a in group.attempts]
    group = replace(group, attempts=cut)
    assert trained(scrpo().credit([group])) == {}
    assert {i for i, _ in trained(scrpo(stage1={"overlong": "keep"}).credit([group]))} == {0}


def test_group_by_question_shares_the_baseline():
    groups = [correction([1, 1], [GOOD] * 2, entry("q", 1)), correction([0, 0], [GOOD] * 2, entry("q", 2))]
    assert trained(scrpo().credit(groups)) == {}
    found = trained(scrpo(stage2={"group_by": "question"}).credit(groups))
    assert {i for i, _ in found} == {0, 1}
    assert list(found.values()) == pytest.approx([1.0] * len(found), rel=1e-3)


@pytest.mark.parametrize(("advantage", "want"), [("group_norm", 1.7321), ("group_mean", 0.75), ("raw", 1.0)])
@pytest.mark.parametrize("normalizer", ["masked_tokens", "all_tokens", "constant"])
def test_advantages_and_normalizers_of_corrections(advantage, want, normalizer):
    method = scrpo(loss={"advantage": advantage, "normalizer": normalizer})
    credits = method.credit([correction([1, 0, 0, 0], [GOOD] * 4)])
    assert trained(credits)[0, 0] == pytest.approx(want, rel=1e-3)
    (first, *rest) = token_weights(credits.rows, credits.normalizer, max_tokens=50)
    trained_tokens = {"masked_tokens": REFLECTION, "all_tokens": 4 * len(GOOD), "constant": 4 * 50}[normalizer]
    assert first.sum() == pytest.approx(REFLECTION / trained_tokens)
    assert sum(w.sum() for w in rest) == 0


@pytest.mark.parametrize(("learn_from", "taught"), [("both", "tr"), ("first", "t"), ("corrections", "r")])
def test_one_kind_of_step_can_be_left_without_credit(learn_from, taught):
    method = scrpo(learn_from=learn_from)
    steps = {"t": first_group([1, 0]), "r": correction([1, 0], [GOOD] * 2)}
    credits = {name: method.credit([group]) for name, group in steps.items()}
    assert {name for name, c in credits.items() if trained(c)} == set(taught)
    assert [len(r.mask_T) for r in credits["t"].rows] == [4, 4]
    assert all((r.kl_T == 0).all() for name, c in credits.items() if name not in taught for r in c.rows)


def test_a_step_without_credit_still_fills_and_empties_the_pool():
    method = scrpo(learn_from="corrections")
    assert "kept" in method.after_sampling(1, [first_group([1, 0])], []).decisions.values()
    method = scrpo(learn_from="first")
    assert method.after_sampling(1, [correction([1, 0], [GOOD] * 2)], [entry()]).retired == [("bad-p-0", "used")]


def test_first_answers_earn_the_recipes_reward_and_corrections_1_or_0():
    method = scrpo(reward={"wrong": -1, "length_penalty": 0.5}, stage1={"advantage": "raw"}, loss={"advantage": "raw"})
    group = first_group([1, 0], text="x" * 6)  # of 8 tokens: half of the penalty
    assert [r.advantage_T[0] for r in method.credit([group]).rows] == pytest.approx([0.5, -1.5])
    assert set(trained(method.credit([correction([1, 0], [GOOD] * 2)])).values()) == {1}


def test_stage_two_weight_and_normalizer_are_handed_on():
    credits = scrpo(loss={"stage2_weight": 0.5, "normalizer": "constant"}).credit([correction([1, 0], [GOOD] * 2)])
    assert (credits.scale, credits.normalizer) == (0.5, "constant")


# -- segments -------------------------------------------------------------------------------------------------------


def mask_of(text, **cfg):
    ids = CharTokenizer().encode(text)
    return reflection_mask(ids, text, ReflectionConfig(**cfg), CharTokenizer())


def test_the_marker_belongs_to_the_reflection_and_the_rest_to_the_solution():
    assert mask_of(GOOD).sum() == REFLECTION
    assert graded_text(GOOD, SEGMENTS) == " 1"


@pytest.mark.parametrize(
    "heading",
    [
        "Corrected Solution:",
        "### Corrected Solution\n",
        "## corrected solution:",
        "**Corrected Solution:**",
        "**Corrected Solution**:",
        "**CORRECTED SOLUTION**\n",
        "Corrected solution:",
    ],
)
def test_headings_as_models_write_them_are_markers(heading):
    text = f"Analysis: a slip.\n{heading} 7"
    solution = graded_text(text, SEGMENTS)
    assert solution.strip() == "7"
    assert mask_of(text).sum() == len(text) - len(solution)


@pytest.mark.parametrize("text", ["The corrected solution follows", "corrected solution follows", "correctedsolution:"])
def test_words_are_no_heading(text):
    assert graded_text(text, SEGMENTS) is None


def test_thinking_is_never_the_solution():
    """With the thinking left out of the reflection, `tokens: solution` trained it."""
    text, cfg = f"<think>hm</think>{GOOD}", ReflectionConfig(think_is_reflection=False)
    solution = solution_mask(CharTokenizer().encode(text), text, cfg, CharTokenizer())
    assert "".join(c for c, m in zip(text, solution) if m) == " 1"
    assert not solution_mask(CharTokenizer().encode("<think>hm"), "<think>hm", cfg, CharTokenizer()).any()


def test_the_template_may_open_the_thought():
    """R1 templates write `<think>` themselves: a marker inside a thought that was never closed is none."""
    text, tokenizer = "I would write Corrected Solution: 1", CharTokenizer()
    ids = tokenizer.encode(text)
    assert not solution_mask(ids, text, SEGMENTS, tokenizer, prefill="<think>").any()
    assert solution_mask(ids, text, SEGMENTS, tokenizer).any()
    closed = f"hm</think>{GOOD}"
    mask = solution_mask(tokenizer.encode(closed), closed, SEGMENTS, tokenizer, prefill="<think>")
    assert "".join(c for c, m in zip(closed, mask) if m) == " 1"


def test_without_a_marker_all_is_reflection_and_nothing_is_graded():
    assert mask_of("no heading").all()
    assert graded_text("no heading", SEGMENTS) is None
    assert graded_text("no heading", ReflectionConfig(require_marker=False)) == "no heading"


def test_a_solution_alone_is_the_answer_that_follows_the_marker_with_its_end():
    text = "Analysis: x\nCorrected Solution:\n1+1=2\n"
    whole = Completion([7], [*map(ord, text), 0], [-1.0] * (len(text) + 1), text, FinishReason.STOP)
    alone = solution_alone(whole, SEGMENTS, CharTokenizer())
    assert (alone.text, alone.ids) == ("1+1=2\n", [*map(ord, "1+1=2\n"), 0])
    assert len(alone.logprobs) == len(alone.ids)
    cut_off = replace(whole, ids=whole.ids[:-1], finish=FinishReason.LENGTH)
    assert solution_alone(cut_off, SEGMENTS, CharTokenizer()).ids == [*map(ord, "1+1=2\n")]
    for nothing in ("no marker at all", "Corrected Solution: \n"):
        assert solution_alone(replace(whole, text=nothing), SEGMENTS, CharTokenizer()) is None


def test_a_marker_rehearsed_while_thinking_does_not_count():
    text = "<think>Corrected Solution: 9</think>Analysis: y Corrected Solution: 1"
    assert graded_text(text, SEGMENTS) == " 1"
    assert mask_of(text).sum() == len(text) - 2
    assert graded_text("<think>Corrected Solution: 9</think>no", SEGMENTS) is None
    assert graded_text("<think>Corrected Solution: 9", SEGMENTS) is None


def test_thinking_can_be_left_out_of_the_reflection():
    text = "<think>hm</think>Analysis: y Corrected Solution: 1"
    mask = mask_of(text, think_is_reflection=False)
    assert not mask[: len("<think>hm</think>")].any()
    assert mask.sum() == len("Analysis: y Corrected Solution:")


# -- the trigger ----------------------------------------------------------------------------------------------------


def phases(method, steps, pool_size):
    """Phases of `steps` steps over a pool that always holds `pool_size` entries."""
    seen = []
    for step in range(1, steps + 1):
        pool = [entry(str(i), step) for i in range(pool_size)]
        plan = method.plan(step, pool)
        seen.append(plan.phase[0])
        trials = [] if plan.phase == "reflect" else [first_group([1, 0])]
        groups = [*trials, *(correction([1, 0], [GOOD] * 2, r.parent) for r in plan.requests if r.parent)]
        method.after_sampling(step, groups, pool)
    return "".join(seen)


def test_every_n_steps_is_n_trials_and_then_a_reflection():
    assert phases(scrpo(reflect_every=2), 9, pool_size=4) == "ffrffrffr"
    assert phases(scrpo(reflect_every=1), 4, pool_size=4) == "frfr"


def test_never_and_an_empty_pool_never_reflect():
    assert phases(scrpo(reflect_every="never"), 5, pool_size=4) == "fffff"
    assert phases(scrpo(reflect_every=1), 5, pool_size=0) == "fffff"


def test_pool_size_fires_on_a_full_batch():
    assert phases(scrpo(), 3, pool_size=3) == "fff"
    assert phases(scrpo(), 3, pool_size=4) == "rrr"
    assert phases(scrpo(trigger={"mode": "pool_size", "size": 2}), 2, pool_size=2) == "rr"


def test_ratio_is_the_share_of_steps_that_reflect():
    seen = phases(scrpo(trigger={"mode": "ratio", "ratio": 0.25}), 40, pool_size=4)
    assert seen.count("r") == 10


def test_several_reflection_steps_at_a_trigger():
    method = scrpo(reflect_every=3, stage2={"steps_per_trigger": 2})
    assert phases(method, 10, pool_size=9) == "fffrrfffrr"


def test_drain_reflects_until_less_than_a_batch_is_left():
    method = scrpo(reflect_every=2, stage2={"steps_per_trigger": "drain"})
    pool, seen = [entry(str(i), 0) for i in range(10)], []
    for step in range(1, 7):
        plan = method.plan(step, pool)
        seen.append(plan.phase[0])
        used = [correction([1, 0], [GOOD] * 2, a.parent) for a in plan.requests] if plan.phase == "reflect" else None
        change = method.after_sampling(step, used or [first_group([1, 1])], pool)
        gone = {a for a, _ in change.retired}
        pool = [e for e in pool if e.attempt_id not in gone]
    assert "".join(seen) == "ffrrff"  # 10 errors: 4, 4, and 2 are less than a batch of 4


@pytest.mark.parametrize("cfg", [{}, {"reflect_every": 1, "stage2": {"steps_per_trigger": "drain"}}])
def test_errors_that_stay_in_the_pool_after_their_use_set_off_no_reflection(cfg):
    method = scrpo(pool={"consume": "keep"}, **cfg)
    method.state["first_steps"] = 1
    used = [replace(entry(str(i)), uses=8) for i in range(4)]
    fresh = [entry(str(i), 1) for i in range(4, 8)]
    assert method.plan(2, [*used, *fresh]).phase == "reflect"
    method.after_sampling(2, [correction([1, 0], [GOOD] * 2, e) for e in fresh], [*used, *fresh])
    assert method.plan(3, [*used, *(replace(e, uses=8) for e in fresh)]).phase == "first"


def test_the_trigger_goes_on_from_a_stored_state():
    first, second = scrpo(reflect_every=3), scrpo(reflect_every=3)
    head = phases(first, 5, pool_size=4)
    second.state |= first.state
    assert head + phases(second, 3, pool_size=4) == phases(scrpo(reflect_every=3), 8, pool_size=4)


# -- the life of an entry -------------------------------------------------------------------------------------------


def retired(method, rewards):
    groups = [correction(r, [GOOD] * 2, entry(str(i), 1)) for i, r in enumerate(rewards)]
    return method.after_sampling(2, groups, [g.request.parent for g in groups]).retired


def test_consumption():
    outcomes = [[1, 0], [0, 0]]
    assert retired(scrpo(), outcomes) == [("bad-0-1", "used"), ("bad-1-1", "used")]
    assert retired(scrpo(pool={"consume": "until_solved"}), outcomes) == [("bad-0-1", "repaired")]
    assert retired(scrpo(pool={"consume": "keep"}), outcomes) == []


def test_old_entries_expire_and_are_not_drawn():
    method = scrpo(reflect_every=1, pool={"max_age_steps": 3})
    method.state["first_steps"] = 1
    pool = [entry("old", 1), entry("new", 9)]
    plan = method.plan(10, pool)
    assert [a.parent.attempt_id for a in plan.requests] == ["bad-new-9"]
    assert ("bad-old-1", "expired") in method.after_sampling(10, [first_group([1, 0])], pool).retired


def test_sizes_of_a_reflection_step_are_those_of_stage_2():
    method = scrpo(reflect_every=1, stage2={"prompts": 2, "group_size": 3})
    method.state["first_steps"] = 1
    requests = method.plan(3, [entry(str(i), 1) for i in range(9)]).requests
    assert (len(requests), {a.samples for a in requests}, method.capacity) == (2, {3}, 8)
    assert scrpo().capacity == 4 * 4


@pytest.mark.parametrize(("per_prompt", "kept"), [(1, 1), (2, 2), ("all", 3)])
def test_so_many_errors_of_a_question_are_kept(per_prompt, kept):
    change = scrpo(pool={"per_prompt": per_prompt}).after_sampling(1, [first_group([1, 0, 0, 0])], [])
    assert list(change.decisions.values()).count("kept") == kept


def test_the_filter_switch_decides_who_enters():
    hopeless, mixed = first_group([0] * 8, "hopeless"), first_group([1] + [0] * 7, "mixed")
    admitted = {}
    for mode, cfg in {
        "variance": {"var_min": 0.15},
        "pass_rate_band": {"band": (0.1, 0.2)},
        "nonzero": {},
        "none": {},
    }.items():
        decisions = scrpo(filter={"mode": mode, **cfg}).after_sampling(1, [hopeless, mixed], []).decisions
        admitted[mode] = sorted(a[:-1] for a, decision in decisions.items() if decision == "kept")
    assert admitted == {
        "variance": [],
        "pass_rate_band": ["mixed"],
        "nonzero": ["mixed"],
        "none": ["hopeless", "mixed"],
    }


def test_a_random_eviction_spares_some_of_the_oldest():
    pool = [entry(str(i), i) for i in range(12)]
    groups = [first_group([1, 0], name) for name in "abcd"]
    gone = {
        how: scrpo(pool={"capacity": 12, "evict": how}).after_sampling(13, groups, pool).retired
        for how in ("fifo", "random")
    }
    assert gone["fifo"] == [(f"bad-{i}-{i}", "evicted") for i in range(4)]
    assert len(gone["random"]) == 4
    assert gone["random"] != gone["fifo"]


def test_capacity_bounds_what_one_step_brings():
    """More errors than the pool holds: a uniform draw of them enters, and the others are told why not."""
    method = scrpo(pool={"capacity": 3})
    change = method.after_sampling(1, [first_group([1, 0], name=f"p{i}") for i in range(8)], [entry("old")])
    decided = list(change.decisions.values())
    assert (decided.count("kept"), decided.count("no_room")) == (3, 5)
    assert change.retired == [("bad-old-0", "evicted")]


def test_capacity_evicts_the_oldest():
    method = scrpo(pool={"capacity": 2})
    change = method.after_sampling(
        5, [first_group([1, 0], "x"), first_group([1, 0], "y")], [entry("a", 1), entry("b", 2)]
    )
    assert sum(d == "kept" for d in change.decisions.values()) == 2
    assert change.retired == [("bad-a-1", "evicted"), ("bad-b-2", "evicted")]


def test_a_reflection_plan_draws_each_error_once():
    method = scrpo(reflect_every=1)
    method.state["first_steps"] = 1
    plan = method.plan(3, [entry(str(i), 1) for i in range(9)])
    drawn = [a.parent.attempt_id for a in plan.requests]
    assert len(drawn) == len(set(drawn)) == 4
    assert all(a.samples == 8 and a.kind is AttemptKind.CORRECTION for a in plan.requests)


def drawn_with(diversity, pool):
    """What the errors of a reflection step have in the field that `diversity` names."""
    method = scrpo(reflect_every=1, pool={"diversity": diversity})
    method.state["first_steps"] = 1
    return [a.parent for a in method.plan(3, pool).requests]


def test_diversity_of_problems_answers_and_kinds_of_errors():
    crowd = [replace(entry("crowd", i), extracted="7", response="carry") for i in range(40)]
    others = [
        replace(entry("crowd", 40), extracted="8", response="carry"),
        replace(entry("other", 41), extracted="7", response="carry"),
        replace(entry("crowd", 42), extracted="7", response="slip"),
    ]
    pool = [*crowd, *others]
    assert {e.problem.id for e in drawn_with("problem", pool)} == {"crowd", "other"}
    assert len({(e.problem.id, e.extracted) for e in drawn_with("answer", pool)}) == 3
    assert [e.response for e in drawn_with("error_kind", pool)].count("slip") == 1
    assert [e.response for e in drawn_with("error_kind", [*pool, replace(others[2], attempt_id="b")])].count(
        "slip"
    ) == 2
    assert drawn_with("none", pool) == drawn_with("none", pool)


# -- what a method needs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "numbers", "message"),
    [
        (GrpoConfig(), {"group_size": 1}, "rollout.group_size is 1"),
        (RlooConfig(), {"group_size": 1}, "rollout.group_size is 1"),
        (ScrpoConfig(stage2={"group_size": 1}), {}, "method.stage2.group_size is 1"),
        (RrrConfig(), {"group_size": 1}, "rollout.group_size is 1"),
        (ScrpoConfig(trigger={"size": 20}), {}, "waits for 20 errors and the pool holds 16"),
        (ScrpoConfig(pool={"capacity": 3}), {}, "waits for 4 errors and the pool holds 3"),
        (SftConfig(), {}, "give optim.max_generated_tokens"),
    ],
)
def test_a_setting_in_which_nothing_would_be_learned_is_refused(cfg, numbers, message):
    with pytest.raises(ValueError, match=message):
        cfg.needs(setting(**numbers))
    GrpoConfig(loss={"advantage": "raw"}).needs(setting(group_size=1))  # needs no group


def test_the_trigger_waits_for_one_reflection_batch():
    """With 128 problems a step and 16 errors a reflection it waited for more than its pool could hold."""
    cfg = ScrpoConfig(stage2={"prompts": 16})
    cfg.needs(setting(prompts_per_step=128))
    method = Scrpo(cfg, context(FakePrompts(), prompts_per_step=128))
    pool = [entry(str(i)) for i in range(16)]
    assert (method.plan(2, pool[:15]).phase, method.plan(2, pool).phase) == ("first", "reflect")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_what_it_needs_and_is_found_by_its_file(name):
    cfg = method_class(name).Config(runs=["r"]) if issubclass(method_class(name).Config, OfflineConfig) else None
    cfg = cfg or method_class(name).Config()
    needs = cfg.needs(setting())
    assert cfg.name == name
    assert needs.context >= setting().first_context
    assert all(phase.rollouts > 0 or phase.kind is PhaseKind.FIT for phase in needs.phases.values())


def test_a_method_that_leaves_an_answer_out_does_not_start():
    with pytest.raises(TypeError, match=r"abstract method .?needs"):
        type("Forgetful", (MethodConfig,), {"__module__": "outside"})(name="x")
    with pytest.raises(TypeError, match="context"):
        Needs(phases={}, turns=1)


def test_the_longest_prompts_count_what_is_asked_about_the_answer():
    one = setting(reflect_prompt="r" * 5, check_prompt="c" * 3, max_prompt_tokens=10, max_tokens=20, shown_tokens=7)
    assert GrpoConfig().needs(one).context == 30
    assert ScrpoConfig().needs(one).context == 30 + 7 + 5
    assert ScrpoConfig(reflect_every="never").needs(one).context == 30
    assert ScoreConfig(turns=3).needs(one).context == 30 + 2 * (20 + 3)
