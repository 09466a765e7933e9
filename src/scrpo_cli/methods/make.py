"""From a recipe's method section to the method."""

from __future__ import annotations

from scrpo_cli.methods.base import Library, Method, Prompts
from scrpo_cli.methods.grpo import Grpo
from scrpo_cli.methods.scrpo import Scrpo
from scrpo_cli.recipe.methods import OnPolicyConfig, ScrpoConfig
from scrpo_cli.recipe.models import Recipe


def make_method(recipe: Recipe, prompts: Prompts, library: Library) -> Method:
    """The recipe's method over `prompts`; `library` is for those that fit recorded attempts."""
    cfg, group_size = recipe.method, recipe.rollout.group_size
    if isinstance(cfg, OnPolicyConfig):
        return Grpo(cfg, prompts, group_size, recipe.rollout.max_tokens)
    if isinstance(cfg, ScrpoConfig):
        return Scrpo(cfg, prompts, group_size, recipe.optim.prompts_per_step, recipe.seed)
    raise NotImplementedError(cfg.name)
