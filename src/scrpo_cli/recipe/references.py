"""A recipe's references to the user's own code: `method.name`, `task.name` and `task.grader`.

    name                  an entry point of an installed package (plugins.GROUPS)
    package.module:thing  imported as Python would; the working directory is searched last
    module:thing          with `module.py` beside the recipe or in the working directory: that file
    file.py:thing         that file, relative to the recipe

Nothing is imported here. Files are made absolute, so that a run can be resumed from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from scrpo_cli.errors import UserError, nearest, shown
from scrpo_cli.methods.registry import NAMES as METHODS
from scrpo_cli.plugins import GROUPS
from scrpo_cli.recipe.document import Document

BUILT_IN = {"method.name": METHODS, "task.name": ("tiny", "math", "code"), "task.grader": ()}
FORMS = "Write module:name, file.py:name, or the name of an installed entry point"


def resolve_references(document: Document) -> None:
    """Make the references of a recipe document absolute; UserError, with the line, for one that leads nowhere."""
    for key in GROUPS:
        section, name = key.split(".")
        found = document.data.get(section)
        if isinstance(found, Mapping) and isinstance(reference := found.get(name), str):
            origin = document.origin((section, name))
            document.data[section] = {**found, name: located(reference, key, origin)}


def located(reference: str, key: str, origin: str) -> str:
    """The reference with its file, if it names one, made absolute. `origin` is where it is written: `file:line`."""
    module, colon, attribute = reference.rpartition(":")
    if not colon:
        return known(reference, key, origin)
    if not (module and attribute.isidentifier()):
        raise UserError(f"{key}: {shown(reference)} is no reference", origin, f"{FORMS}.")
    name = module if module.endswith(".py") else f"{module}.py"
    found = [path for path in (_folder(origin) / name, Path(name)) if os.path.isfile(path)]
    if found and (name == module or "." not in module):
        return f"{found[0].resolve()}:{attribute}"
    if name == module:
        raise UserError(f"{key}: the file {shown(module)} does not exist", origin, _nearby(_folder(origin), module))
    return reference


def known(name: str, key: str, origin: str) -> str:
    """A name that needs no module: a built-in task or an entry point."""
    if name in BUILT_IN[key]:
        return name
    from importlib.metadata import entry_points  # only where it is needed

    names = [*BUILT_IN[key], *entry_points(group=GROUPS[key]).names]
    if name in names:
        return name
    hint = nearest(name, names) or (f"Known: {', '.join(names)}." if names else "")
    raise UserError(f"{key}: there is no {shown(name)}", origin, f"{hint} {FORMS}.".strip())


def _folder(origin: str) -> Path:
    """Of the recipe file in `file:line`; the working directory for an option."""
    file = Path(origin.rpartition(":")[0])
    return file.parent if os.path.isfile(file) else Path()  # not Path.is_file: it raises for a long text


def _nearby(folder: Path, module: str) -> str:
    files = sorted(path.name for path in folder.glob("*.py"))
    return nearest(Path(module).name, files) or f"It is looked for in {folder.resolve()}."


def is_plugin(reference: str | None, key: str = "task.name") -> bool:
    """Whether it names code that is not ours."""
    return reference is not None and reference not in BUILT_IN[key]
