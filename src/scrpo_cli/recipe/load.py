"""From a recipe's name or file to a validated `Recipe`.

    extends: scrpo-base        # a shipped name, or a file relative to this one
    optim: {lr: 2e-6}          # sections merge key by key; lists and values replace

`--set a.b=c` is merged last, with c read as YAML. `name` and `description` belong to one file and are not inherited:
without a `name`, a recipe is called like its file. See `document.merge` for what happens to `method`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from pydantic import TypeAdapter, ValidationError

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.methods.registry import NAMES, method_class
from scrpo_cli.recipe.document import DEEPEST, Document, merge, parse_value, read_document
from scrpo_cli.recipe.mistakes import explain
from scrpo_cli.recipe.models import DEFAULT_METHOD, Recipe
from scrpo_cli.recipe.references import resolve_references

SUFFIXES = (".yaml", ".yml")
STUDIES = "studies/"
"""The folder of shipped files that are no recipes but questions (`ablation.study`)."""

# What stored recipes of earlier versions hold. A key that is renamed or dropped gets its line here.
MOVED = {"method.prompt": "task.reflection", "method.segments": "task.reflection"}
"""Key or section -> where it stands now."""
RENAMED = {
    "eval.gate.signal": {"surprisal": "mean_logprob"},
    "method.gate.signal": {"surprisal": "mean_logprob"},
    "method.injection.kind": {"foreign": "other_model"},
}
"""Key -> what its values are called now."""
DROPPED: dict[str, tuple[Any, ...]] = {
    "rollout.top_p": (1.0,),
    "model.lora.dropout": (0.0,),
}
"""Key that is gone -> the values that mean what now always holds. With another value a run cannot go on as it was."""


def load_recipe(ref: str | Path, sets: Sequence[str] = ()) -> Recipe:
    """The recipe `ref` (a shipped name or a file) under the overrides `sets` ("optim.lr=2e-6").

    UserError lists every mistake with its file and line, or its option, and the nearest legal key.
    """
    path = find_recipe(ref)
    document = merge(_resolve(path, ()), _overrides(sets))
    resolve_references(document)
    try:
        return Recipe.model_validate(document.data)
    except ValidationError as error:
        raise explain(error, document, str(path)) from None


def recipe_json(recipe: Recipe) -> str:
    """The resolved recipe as JSON, which keeps nulls; `stored_recipe` reads it back."""
    return recipe.model_dump_json()


def stored_recipe(text: str, where: str, sets: Sequence[str] = ()) -> Recipe:
    """The resolved recipe that a run or sweep was started with, under the overrides `sets`. `where` says whose it is.

    What an earlier version wrote is read as well; UserError for what this one cannot do any more.
    """
    try:
        if not isinstance(data := json.loads(text), dict):
            raise ValueError("it is no object")
        document = Document(_renewed(data), {(): where})
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        what, fix = explain(error, document, where).what, "Go on with the version that wrote it, or start a new run."
        raise UserError(f"Another version of scrpo wrote this recipe. {what}", where, fix) from None
    except ValueError as error:
        raise UserError(f"The stored recipe cannot be read: {error}", where, "Start a new run.") from None
    if not sets:
        return recipe
    overrides = _overrides(sets)
    resolve_references(overrides)
    document = merge(document, overrides)
    try:
        return Recipe.model_validate(document.data)
    except ValidationError as error:
        raise explain(error, document, where) from None


def _renewed(data: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe in the keys and values of this version."""
    for old, new in MOVED.items():
        section, key = _section(data, old)
        if key in section:
            value = section.pop(key)
            section, key = _section(data, new, make=True)
            there = section.get(key)
            section[key] = there | value if isinstance(value, dict) and isinstance(there, dict) else value
    for old, values in RENAMED.items():
        section, key = _section(data, old)
        if isinstance(value := section.get(key), str) and value in values:
            section[key] = values[value]
    for old, neutral in DROPPED.items():
        section, key = _section(data, old)
        if section.get(key) in neutral:
            section.pop(key, None)
    method, _ = _section(data, "method.trigger")
    trigger, _ = _section(data, "method.trigger.mode")
    every = {"every_n_steps": trigger.pop("n", 10), "never": "never"}.get(str(trigger.get("mode")))
    if every is not None:  # `reflect_every` says it now, and said it before where it was given
        method["reflect_every"] = method.get("reflect_every") or every
        del trigger["mode"]
    if trigger.get("mode") == "ratio" and isinstance(method.get("reflect_every"), int):
        del trigger["mode"]  # it was not asked, and such recipes are refused now
    return data


