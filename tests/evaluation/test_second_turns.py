"""What `eval.second_turn` asks, how it is stored, what it changes: a fake engine over the real task and template."""

import numpy as np
import pytest
from tests_tokenizer import TOKENIZER

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.changes import changes
from scrpo_cli.evaluation.gate import answer_gated, check_pool_gate, fit_gate, measure_gated, pooled_confidences
from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.rows import evaluate_rows
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.fake import FakeEngine
from scrpo_cli.tasks.external import ResponseRow
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, PoolEntry, Problem, Verdict

FEEDBACK, REFINE = "give feedback", "now refine"


def answer(number: str) -> str:
    return f"\\boxed{{{number}}}"


def evaluator(respond, *sets: str) -> Evaluator:
    """`respond` sees the prompt's text; samples of one problem share it."""
    own = [f"task.feedback_prompt={FEEDBACK}", f"task.refine_prompt={REFINE}", "eval.turns=2", "eval.samples=2"]
    recipe = load_recipe("tiny", [*own, *sets])
    engine = FakeEngine(TOKENIZER, lambda prompt, key: respond(prompt))
    return Evaluator(Protocol.of(recipe), engine, Chat(TOKENIZER), TinyTask(recipe.task))


def problems(count: int = 3, split: str = "test"):
    recipe = load_recipe("tiny")
    return TinyTask(recipe.task).problems(recipe.task.test.model_copy(update={"split": split}))[:count]


def right_in_the_end(prompt: str) -> str:
    """Knows the answer to the refine prompt alone; its criticism holds a box, which is no answer."""
    right = next(p.answer for p in problems() if p.text in prompt)
    if prompt.count(REFINE):
        return answer(right)
    return f"it is {answer(right)}, not that" if prompt.count(FEEDBACK) else answer("7")


def test_self_refine_is_three_turns_on_the_same_ids_and_its_feedback_is_not_graded():
    ran = evaluator(right_in_the_end, "eval.second_turn=self_refine", "eval.repair=false")
    result = ran.run(problems(), "r:0:tiny", "tiny")
    first = [a for row in result.answers.first for a in row]
    feedback, refined = result.answers.later
    assert [a.kind for a in (first[0], feedback[0], refined[0])] == [
        AttemptKind.FIRST,
        AttemptKind.FEEDBACK,
        AttemptKind.REFINE,
    ]
    assert {(a.grade.verdict, a.grade.extracted) for a in feedback} == {(Verdict.UNGRADED, None)}
    assert all(np.isnan(a.outcome) for a in feedback)
    for a, b, c in zip(first, feedback, refined, strict=True):
        assert (a.turn, b.turn, c.turn, b.parent, c.parent) == (1, 2, 2, a.id, b.id)
        for earlier, later in ((a.completion, b.completion), (b.completion, c.completion)):
            known = [*earlier.prompt_ids, *earlier.ids]
            assert later.prompt_ids[: len(known)] == known
    assert (result.metrics["t1"]["value"], result.metrics["t2"]["value"]) == (0.0, 1.0)
    assert result.metrics["tokens"] == sum(len(a.completion.ids) for a in [*first, *feedback, *refined])
    assert len(result.attempts) == len({a.id for a in result.attempts}) == 3 * 2 * 3


@pytest.mark.parametrize(
    ("turn", "kind", "asked"),
    [("check", "check", "Check your answer"), ("retry", "retry", "Solve again"), ("reflect", "correction", "mistake")],
)
def test_every_first_answer_gets_the_second_turn_that_the_recipe_names(turn, kind, asked):
    prompts = []

    def respond(prompt: str) -> str:
        prompts.append(prompt)
        return next(answer(p.answer) for p in problems() if p.text in prompt)  # right at once

    result = evaluator(respond, f"eval.second_turn={turn}").run(problems(), "r:0:tiny", "tiny")
    assert [a.kind.value for a in result.answers.later[-1]] == [kind] * 6
    assert [a.parent for a in result.answers.later[-1]] == [a.id for row in result.answers.first for a in row]
    assert sum(asked in prompt for prompt in prompts) == 6
    assert result.metrics["t1"]["value"] == 1.0


def test_reflecting_on_everything_is_the_repair_and_is_not_sampled_twice():
    result = evaluator(
        lambda prompt: f"Analysis: x\nCorrected Solution:\n{answer('7')}" if "mistake" in prompt else answer("7"),
        "eval.second_turn=reflect",
        "eval.repair=true",
    ).run(problems(), "r:0:tiny", "tiny")
    assert result.metrics["repair_rate"]["wrong"] == 6
    assert len(result.attempts) == 12
    assert result.metrics["edits"]["zero"]["value"] == 1.0  # the solution is compared, not the analysis before it


