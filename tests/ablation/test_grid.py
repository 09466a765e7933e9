import pytest

from scrpo_cli.ablation.grid import Arm, check_arms, make_arms, make_cells
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe


def names(arms):
    return [arm.name for arm in arms]


def test_reflect_every():
    assert make_arms("5,10,never", []) == [
        Arm("reflect_every=5", ("method.reflect_every=5",)),
        Arm("reflect_every=10", ("method.reflect_every=10",)),
        Arm("reflect_every=never", ("method.reflect_every=never",)),
    ]


def test_a_grid_is_the_product_in_the_order_given():
    arms = make_arms("5,never", ["optim.lr=1e-3, 2e-3"])
    assert names(arms) == [
        "reflect_every=5 optim.lr=1e-3",
        "reflect_every=5 optim.lr=2e-3",
        "reflect_every=never optim.lr=1e-3",
        "reflect_every=never optim.lr=2e-3",
    ]
    assert arms == make_arms("5,never", ["optim.lr=1e-3, 2e-3"])


def test_lists_are_one_value():
    arms = make_arms(None, ["method.filter.band=[0.1, 0.9],[0.2, 0.8]"])
    assert [arm.overrides for arm in arms] == [
        ("method.filter.band=[0.1, 0.9]",),
        ("method.filter.band=[0.2, 0.8]",),
    ]


def test_seeds_come_first_so_that_an_early_stop_leaves_pairs():
    cells = make_cells(make_arms("5,never", []), [0, 1])
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


def test_every_arm_is_a_recipe_with_its_override():
    recipes = check_arms("tiny", ["optim.max_generated_tokens=1000"], make_arms("5,never", []))
    assert [recipe.method.reflect_every for recipe in recipes] == [5, "never"]
    assert {recipe.optim.max_generated_tokens for recipe in recipes} == {1000}


def test_methods_are_arms_too():
    recipes = check_arms("tiny", [], make_arms(None, ["method.name=grpo,scrpo"]))
    assert [recipe.method.name for recipe in recipes] == ["grpo", "scrpo"]


@pytest.mark.parametrize(
    ("sets", "vary", "what"),
    [
        (["optim.max_generated_tokens=null"], "optim.lr=1e-3,2e-3", "no budget"),
        ([], "optim.max_generated_tokens=1000,2000", "different token budgets"),
        ([], "optim.max_generated_tokens=1000,null", "no budget"),
        (["task.test=null", "task.validation=null"], "optim.lr=1e-3,2e-3", "evaluates nothing"),
        ([], "optim.lrr=1,2", "lrr"),
        ([], "optim.lr=fast,2", "lr"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(sets, vary, what):
    with pytest.raises(UserError, match=what) as error:
        check_arms("tiny", sets, make_arms(None, [vary]))
    assert error.value.fix


def test_the_tiny_recipe_can_be_ablated():
    assert load_recipe("tiny").optim.max_generated_tokens
