"""The user's own code that a recipe names: a method, a task, a grader. It is found by its reference and imported.

    name                  an entry point of an installed package, in the group of its key
    package.module:thing  imported as Python would; the working directory is searched last
    file.py:thing         that file

It runs the user's code with the user's rights: nothing here is a sandbox.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from scrpo_cli.errors import UserError, nearest

GROUPS = {"method.name": "scrpo.methods", "task.name": "scrpo.tasks", "task.grader": "scrpo.graders"}
"""Key of a recipe -> the group of entry points that its names come from."""
FAILURES = (Exception, SystemExit)
"""What a plug-in may raise without ending the run; Ctrl-C still does."""


@dataclass(frozen=True)
class Plugin:
    """What a reference led to. `label` names it with its version, so that verdicts tell a changed grader."""

    target: Any
    label: str
    where: str


def load_plugin(reference: str, key: str) -> Plugin:
    """The object behind a reference at `key` (`task.name`); UserError where it cannot be found or imported."""
    where = f"{key}: {reference}"
    module_name, colon, attribute = reference.rpartition(":")
    if not colon:
        point = entry_point(reference, key, where)
        module_name, attribute = point.module, point.attr
    module = imported(module_name, where)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            names = [name for name in dir(target) if not name.startswith("_")]
            fix = nearest(part, names) or "Check the name after the colon."
            raise UserError(f"{module_name} has no {part!r}", where, fix)
        target = getattr(target, part)
    name = Path(module_name).name if module_name.endswith(".py") else module_name
    short = f"{name}:{attribute}" if colon else reference
    return Plugin(target, f"{short} {stamp(module)}", where)


def entry_point(name: str, key: str, where: str) -> EntryPoint:
    found = list(entry_points(group=GROUPS[key], name=name))
    if not found:
        fix = f"Install the package that brings it (entry points {GROUPS[key]}), or write module:name."
        raise UserError(f"no installed package offers {name!r}", where, fix)
    if len({point.value for point in found}) > 1:
        both = ", ".join(f"{point.value} ({point.dist.name if point.dist else '?'})" for point in found)
        raise UserError(f"several packages offer {name!r}", where, f"Write module:name, one of {both}.")
    return found[0]


def imported(name: str, where: str) -> ModuleType:
    """A module by its dotted name or its file. The working directory, or the file's, comes last on `sys.path`, as it
    may not hide what is installed.
    """
    file = Path(name) if name.endswith(".py") else None
    folder = str((file.parent if file else Path()).resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the answer
            return executed(file) if file else importlib.import_module(name)
    except FAILURES as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            fix = f"Install it, write the path of a file, or run scrpo in its folder (looked in {folder} last)."
            raise UserError(f"there is no module {error.name!r}", where, fix) from None
        raise UserError(f"the plug-in cannot be imported: {said(error)}", f"{where} ({line_of(error)})") from None


def executed(file: Path) -> ModuleType:
    name = f"scrpo_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise UserError(f"there is no file {file}", "", "Put it back, or change the recipe.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    # what was compiled before would be taken for a file of the same length that was changed within a second
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module


def stamp(module: ModuleType) -> str:
    """`dist=1.2 sha256=0123456789ab`: the version of the package that brought the module, if one did, and the hash of
    its source file.
    """
    brought = packages_distributions().get(module.__name__.split(".")[0], [])
    versions = [f"{name}={version(name)}" for name in dict.fromkeys(brought)]
    file = getattr(module, "__file__", None)
    digest = [f"sha256={hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}"] if file else []
    return " ".join([*versions, *digest])


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:500]


def line_of(error: BaseException) -> str:
    """`file:line` where it was raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
