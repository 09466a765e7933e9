"""The ways to sandbox a program, for tests that try each one."""

from __future__ import annotations

import os

import pytest

from scrpo_cli.tasks.code.execute import fault
from scrpo_cli.tasks.code.isolation import Isolation, Level, pythons

WALLS = ["unshare", "landlock", *(pytest.param(how, marks=pytest.mark.slow) for how in ("bubblewrap", "user"))]
LEVELS: dict[str, Level] = {
    "unshare": "namespaces",
    "bubblewrap": "namespaces",
    "landlock": "process",
    "user": "process",
}


def walls_by(how: str) -> Isolation:
    """Skips the test where they cannot be had."""
    root = os.geteuid() == 0
    if (how == "user") != root and how in ("user", "bubblewrap"):
        pytest.skip(f"{how} is not used by {'root' if root else 'users'}")
    candidates = [Isolation(LEVELS[how], how, python) for python in pythons()]
    working = next((candidate for candidate in candidates if not fault(candidate)), None)
    if working is None:
        pytest.skip(f"{how} cannot be had here: {fault(candidates[0])}")
    return working