def _section(data: dict[str, Any], key: str, make: bool = False) -> tuple[dict[str, Any], str]:
    """The section that holds a dotted key, and the key's last part. Where there is no section: an empty one, put in its
    place if `make` says so.
    """
    *sections, last = key.split(".")
    for name in sections:
        found = data.setdefault(name, {}) if make else data.get(name)
        data = found if isinstance(found, dict) else {}
    return data, last


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file: a recipe with any of our methods, and `extends`."""
    schema = Recipe.model_json_schema()
    configs = {name: method_class(name).Config for name in NAMES}
    union: Any = Union[tuple(configs.values())]  # noqa: UP007 the members are known at run time only
    methods = TypeAdapter(union).json_schema(ref_template="#/$defs/{model}")
    for name, config in configs.items():
        methods["$defs"][config.__name__]["properties"]["name"] = {"const": name}
    own = {"type": "object", "properties": {"name": {"pattern": ":", "type": "string"}}, "required": ["name"]}
    schema["$defs"] |= methods["$defs"]
    schema["properties"]["method"] = {"anyOf": [*methods["anyOf"], own], "description": "One of ours, or your own."}
    about = "A shipped recipe, or a file relative to this one, that this recipe changes."
    schema["properties"] = {"extends": {"type": "string", "description": about}} | schema["properties"]
    return schema


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name; one in a folder is called `folder/name`."""
    return {name: path for name, path in _shipped().items() if not name.startswith(STUDIES)}


def shipped_studies() -> dict[str, Path]:
    """The studies, by name, which is `studies/name`."""
    return {name: path for name, path in _shipped().items() if name.startswith(STUDIES)}


def _shipped() -> dict[str, Path]:
    root = _shipped_directory()
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.yaml")}
    return {name: names[name] for name in sorted(names, key=lambda name: (name.count("/"), name))}


def _shipped_directory() -> Path:
    """Inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def find_recipe(ref: str | Path, folder: Path | None = None) -> Path:
    """The file behind a shipped name or a path (relative to `folder`); UserError when there is none."""
    path = (folder or Path()) / os.path.expanduser(ref)  # which leaves `~nobody` as it is
    shipped = shipped_recipes()
    if str(ref) in shipped:
        return shipped[str(ref)]
    if os.path.exists(path) and (path.suffix in SUFFIXES or not os.path.isdir(path)):  # false for an impossible path
        return path
    if path.suffix in SUFFIXES:
        raise UserError("No such recipe file", str(path), f"These need no file: {', '.join(shipped)}.")
    same = next((name for name in shipped if name.endswith(f"/{ref}")), str(ref))
    fix = f"{nearest(same, shipped)} Shipped: {', '.join(shipped)}; or name a .yaml file."
    raise UserError("No such recipe", str(ref) or "an empty name", fix.strip())


def _resolve(path: Path, below: tuple[Path, ...]) -> Document:
    """The document at `path` merged over what it extends; `below` are the files that extend it."""
    document = read_document(path)
    parent, where = document.data.pop("extends", None), document.origin(("extends",))
    document.data = {"name": path.stem, "description": ""} | document.data
    if parent is None:
        return merge(Document({"method": {"name": DEFAULT_METHOD}}), document)
    if not isinstance(parent, str):
        raise UserError("`extends` takes one name or path", where, "Write `extends: scrpo-base`.")
    try:
        parent_path = find_recipe(parent, path.parent)
    except UserError as error:
        raise UserError(f"{error.what}: {error.where}", where, error.fix) from None
    chain = (*below, path)
    if parent_path.resolve() in [p.resolve() for p in chain]:
        circle = " -> ".join([*(p.name for p in chain), parent_path.name])
        raise UserError(f"Recipes extend each other in a circle: {circle}", where, "Remove one `extends`.")
    return merge(_resolve(parent_path, chain), document)


def _overrides(sets: Sequence[str]) -> Document:
    """All `--set` options as one document, so that their order matters only where two set the same key."""
    document = Document({})
    for text in sets:
        where = f"--set {text}"
        key, equals, value = text.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path) or not key.isprintable():
            raise UserError("`--set` takes KEY=VALUE", where, "For example `--set optim.lr=2e-6`.")
        if len(path) > DEEPEST:
            raise UserError("There is no key of so many parts", where, "`scrpo recipe schema` lists every key.")
        section: dict[str, Any] = document.data
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise UserError(f"'{part}' was set to a value before", where, "Set a section's keys or all of it.")
        section[path[-1]] = parse_value(value, where)
        document.origins |= {path[:depth]: where for depth in range(1, len(path) + 1)}
    return document
