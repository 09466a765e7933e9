"""From a recipe's method section to the method."""

from __future__ import annotations

from scrpo_cli.methods.base import Method, Prompts
from scrpo_cli.methods.grpo import Grpo
from scrpo_cli.methods.scrpo import Scrpo
from scrpo_cli.recipe.models import GrpoConfig, Recipe


def make_method(recipe: Recipe, prompts: Prompts) -> Method:
    """The recipe's method over `prompts`."""
    cfg = recipe.method
    if isinstance(cfg, GrpoConfig):
        return Grpo(cfg, prompts, recipe.rollout.group_size)
    return Scrpo(cfg, prompts, recipe.rollout.group_size, recipe.optim.prompts_per_step, recipe.seed)
