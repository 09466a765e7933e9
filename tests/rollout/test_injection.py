"""Injected errors on the tiny world: each kind is what it says, has its share of the pool, and is never right."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from methods.builders import context
from transformers import AutoTokenizer

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.methods.parts.pool import injected_wanted
from scrpo_cli.methods.scrpo import InjectionConfig, Scrpo, ScrpoConfig
from scrpo_cli.recipe.models import GradingConfig, Recipe
from scrpo_cli.rng import generator
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.injection import ErrorInjector, in_turn, neighbours
from scrpo_cli.rollout.prompts import TaskPrompts
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.base import InjectionSource
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.tasks.tiny import ErrorKind, error_kind, parse_chain, worked
from scrpo_cli.types import (
    Attempt,
    AttemptKind,
    Completion,
    FinishReason,
    Grade,
    Group,
    PoolEntry,
    Problem,
    SampleRequest,
    Verdict,
)

RECIPE = Recipe()
TASK = make_task(RECIPE.task)
PROBLEMS = TASK.problems(RECIPE.task.train)[:40]
CHAT = Chat(AutoTokenizer.from_pretrained(embedded_model_dir()))
PROMPTS = TaskPrompts(RECIPE, TASK, CHAT, PROBLEMS)


def answered(problem, shift: int, attempt_id: str = "run:1:0:0") -> Attempt:
    """A first answer whose last line is `shift` off."""
    chain = parse_chain(problem.text)
    text = worked(chain, len(chain.terms) - 1, shift)
    (grade,) = TASK.grade([(problem, text)])
    return Attempt(attempt_id, problem, Completion([1], [2], [-1.0], text, FinishReason.STOP), grade)


def first_groups(count: int = 4, step: int = 1, shifts=(0, 3)) -> list[Group]:
    """Groups of a right and a wrong answer."""
    problems = [PROBLEMS[(step * count + i) % len(PROBLEMS)] for i in range(count)]
    return [
        Group(PROMPTS.first(p, len(shifts)), [answered(p, d, f"run:{step}:{g}:{s}") for s, d in enumerate(shifts)])
        for g, p in enumerate(problems)
    ]


def injector(cfg: InjectionConfig, library=None, max_tokens: int = 256, task=TASK, chat=CHAT) -> ErrorInjector:
    return ErrorInjector(cfg, task, chat, PROBLEMS, library, max_tokens, seed=0)


def injected(kind: str, count: int = 8, groups=None, step: int = 1, max_tokens: int = 256):
    made = injector(InjectionConfig(share=0.5, kind=kind), max_tokens=max_tokens)
    return made.inject(step, groups or first_groups(), count)


def built(cfg: ScrpoConfig, task) -> Scrpo:
    """The method over a task, as a session makes it."""
    prompts = TaskPrompts(RECIPE, task, CHAT, PROBLEMS)
    return Scrpo(cfg, context(prompts, injector=injector(cfg.injection, task=task)))


def wrong_lines(text: str) -> list[int]:
    lines = [re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", line).groups() for line in text.splitlines()[:-1]]
    right = [int(a) + (int(b) if op == "+" else -int(b)) == int(c) for a, op, b, c in lines]
    return [i for i, ok in enumerate(right) if not ok]


# -- the kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["early", "late"])
def test_a_wrong_line_is_carried_on_consistently(kind):
    for attempt in injected(kind):
        text, terms = attempt.completion.text, parse_chain(attempt.problem.text).terms
        assert wrong_lines(text) == [0 if kind == "early" else len(terms) - 1]
        assert attempt.grade.verdict is Verdict.WRONG
        assert error_kind(attempt.problem, text) in (ErrorKind.CARRY, ErrorKind.BORROW, ErrorKind.SLIP)


def test_off_by_one_boxes_a_neighbour_of_the_right_answer():
    found = injected("off_by_one")
    assert len({(a.problem.id, a.completion.text) for a in found}) == 8  # both neighbours of each of four problems
    for attempt in found:
        assert abs(int(attempt.grade.extracted) - int(attempt.problem.answer)) == 1
        assert wrong_lines(attempt.completion.text) == []
        assert error_kind(attempt.problem, attempt.completion.text) is ErrorKind.COPY


def test_copied_answers_are_wrong_answers_to_other_problems_of_the_step():
    groups = first_groups()
    found = injected("copied", groups=groups)
    assert len(found) == 8
    for attempt in found:
        others = {g.attempts[1].grade.extracted for g in groups if g.request.problem != attempt.problem}
        assert attempt.grade.extracted in others
        assert error_kind(attempt.problem, attempt.completion.text) is ErrorKind.COPY


def test_a_copied_answer_that_happens_to_be_right_is_not_injected():
    first, second = first_groups(2)
    lucky = replace(first.attempts[1], grade=Grade(Verdict.WRONG, second.request.problem.answer))
    groups = [Group(first.request, [lucky]), Group(second.request, second.attempts[:1])]
    assert injected("copied", groups=groups) == []


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.sampled_from(["early", "late", "copied", "off_by_one"]), st.integers(1, 12))
def test_nothing_right_is_ever_injected(step, kind, count):
    found = injected(kind, count, first_groups(3, step), step)
    assert all(a.grade.verdict is Verdict.WRONG and a.grade.extracted != a.problem.answer for a in found)
    assert all(error_kind(a.problem, a.completion.text) is not None for a in found)
    assert len({(a.problem.id, a.completion.text) for a in found}) == len(found) <= count


def test_without_a_worked_answer_of_the_task_a_right_one_of_the_group_serves(monkeypatch):
    monkeypatch.setattr(TASK, "injection", InjectionSource(TASK.injection.kinds))
    with_right, without = first_groups(2)
    assert {a.problem.id for a in injected("off_by_one", groups=[with_right])} == {with_right.request.problem.id}
    assert injected("off_by_one", groups=[Group(without.request, without.attempts[1:])]) == []


@pytest.mark.parametrize(("answer", "near"), [("7", ["6", "8"]), ("-1", ["-2", "0"]), ("1,000", ["999", "1001"])])
def test_integers_have_two_neighbours(answer, near):
    assert neighbours(answer) == near
    assert neighbours(r"\frac{1}{2}") == neighbours("x") == neighbours("3.5") == []


# -- another model's errors -----------------------------------------------------------------------------------------


class Recorded:
    """A library of one run."""

    def __init__(self, attempts):
        self.recorded = attempts

    def attempts(self, runs, texts_only):
        assert runs == ["theirs"]
        return self.recorded


OTHER = InjectionConfig(share=0.5, kind="other_model", run="theirs")


def test_recorded_errors_are_found_by_the_text_of_the_problem():
    problem = PROBLEMS[4]
    elsewhere = replace(problem, id="17", source="theirs")
    attempts = [replace(answered(problem, d), problem=elsewhere) for d in (0, 1, 2)]
    attempts.append(replace(attempts[1], kind=AttemptKind.CORRECTION))
    found = injector(OTHER, library=Recorded(attempts)).recorded
    assert found == {problem.text: [a.completion.text for a in attempts[1:3]]}
    (one, two) = injector(OTHER, library=Recorded(attempts)).inject(1, first_groups(1, step=4), 8)
    assert {one.completion.text, two.completion.text} == set(found[problem.text])
    assert one.problem == problem


@pytest.mark.parametrize("shift", [0, 1])
def test_a_run_without_wrong_answers_to_these_problems_is_refused(shift):
    problem = TASK.problems(RECIPE.task.train)[100]  # not one of PROMPTS
    with pytest.raises(UserError, match="Run theirs has no wrong first answer"):
        injector(OTHER, library=Recorded([answered(problem, shift), answered(PROBLEMS[0], 0)]))


def test_without_a_share_the_run_is_not_read():
    injector(InjectionConfig(kind="other_model"), library=None)
    with pytest.raises(ValueError, match="needs a run"):
        InjectionConfig(share=0.1, kind="other_model")


# -- rows -----------------------------------------------------------------------------------------------------------


def test_a_injected_attempt_is_a_first_answer_with_tokens():
    first, second = injected("late", 2)
    assert (first.id, second.id) == ("run:1:0:0:injected:0", "run:1:0:0:injected:1")
    assert (first.kind, first.sample, second.sample) == (AttemptKind.FIRST, 0, 1)
    completion = first.completion
    assert PROMPTS.chat.tokenizer.decode(completion.ids) == completion.text
    assert completion.logprobs == [0.0] * len(completion.ids)
    assert completion.prompt_ids == PROMPTS.ids(PROMPTS.first(first.problem, 1))
    assert completion.finish is FinishReason.UNKNOWN


def test_what_has_no_room_in_a_prompt_is_passed_over():
    longest = max(len(a.completion.ids) for a in injected("early"))
    assert len(injected("early", max_tokens=longest)) == 8
    assert injected("early", max_tokens=10) == []


def test_problems_take_turns_and_the_same_seed_plants_the_same():
    found = injected("early", 6)
    assert sorted(Counter(a.problem.id for a in found).values()) == [1, 1, 2, 2]
    assert found == injected("early", 6)
    assert list(in_turn([iter("abc"), iter(""), iter("d")])) == ["a", "d", "b", "c"]


def test_slips_differ_by_seed():
    texts = {next(TASK.injection.slips(PROBLEMS[0], "early", generator(seed, 1, "inject"))) for seed in range(20)}
    assert len(texts) > 1


# -- the share of the pool ------------------------------------------------------------------------------------------


def scrpo(**cfg) -> Scrpo:
    own = ScrpoConfig(**cfg)
    numbers = {"group_size": 2, "max_tokens": 256}
    return Scrpo(own, context(PROMPTS, injector=injector(own.injection), **numbers))


def after(pool: list[PoolEntry], step: int, groups, change) -> list[PoolEntry]:
    """The living pool once `change` is committed."""
    gone = {a for a, _ in change.retired}
    own = [PoolEntry.of(a, step) for g in groups for a in g.attempts if change.decisions.get(a.id) == "kept"]
    new = [replace(PoolEntry.of(a, step), injected=change.injected_kind) for a in change.injected]
    return [*(e for e in pool if e.attempt_id not in gone), *own, *new]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.sampled_from(["fifo", "random"]), st.integers(16, 40))
def test_after_each_trial_step_the_share_of_the_pool_is_injected_within_its_capacity(share, evict, capacity):
    method = scrpo(pool={"capacity": capacity, "evict": evict}, injection={"share": share, "kind": "early"})
    pool: list[PoolEntry] = []
    for step in range(1, 9):
        groups = first_groups(4, step)
        pool = after(pool, step, groups, method.after_sampling(step, groups, pool))
        own = sum(not e.injected for e in pool)
        assert len(pool) <= capacity
        assert len(pool) - own == injected_wanted(own, share, capacity)
        assert abs((len(pool) - own) - share * len(pool)) <= 1


def test_injected_errors_that_outlive_the_models_own_are_evicted():
    method = scrpo(injection={"share": 0.5})
    pool = [replace(PoolEntry.of(a), injected="early") for a in injected("early", 8)]
    groups = first_groups(4)
    change = method.after_sampling(2, groups, pool)
    assert change.injected == []
    assert Counter(reason for _, reason in change.retired) == {"evicted": 4}
    assert sum(e.injected != "" for e in after(pool, 2, groups, change)) == 4


def test_where_the_problems_give_no_more_fewer_are_injected():
    method = scrpo(injection={"share": 0.75, "kind": "copied"})
    change = method.after_sampling(1, first_groups(1), [])  # there is no other problem to copy from
    assert (sum(d == "kept" for d in change.decisions.values()), change.injected) == (1, [])


# -- what a task can do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"injection": {"share": 0.5, "kind": "early"}}, "cannot inject 'early'"),
        ({"injection": {"share": 0.5, "kind": "late"}}, "cannot inject 'late'"),
        ({"pool": {"diversity": "error_kind"}}, "cannot tell kinds of errors apart"),
    ],
)
def test_an_experiment_that_the_task_cannot_do_is_refused(method, message):
    built(ScrpoConfig(**method), TASK)
    with pytest.raises(UserError, match=message) as refused:
        built(ScrpoConfig(**method), MathTask(RECIPE.task))
    assert refused.value.fix.startswith("Use ")


def test_mathematics_plants_what_needs_no_steps():
    for kind in ("copied", "off_by_one"):
        built(ScrpoConfig(injection={"share": 0.5, "kind": kind}), MathTask(RECIPE.task))


def test_mathematics_takes_a_right_answer_of_the_group_and_changes_its_end():
    task = MathTask(RECIPE.task.model_copy(update={"grading": GradingConfig(processes=1)}))
    texts = {"1234": ["I add: \\boxed{1,234}.", "no idea"], "7": ["It is \\boxed{6}."], "x": ["Hence \\boxed{x}."]}
    groups = []
    for answer, responses in texts.items():
        problem = Problem(answer, "m", f"What is {answer}?", answer)
        grades = task.grade([(problem, text) for text in responses])
        attempts = [
            Attempt(f"run:1:{answer}:{s}", problem, Completion([1], [2], [0.0], text, FinishReason.STOP), grade)
            for s, (text, grade) in enumerate(zip(responses, grades, strict=True))
        ]
        groups.append(Group(SampleRequest(problem, [], len(attempts)), attempts))
    makers = {kind: injector(InjectionConfig(share=0.5, kind=kind), task=task) for kind in ("off_by_one", "copied")}
    made = {kind: maker.inject(1, groups, 9) for kind, maker in makers.items()}
    task.close()
    assert {a.completion.text for a in made["off_by_one"]} == {"I add: \\boxed{1233}.", "I add: \\boxed{1235}."}
    assert {a.completion.text for a in made["copied"]} == {"I add: \\boxed{6}.", "Hence \\boxed{6}."}
    assert {a.grade.verdict for attempts in made.values() for a in attempts} == {Verdict.WRONG}
