import re
from pathlib import Path

import pytest

from scrpo_cli.ablation import grid
from scrpo_cli.ablation.grid import check_arms, make_cells, split_recipes
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe


def make_arms(reflect_every=None, vary=(), sets=(), recipes=("tiny",)):
    return grid.make_arms(recipes, reflect_every, vary, sets, named=len(recipes) > 1)


def names(arms):
    return [arm.name for arm in arms]


def test_reflect_every():
    arms = make_arms("5,10,never")
    assert names(arms) == ["reflect_every=5", "reflect_every=10", "reflect_every=never"]
    assert arms[2].overrides == ("method.reflect_every=never",)
    assert [arm.recipe.method.reflect_every for arm in arms] == [5, 10, "never"]


def test_a_grid_is_the_product_in_the_order_given():
    arms = make_arms("5,never", ["optim.lr=1e-3, 2e-3"])
    assert names(arms) == [
        "reflect_every=5 optim.lr=1e-3",
        "reflect_every=5 optim.lr=2e-3",
        "reflect_every=never optim.lr=1e-3",
        "reflect_every=never optim.lr=2e-3",
    ]
    assert arms == make_arms("5,never", ["optim.lr=1e-3, 2e-3"])


def test_one_at_a_time_is_the_first_values_and_each_other_one_alone():
    arms = grid.make_arms(["tiny"], "5,10", ["optim.lr=1e-3,2e-3,4e-3", "seed=0,7"], named=False, one_at_a_time=True)
    assert [arm.overrides for arm in arms] == [
        tuple(f"{key}={value}" for key, value in zip(("method.reflect_every", "optim.lr", "seed"), values))
        for values in [(5, "1e-3", 0), (10, "1e-3", 0), (5, "2e-3", 0), (5, "4e-3", 0), (5, "1e-3", 7)]
    ]
    with pytest.raises(UserError, match="one key is varied"):
        grid.make_arms(["tiny"], "5,10", named=False, one_at_a_time=True)


def test_recipes_are_arms_named_by_their_file(tmp_path):
    mine = tmp_path / "a.b.yaml"
    mine.write_text("extends: tiny\nname: Called otherwise\nmethod: {name: grpo}\n")
    arms = make_arms(recipes=["tiny", str(mine)], sets=["optim.lr=0.5"])
    assert names(arms) == ["tiny", "a.b"]
    assert [arm.recipe.method.name for arm in arms] == ["scrpo", "grpo"]
    assert {arm.recipe.optim.lr for arm in arms} == {0.5}


def test_recipes_times_what_is_varied():
    assert names(make_arms(None, ["optim.lr=1e-3,2e-3"], recipes=["tiny", "tiny-grpo"])) == [
        "tiny optim.lr=1e-3",
        "tiny optim.lr=2e-3",
        "tiny-grpo optim.lr=1e-3",
        "tiny-grpo optim.lr=2e-3",
    ]


def test_recipes_are_split_at_commas():
    assert split_recipes(["compare/grpo,compare/dapo", " tiny ,"]) == ["compare/grpo", "compare/dapo", "tiny"]


def test_lists_are_one_value():
    arms = make_arms(None, ["method.filter.band=[0.1, 0.9],[0.2, 0.8]"])
    assert [arm.overrides for arm in arms] == [
        ("method.filter.band=[0.1, 0.9]",),
        ("method.filter.band=[0.2, 0.8]",),
    ]


def test_seeds_come_first_so_that_an_early_stop_leaves_pairs():
    cells = make_cells(make_arms("5,never"), [0, 1])
    assert [cell.name for cell in cells] == [
        "reflect_every=5 seed=0",
        "reflect_every=never seed=0",
        "reflect_every=5 seed=1",
        "reflect_every=never seed=1",
    ]


@pytest.mark.parametrize(
    ("reflect_every", "vary", "what"),
    [
        (None, [], "Nothing is varied"),
        ("5,,10", [], "takes values"),
        ("5,5", [], "given twice"),
        (None, ["optim.lr"], "takes values"),
        (None, ["=1,2"], "takes values"),
        ("5", ["method.reflect_every=10"], "varied twice"),
    ],
)
def test_bad_grids(reflect_every, vary, what):
    with pytest.raises(UserError, match=what):
        make_arms(reflect_every, vary)


def test_methods_are_arms_too():
    arms = make_arms(None, ["method.name=grpo,scrpo"])
    check_arms(arms)
    assert [arm.recipe.method.name for arm in arms] == ["grpo", "scrpo"]


