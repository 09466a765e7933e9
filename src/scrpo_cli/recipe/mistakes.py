"""A recipe's validation errors in a reader's words: which key, written where, and what was probably meant."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from scrpo_cli.errors import UserError, nearest, shown
from scrpo_cli.methods.base import MethodConfig
from scrpo_cli.methods.registry import NAMES, method_class
from scrpo_cli.recipe.document import Document, KeyPath
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.section import Section

SHOWN = 10
"""Mistakes listed at most; a file with more has one cause."""


@dataclass(frozen=True)
class Mistake:
    what: str
    where: str
    fix: str = ""


def explain(error: ValidationError, document: Document, name: str) -> UserError:
    """All errors of a recipe as one UserError; `name` is the file or shipped recipe asked for."""
    by_path: dict[KeyPath, list[Any]] = {}
    for detail in error.errors(include_url=False):
        by_path.setdefault(_path(detail, document.data), []).append(detail)
    ordered = sorted(by_path, key=lambda path: _line(document.origin(path)))
    mistakes = [_mistake(path, by_path[path], document) for path in ordered[:SHOWN]]
    if len(ordered) == 1:
        return UserError(mistakes[0].what, mistakes[0].where, mistakes[0].fix or SCHEMA)
    lines = [f"\n  {m.where}: {m.what}{'. ' + m.fix if m.fix else ''}" for m in mistakes]
    rest = f"\n  and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return UserError(f"The recipe has {len(ordered)} mistakes:{''.join(lines)}{rest}", name, SCHEMA)


SCHEMA = "`scrpo recipe schema` lists every key with its values."


def _line(origin: str) -> list[Any]:
    """Sorts by file, then by line as a number."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", origin)]


def _path(detail: Any, data: Any) -> KeyPath:
    """The key path that an error is about. Pydantic's location also names branches of unions, which are no keys."""
    path: list[str] = []
    for position, part in enumerate(detail["loc"]):
        last = position == len(detail["loc"]) - 1
        within = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if within or (isinstance(data, Mapping) and part in data):
            data = data[part]
            path.append(str(part))
        elif last and detail["type"] == "missing" and not isinstance(data, list):  # else: of a list that is too short
            path.append(str(part))
    if detail["type"] == "union_tag_invalid":
        path.append("name")
    return tuple(path)


def _mistake(path: KeyPath, details: list[Any], document: Document) -> Mistake:
    key, where, first = ".".join(path), document.origin(path), details[0]
    match first["type"]:
        case "extra_forbidden":
            return Mistake(f"Unknown key '{key}'", where, suggest(path, document.data))
        case "missing" | "too_long" if isinstance(first["input"], list):
            return Mistake(f"'{key}' has the wrong number of values: {shown(first['input'])}", where)
        case "missing":
            return Mistake(f"'{key}' is missing", where, f"Add it{_described(path, document.data)}.")
        case "value_error":
            return Mistake(first["msg"].removeprefix("Value error, "), where)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Mistake(f"'{key}' is a section of keys, got {shown(first['input'])}", where)
        case "too_short" | "string_too_short" if not first["input"]:
            return Mistake(f"'{key}' is empty", where, f"Name what it takes{_described(path, document.data)}.")
        case "union_tag_invalid":
            legal, given = first["ctx"]["expected_tags"], first["ctx"]["tag"]
            return Mistake(
                f"'{key}' should be {legal.replace(', ', ' or ')}, got {given!r}", where, _nearest(given, legal)
            )
        case _:
            wanted = " or ".join(dict.fromkeys(_wanted(detail["msg"]) for detail in details))
            fix = _nearest(first["input"], wanted)
            return Mistake(f"'{key}' should be {wanted}, got {shown(first['input'])}", where, fix)


def _wanted(message: str) -> str:
    """'Input should be a valid integer, unable to parse ...' -> 'a valid integer'."""
    return message.removeprefix("Input should be ").split(", unable", 1)[0].split(", got", 1)[0]


def _nearest(given: Any, legal: str) -> str:
    """A hint when a word looks like one of the quoted words of `legal`."""
    return nearest(str(given), re.findall(r"'([^']+)'", legal))


def _described(path: KeyPath, data: Mapping) -> str:
    """' (what the key means)' from the field's doc string, or nothing."""
    description = next((p.model.model_fields[path[-1]].description for p in _here(path, data)), None)
    return f" ({description.splitlines()[0].rstrip('.')})" if description else ""


def suggest(path: KeyPath, data: Mapping) -> str:
    """What an unknown key was probably meant to be: a key near it, or the same key of another section."""
    section, key = path[:-1], path[-1]
    legal = [name for place in _here((*section, ""), data) for name in place.model.model_fields]
    near = nearest(key, legal, "".join(f"{part}." for part in section))
    hints = [near] if near else []
    elsewhere = dict.fromkeys(str(place) for place in sections() if key in place.model.model_fields)
    if elsewhere:
        hints.append(f"'{key}' is a key of {', '.join(elsewhere)}.")
    return " ".join(hints) or f"Legal here: {', '.join(legal)}."


@dataclass(frozen=True)
class Place:
    """One section of a recipe; those of `method` come once for each method."""

    path: KeyPath
    model: type[Section]
    method: str | None = None

    def __str__(self) -> str:
        path = ".".join(self.path) or "the top level"
        return f"{path} (name: {self.method})" if self.method else path


def _here(path: KeyPath, data: Mapping) -> Iterator[Place]:
    """The section that holds the key `path`, under the method that the recipe names."""
    method = data.get("method")
    chosen = method.get("name") if isinstance(method, Mapping) else None
    own = sections(method_class(chosen).Config, ("method",), chosen) if chosen and chosen not in NAMES else ()
    return (place for place in (*sections(), *own) if place.path == path[:-1] and place.method in (None, chosen))


def sections(model: type[Section] = Recipe, path: KeyPath = (), method: str | None = None) -> Iterator[Place]:
    """Every section of a recipe, outer ones first."""
    yield Place(path, model, method)
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            if inner is not MethodConfig:
                yield from sections(inner, (*path, name), method)
    if model is Recipe:
        for name in NAMES:
            yield from sections(method_class(name).Config, ("method",), name)


def _models_in(annotation: Any) -> list[type[Section]]:
    """The section models that an annotation admits: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
