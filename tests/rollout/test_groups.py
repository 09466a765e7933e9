"""From asks to graded groups, and the stateless order of problems."""

import pytest
from tests_tokenizer import TOKENIZER

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.fake import FakeEngine
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.rollout.prompts import TaskPrompts, check_prompt_budget
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.math import MathTask
from scrpo_cli.types import AttemptKind, PoolEntry, Verdict

RECIPE = load_recipe("tiny", ["optim.prompts_per_step=3"])
TASK = make_task(RECIPE.task)
CHAT = Chat(TOKENIZER)
PROBLEMS = TASK.problems(RECIPE.task.train)
ORIGIN = Origin("run:1", 0, 1, "rollout")


def prompts(**changes) -> TaskPrompts:
    return TaskPrompts(RECIPE.model_copy(update=changes), TASK, CHAT, PROBLEMS[:7])


def test_every_epoch_holds_each_problem_once_in_another_order():
    stream = [p.id for step in range(1, 8) for p in prompts().problems(step)]
    epochs = [stream[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(e) == sorted(p.id for p in PROBLEMS[:7]) for e in epochs)
    assert epochs[0] != epochs[1]


def test_the_problems_of_a_step_depend_on_the_step_alone():
    forward, alone = [prompts().problems(s) for s in range(1, 5)], prompts().problems(4)
    assert forward[3] == alone
    assert prompts(seed=1).problems(4) != alone


def test_asks_become_groups_with_deterministic_ids_and_the_right_grades():
    requests = [prompts().first(p, 3) for p in PROBLEMS[:2]]

    def answer(prompt, key):
        return f"\\boxed{{{PROBLEMS[key.index // 3].answer if key.index % 3 else 1000}}}"

    completions = sample_requests(FakeEngine(TOKENIZER, answer), CHAT, requests, Sampling(1.0, 50), ORIGIN)
    groups = grade_groups(TASK, RECIPE.task.reflection, requests, completions, ORIGIN, "")
    assert [[a.id for a in g.attempts] for g in groups] == [[f"run:1:{g}:{s}" for s in range(3)] for g in range(2)]
    assert [list(g.rewards_G) for g in groups] == [[0, 1, 1]] * 2
    assert all(a.turn == 1 and a.parent is None for g in groups for a in g.attempts)


def test_what_was_finished_before_a_stop_is_not_sampled_again():
    requests = [prompts().first(p, 3) for p in PROBLEMS[:2]]
    asked = []

    def answer(prompt, key, stop=None):
        if key.index == stop:
            raise KeyboardInterrupt
        asked.append(key.index)
        return f"{key.index} to {prompt}"

    def sample(known, stop=None, requests=requests):
        engine = FakeEngine(TOKENIZER, lambda prompt, key: answer(prompt, key, stop))
        return sample_requests(engine, CHAT, requests, Sampling(1.0, 200), ORIGIN, known)

    whole, known = sample({}), {}
    with pytest.raises(KeyboardInterrupt):
        sample(known, stop=4)
    assert [key.index for key in known] == [0, 1, 2, 3]
    asked.clear()
    assert sample(known) == whole
    assert asked == [4, 5]
    assert sample(known) == whole
    assert asked == [4, 5]
    other = [requests[0], prompts().first(PROBLEMS[2], 3)]  # the same rows after another prompt
    assert [c.text for c in sample(known, requests=other)[1]] == [c.text for c in sample({}, requests=other)[1]]
    assert asked[2:5] == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Analysis: \\boxed{1000} Corrected Solution: \\boxed{RIGHT}", Verdict.CORRECT),
        ("Analysis: \\boxed{RIGHT} Corrected Solution: \\boxed{1000}", Verdict.WRONG),
        ("\\boxed{RIGHT}", Verdict.UNPARSABLE),  # no marker: not graded
        ("Corrected Solution: nothing", Verdict.UNPARSABLE),
    ],
)
def test_of_a_correction_only_the_solution_segment_is_graded(text, verdict):
    entry = PoolEntry("bad", PROBLEMS[0], "\\boxed{3}", "3", 1)
    request = prompts().reflection(entry, 1)
    engine = FakeEngine(TOKENIZER, lambda prompt, key: text.replace("RIGHT", PROBLEMS[0].answer))
    completions = sample_requests(engine, CHAT, [request], Sampling(1.0, 200), ORIGIN)
    [attempt] = grade_groups(TASK, RECIPE.task.reflection, [request], completions, ORIGIN, "")[0].attempts
    assert attempt.grade.verdict is verdict
    assert (attempt.kind, attempt.turn, attempt.parent) == (AttemptKind.CORRECTION, 2, "bad")


def test_uniforms_depend_on_the_key_alone():
    key = RowKey(1, 2, "rollout", 3)
    assert list(key.uniforms(5)) == list(RowKey(1, 2, "rollout", 3).uniforms(5))
    others = [
        RowKey(0, 2, "rollout", 3),
        RowKey(1, 3, "rollout", 3),
        RowKey(1, 2, "eval", 3),
        RowKey(1, 2, "rollout", 4),
    ]
    assert len({tuple(k.uniforms(5)) for k in [key, *others]}) == 5


def test_prompts_over_the_budget_are_refused_before_anything_is_sampled():
    check_prompt_budget(RECIPE.task, TASK, CHAT, PROBLEMS[:50])
    small = load_recipe("tiny", ["task.max_prompt_tokens=12"])
    with pytest.raises(UserError, match=r"of 50 prompts are over the budget of 12 tokens"):
        check_prompt_budget(small.task, TASK, CHAT, PROBLEMS[:50])
    with pytest.raises(UserError, match="empty"):
        check_prompt_budget(RECIPE.task, TASK, CHAT, [])


def test_a_box_inside_an_unfinished_thought_is_no_answer_where_the_template_opened_it():
    request = prompts().first(PROBLEMS[0], 2)
    texts = ["hm \\boxed{RIGHT} but", "hm </think>\\boxed{RIGHT}"]
    engine = FakeEngine(TOKENIZER, lambda prompt, key: texts[key.index].replace("RIGHT", PROBLEMS[0].answer))
    completions = sample_requests(engine, CHAT, [request], Sampling(1.0, 200), ORIGIN)
    cfg = load_recipe("scrpo-base").task
    [group] = grade_groups(MathTask(cfg), cfg.reflection, [request], completions, ORIGIN, "<think>")
    assert [a.grade.verdict for a in group.attempts] == [Verdict.UNPARSABLE, Verdict.CORRECT]