def attempt(text: str, extracted: str | None, verdict: Verdict = Verdict.WRONG) -> Attempt:
    completion = Completion([1], [2], [-1.0], text, FinishReason.STOP)
    return Attempt("a", Problem("p", "test", "?", "1"), completion, Grade(verdict, extracted))


def test_changes_by_hand():
    first = [[attempt("abcd", "1"), attempt("abcd", "1")], [attempt("ab", None), attempt("x", "3")]]
    last = [attempt("abcd", "1"), attempt("abcx", "2"), attempt("ab", None), attempt("y", "3", Verdict.GRADER_ERROR)]
    found = changes(first, last, ReflectionConfig())
    assert found["changed"]["value"] == pytest.approx((1 / 2 + 0) / 2)  # the last pair was not graded
    assert found["edits"]["zero"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["edits"]["histogram"] == pytest.approx([2 / 3, 1 / 3] + [0] * 8)  # ratios 0, 1/8, 0


def test_external_second_answers_are_compared_too():
    task = TinyTask(load_recipe("tiny").task)
    given = [("p", 1, "7"), ("p", 2, "7"), ("q", 1, "7"), ("q", 2, "8")]
    rows = [
        ResponseRow(id=name, where="f:1", response=answer(number), problem=name, answer="7", turn=turn)
        for name, turn, number in given
    ]
    metrics = evaluate_rows(task, rows, "r:0").metrics
    assert [metrics[k]["value"] for k in ("t1", "t2", "c2i", "changed")] == [1.0, 0.5, 0.5, 0.5]
    assert metrics["edits"]["zero"]["value"] == 0.5


# The model is right on problems with an even answer; it says "no" to the others and mends just those when it checks.
def knows_itself(prompt: str) -> str:
    problem = next(p for p in [*problems(20), *problems(20, "validation")] if p.text in prompt)
    even = int(problem.answer) % 2 == 0
    if "Answer with one word" in prompt:
        return "yes" if even else "no"
    if "Check your answer" in prompt:
        return answer(problem.answer if not even else "7")
    return answer(problem.answer if even else "8")


def test_a_verdict_gate_is_fitted_on_validation_and_helps_on_the_test_problems():
    ran = evaluator(knows_itself, "eval.gate.signal=verdict", "eval.repair=false")
    fit = fit_gate(ran, problems(20, "validation"), [problems(20)], "r:0:validation")
    assert fit.threshold == 1.0  # below a yes
    answers = Answers.of(answer_gated(ran, problems(20), "r:0:tiny", "tiny"))
    gate = measure_gated(ran, answers, fit.threshold)["gate"]
    assert gate["accuracy"]["value"] == gate["auroc"] == 1.0
    odd = np.mean([int(p.answer) % 2 for p in problems(20)])
    assert gate["coverage"]["value"] == pytest.approx(odd)
    assert gate["against_never"]["verdict"] == gate["against_always"]["verdict"] == "higher"
    asked = [a for a in answers.attempts if a.kind is AttemptKind.SELF_VERDICT]
    assert {(a.grade.verdict, a.grade.extracted) for a in asked} == {(Verdict.UNGRADED, w) for w in ("yes", "no")}
    assert gate["tokens"]["gated"] > gate["tokens"]["never"]


def test_a_gate_is_not_fitted_on_the_problems_that_it_is_judged_by():
    ran = evaluator(knows_itself, "eval.gate.signal=verdict")
    with pytest.raises(UserError, match="20 of 20 validation problems are benchmark problems"):
        fit_gate(ran, problems(20), [problems(20)], "r:0:validation")


def test_confidence_in_pooled_errors():
    sampled = attempt("a", "1")
    own, injected = PoolEntry.of(sampled), PoolEntry("b", sampled.problem, "x", "1", 0, injected="early")
    ran = evaluator(knows_itself, "eval.gate.signal=mean_logprob")
    confidence_E, asked = pooled_confidences(ran, [own, injected], {"a": sampled}, "r:1")
    assert confidence_E[0] == -1.0
    assert np.isnan(confidence_E[1])  # nobody sampled it: its stored zeros say nothing
    assert asked == []


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["eval.gate.signal=logprob"], "there is none"),
        (["eval.turns=2", "eval.samples=1", "eval.gate.signal=agreement"], "agrees with itself"),
    ],
)
def test_a_gate_without_anything_to_decide_is_refused(sets, message):
    with pytest.raises(UserError, match=message):
        Protocol.of(load_recipe("tiny", sets)).check()


def test_pooled_errors_have_no_agreement():
    with pytest.raises(UserError, match="single errors"):
        check_pool_gate(load_recipe("tiny", ["eval.gate.signal=agreement"]).eval.gate)
