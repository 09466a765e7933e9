"""Which engine a recipe samples with, over a policy."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import RolloutConfig, VllmConfig
from scrpo_cli.rollout.adapters import Publisher, refuse_unusual
from scrpo_cli.rollout.base import Engine, Policy
from scrpo_cli.rollout.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    from scrpo_cli.rollout.vllm_engine import Vllm

WINDOW = "vllm>=0.31,<0.33"


def chosen_engine(cfg: RolloutConfig, device: str) -> str:
    """`cfg.engine`, with `auto` decided. UserError where what it names is not there."""
    installed = importlib.util.find_spec("vllm") is not None
    if cfg.engine == "auto":
        return "vllm" if installed and device == "cuda" else "transformers"
    if cfg.engine == "vllm" and not installed:
        raise UserError("vLLM is not installed.", "rollout.engine: vllm", f"pip install 'scrpo-cli[vllm]' ({WINDOW})")
    if cfg.engine == "vllm_server" and not cfg.vllm.urls:
        fix = "Name servers: --set 'rollout.vllm.urls=[http://localhost:8000]'."
        raise UserError("No server is named.", "rollout.engine: vllm_server", fix)
    return cfg.engine


def open_engine(
    cfg: RolloutConfig,
    policy: Policy,
    source: Mapping[str, Any],
    run: str = "scrpo",
    shared: Callable[[Any, Mapping[str, Any], VllmConfig], Vllm] | None = None,
) -> Engine:
    """`source`: the arguments by which the policy's base model was loaded. `run`: by which a server's users know whose
    an adapter is. `shared` gives the vLLM that several runs of this process have.
    """
    kind = chosen_engine(cfg, policy.model.device.type)
    if kind == "transformers":
        return TransformersEngine(policy, cfg.batch_size)
    refuse_unusual(policy)
    publisher = Publisher(policy, f"{run}-{secrets.token_hex(3)}", cfg.vllm.adapters)  # it may have been killed before
    if kind == "vllm_server":
        from scrpo_cli.rollout.vllm_server import VllmServers

        return VllmServers(policy, publisher, cfg.vllm)
    from scrpo_cli.rollout.vllm_engine import Vllm, VllmEngine

    vllm = (shared or Vllm)(policy.model, source, cfg.vllm)
    return VllmEngine(policy, publisher, vllm, shared is not None)
