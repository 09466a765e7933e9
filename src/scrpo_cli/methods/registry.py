"""Which methods there are: every file of this folder but base.py and this one, and the user's own (`file.py:Thing`)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import Method, MethodConfig, MethodContext
from scrpo_cli.plugins import load_plugin

NAMES = tuple(
    m.name for m in iter_modules([str(Path(__file__).parent)]) if not m.ispkg and m.name not in ("base", "registry")
)


@cache
def method_class(name: str) -> type[Method]:
    """The method `grpo`, or the one that a reference such as `file.py:Thing` leads to.

    Raises UserError where a reference leads to something else than a method with its configuration.
    """
    if name in NAMES:
        module = import_module(f"{__package__}.{name}")
        own = [
            thing for thing in vars(module).values() if isinstance(thing, type) and thing.__module__ == module.__name__
        ]
        (found,) = [thing for thing in own if issubclass(thing, Method)]
        return found
    plugin = load_plugin(name, "method.name")
    if not (isinstance(plugin.target, type) and issubclass(plugin.target, Method)):
        fix = "Name a subclass of scrpo_cli.methods.base.Method."
        raise UserError(f"{name} is no method", plugin.where, fix)
    config = getattr(plugin.target, "Config", None)
    if not (isinstance(config, type) and issubclass(config, MethodConfig)):
        fix = "Give it `Config = ...`, a subclass of scrpo_cli.methods.base.MethodConfig."
        raise UserError("The method does not say what its section of a recipe holds", plugin.where, fix)
    return plugin.target


def make_method(cfg: MethodConfig, context: MethodContext) -> Method:
    return method_class(cfg.name)(cfg, context)