@pytest.mark.parametrize(
    ("sets", "vary", "what"),
    [
        (["optim.max_generated_tokens=null"], "optim.lr=1e-3,2e-3", "no budget"),
        ([], "optim.max_generated_tokens=1000,2000", "differ in optim.max_generated_tokens: 1000 and 2000"),
        ([], "optim.max_generated_tokens=1000,null", "no budget"),
        ([], "task.grader=null,my:own", "differ in task.grader: None and my:own"),
        ([], "task.grading.deadline=1,2", "differ in task.grading.deadline: 1.0 and 2.0"),
        (["task.test=null", "task.validation=null"], "optim.lr=1e-3,2e-3", "evaluates nothing"),
        ([], "optim.lrr=1,2", "lrr"),
        ([], "optim.lr=fast,2", "lr"),
        ([], "eval.samples=1,2", "differ in eval.samples: 1 and 2"),
        ([], "task.test.limit=10,20", "differ in task.test.limit: 10 and 20"),
        ([], "rollout.max_tokens=10,20", "differ in eval.max_tokens: 10 and 20"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(sets, vary, what):
    with pytest.raises(UserError, match=what) as error:
        check_arms(make_arms(None, [vary], sets))
    assert error.value.fix


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("model: {lora: {r: 2}}", "Arms 'tiny' and 'other' differ in model.lora.r: 8 and 2"),
        ("eval: {turns: 2}", "differ in eval.turns: 1 and 2"),
        ("eval: {samples: 9}", "differ in eval.samples: 4 and 9"),
        ("eval: {temperature: 0.5}", "differ in eval.temperature: 1.0 and 0.5"),
        ("eval: {top_p: 0.5}", "differ in eval.top_p: 1.0 and 0.5"),
        ("eval: {benchmarks: [gsm8k]}", "differ in eval.benchmarks"),
        ("eval: {limit: 3}", "differ in eval.limit: 100 and 3"),
        ("task: {system: Be brief}", "differ in task.system"),
        ("task: {reflect_prompt: Look again}", "differ in task.reflect_prompt"),  # repairs are asked for
        ("task: {reflection: {show: tail}}", "differ in task.reflection.show"),
        ("task: {test: {source: tiny, split: validation}}", "differ in task.test"),
        ("optim: {max_generated_tokens: 5}", "differ in optim.max_generated_tokens: 300000 and 5"),
    ],
)
def test_recipes_that_cannot_be_compared_name_the_arms_and_the_key(tmp_path, lines, what):
    other = tmp_path / "other.yaml"
    other.write_text(f"extends: tiny\n{lines}\n")
    with pytest.raises(UserError, match=what):
        check_arms(make_arms(recipes=["tiny", str(other)]))


@pytest.mark.parametrize(
    ("eval", "own", "key"),
    [
        ("turns: 2", "check_prompt", "check_prompt"),
        ("turns: 2, second_turn: retry", "retry_prompt", "retry_prompt"),
        ("turns: 3, second_turn: self_refine", "refine_prompt", "refine_prompt"),
        ("turns: 2, second_turn: reflect", "reflect_prompt", "reflect_prompt"),
        ("turns: 2, gate: {signal: verdict}", "verdict_prompt", "verdict_prompt"),
        ("turns: 2", "retry_prompt", None),
        ("turns: 1", "check_prompt", None),
        ("turns: 1, repair: false", "reflect_prompt", None),
        ("turns: 1, repair: true", "reflect_prompt", "reflect_prompt"),
    ],
)
def test_arms_share_the_prompts_that_an_evaluation_asks(tmp_path, eval, own, key):
    for name, more in (("a", ""), ("b", f"task: {{{own}: Look again}}\n")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: tiny\neval: {{{eval}}}\n{more}")
    arms = make_arms(recipes=[str(tmp_path / f"{name}.yaml") for name in "ab"])
    if key is None:
        return check_arms(arms)
    with pytest.raises(UserError, match=f"differ in task.{key}"):
        check_arms(arms)


def test_a_sweep_over_difficulty_has_no_common_problems():
    with pytest.raises(UserError, match=re.escape("differ in task.think.lines: 3 and 4")):
        check_arms(make_arms(vary=["task.think.lines=3,4"], recipes=["think"]))


def test_what_belongs_to_the_method_may_differ(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("extends: tiny\nmethod: {name: grpo}\noptim: {lr: 0.5}\neval: {every: 3}\nseed: 4\n")
    check_arms(make_arms(recipes=["tiny", str(other)]))


def test_a_key_of_the_model_may_be_varied_on_purpose():
    check_arms(make_arms(None, ["model.lora.r=2,4"]))
    check_arms(make_arms(None, ["model.lora={r: 2},{r: 4}"]))


@pytest.mark.parametrize("again", ["tiny", "folder/tiny.yaml"])
def test_arms_of_one_name_are_refused(tmp_path, monkeypatch, again):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/tiny.yaml").write_text("extends: tiny")
    with pytest.raises(UserError, match="Two arms are called 'tiny'"):
        check_arms(make_arms(recipes=["tiny", again]))


def test_the_tiny_recipe_can_be_ablated():
    assert load_recipe("tiny").optim.max_generated_tokens
