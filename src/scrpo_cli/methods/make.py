"""From a recipe's method section to the method."""

from __future__ import annotations

from typing import Any

from scrpo_cli.methods.base import Library, Method, Prompts
from scrpo_cli.methods.dpo import Dpo
from scrpo_cli.methods.grpo import Grpo
from scrpo_cli.methods.injection import recorded_errors
from scrpo_cli.methods.rrr import Rrr
from scrpo_cli.methods.score import Budget, Score
from scrpo_cli.methods.scrpo import Scrpo
from scrpo_cli.methods.sft import PairSft, Sft, Star
from scrpo_cli.recipe.methods import OnPolicyConfig, RrrConfig, ScoreConfig, ScrpoConfig
from scrpo_cli.recipe.models import Recipe

OFFLINE: dict[str, Any] = {"sft": Sft, "star": Star, "pair_sft": PairSft, "dpo": Dpo}


def make_method(recipe: Recipe, prompts: Prompts, library: Library) -> Method:
    """The recipe's method over `prompts`; `library` is for those that learn from recorded attempts."""
    cfg, optim, group_size = recipe.method, recipe.optim, recipe.rollout.group_size
    if isinstance(cfg, OnPolicyConfig):
        return Grpo(cfg, prompts, group_size, recipe.rollout.max_tokens)
    if isinstance(cfg, ScrpoConfig):
        recorded = recorded_errors(cfg.injection, prompts, library)
        per_step, longest = optim.prompts_per_step, recipe.rollout.max_tokens
        return Scrpo(cfg, prompts, group_size, per_step, recipe.seed, longest, recorded)
    if isinstance(cfg, RrrConfig):
        return Rrr(cfg, prompts, group_size)
    if isinstance(cfg, ScoreConfig):
        budget = Budget(optim.steps, optim.max_generated_tokens)
        return Score(cfg, prompts, group_size, budget, recipe.seed, library)
    return OFFLINE[cfg.name](cfg, prompts, group_size, optim.max_generated_tokens, recipe.seed, library)
