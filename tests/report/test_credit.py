"""Recomputed credit: what a run earned is found again, to the token, and other methods give what their formulas say."""

from dataclasses import replace

import numpy as np
import pytest
from tests_tokenizer import TOKENIZER

from scrpo_cli.methods.score import BETA2, STAGE
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import StepMetrics, attempts_of, resolve_run, steps_of
from scrpo_cli.recipe.load import load_recipe, stored_recipe
from scrpo_cli.report.credit import Crediting, agrees, recorded_groups
from scrpo_cli.report.scores import is_small, kl_estimate
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.tasks import make_task
from scrpo_cli.types import (
    Attempt,
    AttemptKind,
    Completion,
    FinishReason,
    Grade,
    Group,
    Problem,
    SampleRequest,
    Verdict,
)

PROBLEM = Problem("p", "tiny", "47+38=?", "85")


def attempt(name, text, right, kind=AttemptKind.FIRST, turn=1):
    ids = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
    completion = Completion([1], ids, [-0.1] * len(ids), text, FinishReason.STOP)
    grade = Grade(Verdict.CORRECT if right else Verdict.WRONG, "85")
    return Attempt(name, PROBLEM, completion, grade, kind, turn)


def group(outcomes):
    attempts = [attempt(f"a{i}", "\\boxed{85}", right) for i, right in enumerate(outcomes)]
    return Group(SampleRequest(PROBLEM, [{"role": "user", "content": PROBLEM.text}], len(attempts)), attempts)


def crediting(recipe="tiny", *sets):
    recipe = load_recipe(recipe, sets)
    return Crediting(recipe, make_task(recipe.task), Chat(TOKENIZER))


def step(credits, phase="first"):
    """What the run that earned these has recorded."""
    return StepMetrics(1, phase, {"train/tokens": float(sum(row.mask_T.sum() for row in credits.rows))})


def test_credit_of_a_run_is_what_it_recorded(trained):
    with Database.open(str(trained.folder / ".scrpo/scrpo.db")) as db:
        run = resolve_run(db, trained.run)
        recipe = stored_recipe(run.recipe_json, "test")
        found = Crediting(recipe, make_task(recipe.task), Chat(TOKENIZER))
        phases = set()
        for recorded in steps_of(db, run.id):
            groups = recorded_groups(db, run.id, recorded.step, recorded.phase, found.prompts)
            credits, rows = found.credit(groups, recorded, None)["scrpo"]
            assert agrees(credits, recorded)
            assert credits.skipped_groups == recorded.metrics["groups/skipped"]
            assert {a.id for a in attempts_of(db, run.id, evaluations=False, step=recorded.step)} == rows.keys()
            phases.add(recorded.phase)
    assert phases == {"first", "reflect"}


def test_a_group_earns_what_the_formulas_of_the_papers_say():
    groups, of = [group([True, False, False, False])], crediting()
    known = of.credit(groups, step(of.methods["scrpo"].credit(groups)), None)
    right, wrong = (3 / 4) / np.sqrt(3 / 16), (-1 / 4) / np.sqrt(3 / 16)
    for name, expected in (("grpo", right), ("scrpo", right), ("dr_grpo", 0.75)):
        assert known[name][1]["a0"].advantage_T == pytest.approx(expected, rel=1e-3)
    assert known["grpo"][1]["a1"].advantage_T == pytest.approx(wrong, rel=1e-3)
    assert not known["rrr"][1]["a0"].mask_T.any(), "it trains no first answers"


def test_methods_that_choose_their_examples_elsewhere_say_nothing():
    groups, of = [group([True, False])], crediting()
    assert not {"sft", "star", "dpo", "pair_sft", "score"} & of.credit(groups, StepMetrics(1, "first", {}), None).keys()


def test_credit_that_is_not_what_the_run_recorded_is_not_shown():
    groups, of = [group([True, False])], crediting()
    recorded = step(of.methods["scrpo"].credit(groups))
    other = replace(recorded, metrics={"train/tokens": recorded.metrics["train/tokens"] + 1})
    assert "scrpo" in of.credit(groups, recorded, None)
    assert "scrpo" not in of.credit(groups, other, None)
    assert "grpo" in of.credit(groups, other, None)


def test_kl_in_the_reward_needs_a_reference():
    groups, of = [group([True, False])], crediting("tiny", "method.name=rloo", "method.kl={beta: 0.1, estimator: k1}")
    lengths = [len(a.completion.ids) for a in groups[0].attempts]
    ratios = [np.full(n, 0.5) for n in lengths]
    credits = of.methods["rloo"].credit(groups, ratios)
    assert "rloo" not in of.credit(groups, step(credits), None)
    earned = of.credit(groups, step(credits), ratios)["rloo"][1]["a0"].advantage_T
    assert earned == pytest.approx(1.0 - 0.1 * 0.5 * (lengths[0] - lengths[1]), abs=1e-6)


@pytest.mark.parametrize(("stage", "first", "kl"), [(1.0, 0.0, 0.3), (2.0, 1.0, 0.01)])
def test_score_is_in_the_stage_that_was_recorded(stage, first, kl):
    of = crediting("tiny", "method.name=score")
    groups = []
    for i, outcomes in enumerate(((True, True), (False, True))):
        one = attempt(f"one{i}", "\\boxed{85}", outcomes[0])
        two = attempt(f"two{i}", "\\boxed{85}", outcomes[1], AttemptKind.CHECK, 2)
        groups += [Group(SampleRequest(PROBLEM, (), 1), [one])]
        groups += [Group(SampleRequest(PROBLEM, (), 1, AttemptKind.CHECK, previous=one), [two])]
    groups.sort(key=lambda g: g.request.turn)
    tokens = float(sum(len(a.completion.ids) for g in groups for a in g.attempts))
    metrics = {"train/tokens": tokens, STAGE: stage, BETA2: 0.3}
    rows = of.credit(groups, StepMetrics(1, "turns", metrics), None)["score"][1]
    assert rows["one0"].advantage_T == pytest.approx(first)
    assert rows["one0"].kl_T == pytest.approx(kl)
    assert not of.credit(groups, StepMetrics(1, "turns", {"train/tokens": tokens}), None), "of earlier versions"


def test_score_records_its_stage():
    method = crediting("tiny", "method.name=score").methods["score"]
    method.state |= {"stage": 2, "beta2": 0.7}
    assert method.credit([group([True, False])]).metrics == {STAGE: 2, BETA2: 0.7}


def test_kl_of_a_token_by_each_estimator():
    sampled, base = [-1.0, -2.0], np.array([-1.5, -2.0], dtype=np.float32)
    assert kl_estimate(sampled, base, "k1") == pytest.approx([0.5, 0.0])
    assert kl_estimate(sampled, base, "k2") == pytest.approx([0.125, 0.0])
    assert kl_estimate(sampled, base, "k3") == pytest.approx([np.exp(-0.5) + 0.5 - 1, 0.0])


def test_only_small_models_are_loaded_without_asking(tmp_path):
    cfg = load_recipe("tiny").model
    assert is_small(cfg)
    assert not is_small(cfg.model_copy(update={"name": "someone/on-the-hub"}))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(201 * 2**20)  # takes no room on disk
    assert not is_small(cfg.model_copy(update={"name": str(tmp_path)}))
