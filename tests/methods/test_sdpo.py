"""SDPO: who has a teacher, what the teacher is shown, and what a step earns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from methods.builders import attempt, context, setting
from methods.turns_builders import TurnPrompts
from pydantic import ValidationError

from scrpo_cli.methods.base import Plan
from scrpo_cli.methods.sdpo import Sdpo, SdpoConfig
from scrpo_cli.rollout.chat import assistant, informed_messages, user
from scrpo_cli.types import Attempt, Group, Verdict

MESSAGE = "{problem} | {shown} | again"
TURN = "again"
PROMPTS = TurnPrompts()


def sdpo(**cfg: Any) -> Sdpo:
    return Sdpo(SdpoConfig(**{"example": MESSAGE} | cfg), context(PROMPTS, group_size=4))


def group(*attempts: Attempt) -> Group:
    return Group(PROMPTS.first(attempts[0].problem, len(attempts)), list(attempts))


def taught(method: Sdpo, *attempts: Attempt) -> list[str]:
    """What the teacher of each attempt reads (TurnPrompts' ids are code points); empty where it has none."""
    rows = method.credit([group(*attempts)]).rows
    assert [bool(row.mask_T.any()) for row in rows] == [bool(row.reference_prompt) for row in rows]
    return ["".join(map(chr, row.reference_prompt)) for row in rows]


RIGHT, OTHER = attempt(1, "good", "r"), attempt(1, "fine", "o")
WRONG, FAILED = attempt(0, "bad", "w"), attempt(0, "worse", "f")


# -- who has a teacher -----------------------------------------------------------------------------------------------


def test_an_attempt_is_taught_by_the_first_other_right_one() -> None:
    good, fine = (f"question p | {text} | again" for text in ("good", "fine"))
    assert taught(sdpo(), WRONG, RIGHT, OTHER, FAILED) == [good, fine, good, good]


def test_nobody_is_taught_by_itself() -> None:
    assert taught(sdpo(), WRONG, RIGHT) == ["question p | good | again", ""]


def test_right_answers_can_be_left_alone() -> None:
    found = taught(sdpo(taught="failed"), WRONG, RIGHT, OTHER)
    assert [bool(text) for text in found] == [True, False, False]


def test_without_an_example_a_wrong_answer_hears_what_the_recipe_says_of_it() -> None:
    assert taught(sdpo(wrong="not so, {problem}"), WRONG, FAILED) == ["not so, question p"] * 2
    assert taught(sdpo(wrong="{problem} not {shown}"), WRONG, FAILED) == ["question p not bad", "question p not worse"]
    assert taught(sdpo(wrong="wrong!"), WRONG, FAILED) == ["question pbadwrong!", "question pworsewrong!"]


def test_an_example_comes_before_the_news_that_it_was_wrong() -> None:
    assert taught(sdpo(wrong="wrong!"), WRONG, RIGHT)[0] == "question p | good | again"
    assert taught(sdpo(wrong="wrong!", example=""), WRONG, RIGHT)[0] == "question pbadwrong!"


@pytest.mark.parametrize("verdict", [Verdict.GRADER_ERROR, Verdict.TIMEOUT])
def test_only_an_answer_that_is_known_to_be_wrong_is_called_wrong(verdict: Verdict) -> None:
    unknown = attempt(0, "slow", "u", verdict=verdict)
    assert taught(sdpo(wrong="wrong!"), unknown, WRONG) == ["", "question pbadwrong!"]
    assert taught(sdpo(), unknown, RIGHT)[0] == "question p | good | again"


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_a_text_with_the_problem_takes_the_place_of_the_question() -> None:
    asked = [{"role": "system", "content": "s"}, user("1+1?")]
    assert informed_messages(asked, "2", "{problem} {shown}!") == [asked[0], user("1+1? 2!")]


def test_a_text_without_it_follows_on_the_shown_answer() -> None:
    assert informed_messages([user("1+1?")], "2", TURN) == [user("1+1?"), assistant("2"), user(TURN)]


def test_marks_inside_of_what_is_shown_are_left_alone() -> None:
    (found,) = informed_messages([user("a {shown}")], "b {problem}", "{problem}, {shown}")
    assert found["content"] == "a {shown}, b {problem}"


@pytest.mark.parametrize("text", ["{shown}", "{problem} {problem} {shown}", "{problem}"])
def test_an_example_that_shows_nothing_or_twice_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"\{shown\}"):
        SdpoConfig(example=text)


# -- what a step earns -----------------------------------------------------------------------------------------------


def test_the_credit_is_a_divergence_from_the_teacher_and_no_advantage() -> None:
    credits = sdpo().credit([group(WRONG, RIGHT)])
    wrong, right = credits.rows
    assert (wrong.advantage_T == 0).all()
    assert (wrong.mask_T == 1).all()
    assert (wrong.kl_T == 1).all()
    assert not np.any([right.mask_T, right.kl_T])
    assert (credits.estimator, credits.clip.kind, wrong.part) == ("jsd", "none", "wrong")


def test_the_sampled_token_alone_is_the_estimate_whose_gradient_is_that_of_the_reverse_kl() -> None:
    assert sdpo(divergence="sampled").credit([group(WRONG, RIGHT)]).estimator == "k2"


def test_groups_in_which_nobody_is_taught_are_skipped() -> None:
    credits = sdpo().credit([group(WRONG, FAILED), group(WRONG, RIGHT), group(RIGHT, OTHER)])
    assert credits.skipped_groups == 1
    assert credits.metrics == {"train/taught": 3 / 6}


def test_the_teacher_goes_with_the_policy_at_every_step() -> None:
    plans = [sdpo(teacher_rate=0.3).plan(step, []) for step in (1, 2)]
    assert [(p.reference, p.reference_share) for p in plans] == [("policy", 0.3)] * 2
    assert isinstance(plans[0], Plan)
    assert [r.samples for r in plans[0].requests] == [4, 4]


# -- what it takes ---------------------------------------------------------------------------------------------------


def test_the_longest_prompt_is_the_teachers() -> None:
    needs = SdpoConfig(example=MESSAGE, wrong="{problem} is wrong: {shown}!").needs(setting())
    assert needs.context == 16 + 8 + 8 + len("{problem} is wrong: {shown}!")


@pytest.mark.parametrize(
    ("cfg", "size", "message"),
    [({}, 1, "rollout.group_size is 1"), ({"example": ""}, 4, "no answer would have a teacher")],
)
def test_a_setting_without_any_teacher_is_refused(cfg: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SdpoConfig(**cfg).needs(setting(group_size=size))
    SdpoConfig(wrong="wrong!", **cfg).needs(setting(group_size=size))
