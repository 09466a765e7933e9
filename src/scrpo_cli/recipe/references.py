"""What a recipe names outside of itself: the user's own code, and directories and files.

The code of `method.name`, `task.name` and `task.grader`:

    name                  an entry point of an installed package (plugins.GROUPS)
    package.module:thing  imported as Python would; the working directory is searched last
    module:thing          with `module.py` beside the recipe or in the working directory: that file
    file.py:thing         that file, relative to the recipe

Nothing is imported here. Files are made absolute, so that a run can be resumed from anywhere.

A model, an adapter and the problems' files are looked for beside the recipe and then in the working directory (for an
option there alone), and made absolute as well: a directory's name is never taken for one on the hub elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError, nearest, shown
from scrpo_cli.methods.registry import NAMES as METHODS
from scrpo_cli.plugins import GROUPS
from scrpo_cli.recipe.document import Document

BUILT_IN = {"method.name": METHODS, "task.name": ("tiny", "think", "math", "code"), "task.grader": ()}
FORMS = "Write module:name, file.py:name, or the name of an installed entry point"
MODELS = ("model.name", "model.adapter")
DATA = tuple(f"task.{part}.source" for part in ("train", "validation", "test", "shots"))
EMBEDDED = ("tiny", "think")
DATA_FILES = (".jsonl", ".jsonl.gz")
HUB = "hub:"
ADAPTER_CONFIG = "adapter_config.json"
"""What every directory that peft has saved holds."""


def resolve_references(document: Document) -> None:
    """Make the references of a recipe document absolute; UserError, with the line, for code that leads nowhere."""
    for key in GROUPS:
        section, name = key.split(".")
        found = document.data.get(section)
        if isinstance(found, Mapping) and isinstance(reference := found.get(name), str):
            origin = document.origin((section, name))
            document.data[section] = {**found, name: located(reference, key, origin)}

    for key in (*MODELS, *DATA):
        *sections, name = key.split(".")
        _make_absolute(document, tuple(sections), name)


def _make_absolute(document: Document, path: tuple[str, ...], name: str) -> None:
    """The name of a model or of data at a key of the document, if it leads to a directory or file, as its path. A data
    set is a bare name as well, which SCRPO_DATA_DIR has to be asked for: only after `hub:` it may be a directory's.
    """
    section: Any = document.data
    for part in path:
        section = section.get(part) if isinstance(section, Mapping) else None
    if not isinstance(section, dict) or not isinstance(value := section.get(name), str):
        return
    prefix = HUB if value.startswith(HUB) else ""
    rest = value.removeprefix(prefix)
    if prefix or path == ("model",) or rest.endswith(DATA_FILES) or is_path(rest):
        section[name] = prefix + absolute(rest, document.origin((*path, name)))


def is_path(name: str) -> bool:
    """Whether it is spelled as a path, which is no name of anything else."""
    return name.startswith((".", "/", "~"))


def absolute(name: str, origin: str) -> str:
    """Where `name`, written at `origin`, leads beside the recipe or else in the working directory; the name itself
    where it leads nowhere and is not spelled as a path.
    """
    if name in ("", *EMBEDDED):
        return name
    places = _places(name, origin)
    is_there = os.path.isfile if name.endswith(DATA_FILES) else os.path.isdir  # not Path's: they raise for a long text
    found = next(filter(is_there, places), places[0] if is_path(name) else None)
    return name if found is None else str(found.resolve())


def _places(name: str, origin: str) -> list[Path]:
    """Where a file or directory that is named at `origin` may be: beside the recipe, in the working directory."""
    path = os.path.expanduser(name)  # which leaves `~nobody` as it is
    return [folder / path for folder in (_folder(origin), Path())]


def check_model(name: str) -> None:
    """UserError where a model is spelled as a path that leads nowhere."""
    if is_path(name) and not os.path.isdir(name):
        raise UserError("The model directory does not exist.", f"model.name: {name}", "Check the path.")


def check_adapter(directory: str) -> None:
    """UserError where there is no adapter; of a run's directory, its newest checkpoint is named."""
    if not os.path.isdir(directory):
        what, where = "There is no such adapter directory.", f"model.adapter: {shown(directory)}"
        raise UserError(what, where, "Check the path; `scrpo eval --run RUN` finds a run's itself.")
    folder = Path(directory)
    if not (folder / ADAPTER_CONFIG).is_file():
        found = sorted([*folder.glob(f"step-*/{ADAPTER_CONFIG}"), *folder.glob(f"checkpoints/step-*/{ADAPTER_CONFIG}")])
        fix = "Name a directory that peft has saved; `scrpo eval --run RUN` finds a run's itself."
        fix = f"Name a checkpoint: {found[-1].parent}" if found else fix
        raise UserError(f"Not an adapter directory: {ADAPTER_CONFIG} is missing.", directory, fix)


def located(reference: str, key: str, origin: str) -> str:
    """The reference with its file, if it names one, made absolute. `origin` is where it is written: `file:line`."""
    module, colon, attribute = reference.rpartition(":")
    if not colon:
        return known(reference, key, origin)
    if not (module and attribute.isidentifier()):
        raise UserError(f"{key}: {shown(reference)} is no reference", origin, f"{FORMS}.")
    name = module if module.endswith(".py") else f"{module}.py"
    found = [path for path in _places(name, origin) if os.path.isfile(path)]
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
    return file.parent if os.path.isfile(file) else Path()


def _nearby(folder: Path, module: str) -> str:
    files = sorted(path.name for path in folder.glob("*.py"))
    return nearest(Path(module).name, files) or f"It is looked for in {folder.resolve()}."


def is_plugin(reference: str | None, key: str = "task.name") -> bool:
    """Whether it names code that is not ours."""
    return reference is not None and reference not in BUILT_IN[key]
