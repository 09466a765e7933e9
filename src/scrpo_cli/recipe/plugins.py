"""A recipe's references to the user's own code: `task.name` and `task.grader`.

    name                  an entry point of an installed package (groups `scrpo.tasks` and `scrpo.graders`)
    package.module:thing  imported as Python would; the working directory is searched last
    module:thing          with `module.py` beside the recipe or in the working directory: that file
    file.py:thing         that file, relative to the recipe

Nothing is imported here: a recipe can be read, shown and checked without running anybody's code. Files are made
absolute, so that a run can be resumed from anywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.document import Document

BUILT_IN = ("tiny", "math", "code")
GROUPS = {"name": "scrpo.tasks", "grader": "scrpo.graders"}
"""Key of the section `task` -> the group of entry points that its names come from."""
FORMS = "Write module:name, file.py:name, or the name of an installed entry point"


def settle(document: Document) -> None:
    """Make the references of a recipe document absolute; UserError, with the line, for one that leads nowhere."""
    task = document.data.get("task")
    for key in GROUPS:
        if isinstance(task, Mapping) and isinstance(reference := task.get(key), str):
            origin = document.origin(("task", key))
            document.data["task"] = task = {**task, key: located(reference, key, origin)}


def located(reference: str, key: str, origin: str) -> str:
    """The reference with its file, if it names one, made absolute. `origin` is where it is written: `file:line`."""
    module, colon, attribute = reference.rpartition(":")
    if not colon:
        return known(reference, key, origin)
    if not (module and attribute.isidentifier()):
        raise UserError(f"task.{key}: {reference!r} is no reference", origin, f"{FORMS}.")
    name = module if module.endswith(".py") else f"{module}.py"
    found = [path for path in (_folder(origin) / name, Path(name)) if path.is_file()]
    if found and (name == module or "." not in module):
        return f"{found[0].resolve()}:{attribute}"
    if name == module:
        raise UserError(f"task.{key}: the file {module} does not exist", origin, _nearby(_folder(origin), module))
    return reference


def known(name: str, key: str, origin: str) -> str:
    """A name that needs no module: a built-in task or an entry point."""
    if key == "name" and name in BUILT_IN:
        return name
    from importlib.metadata import entry_points  # only where it is needed

    names = [*(BUILT_IN if key == "name" else ()), *entry_points(group=GROUPS[key]).names]
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else f"Known: {', '.join(names)}. " if names else ""
    raise UserError(f"task.{key}: there is no {name!r}", origin, f"{hint}{FORMS}.")


def _folder(origin: str) -> Path:
    """Of the recipe file in `file:line`; the working directory for an option."""
    file = Path(origin.rpartition(":")[0])
    return file.parent if file.is_file() else Path()


def _nearby(folder: Path, module: str) -> str:
    files = sorted(path.name for path in folder.glob("*.py"))
    near = difflib.get_close_matches(Path(module).name, files, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"It is looked for in {folder.resolve()}."


def is_plugin(reference: str | None, key: str = "name") -> bool:
    """Whether it names code that is not ours."""
    return reference is not None and not (key == "name" and reference in BUILT_IN)
