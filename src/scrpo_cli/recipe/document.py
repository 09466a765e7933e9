"""YAML as plain data that still knows the file and line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scrpo_cli.errors import UserError

KeyPath = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Plain scalars as YAML 1.2 reads them: `off` and `no` are words, `1e-6` is a number, a date is text."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 PyYAML's own way; the parent's list is not inherited


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass
class Document:
    """Nested `data`, and for each key path in it where it was written: `file:line` or the option that set it."""

    data: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where the key at `path`, or the nearest section around it, was written."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, "")


def read_document(path: Path) -> Document:
    """Parse a YAML file whose top level is a mapping with distinct text keys; UserError names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"Cannot read the recipe: {reason}", str(path), "Name a YAML file.") from None
    node = _parse(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        found = "empty" if node is None else "not a mapping"
        raise UserError(f"The recipe is {found}", str(path), "Write `section: {key: value}` or `extends: tiny`.")
    document = Document({}, {(): str(path)})
    document.data = dict(_items(node, (), str(path), document.origins))
    return document


def parse_value(text: str, where: str) -> Any:
    """One value as YAML reads it: `1e-6` is a number, `[a, b]` a list, nothing is null."""
    node = _parse(text, where)
    return None if node is None else _value(node, (), where, {})


def _parse(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise UserError(
            f"Not valid YAML: {reason}", f"{where}{line}", "Check indentation, colons and quotes."
        ) from None


def _items(node: yaml.MappingNode, path: KeyPath, file: str, origins: dict[KeyPath, str]) -> Iterator[tuple[str, Any]]:
    """The mapping's items; PyYAML would let the second of two equal keys win."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError("A key must be plain text", f"{file}:{line}", "Quote the value if it holds braces.")
        if key in seen:
            first = f"It is also on line {seen[key]}: keep one."
            raise UserError(f"Key '{'.'.join((*path, key))}' is written twice", f"{file}:{line}", first)
        seen[key] = line
        origins[*path, key] = f"{file}:{line}"
        yield key, _value(value_node, (*path, key), file, origins)


def _value(node: yaml.Node, path: KeyPath, file: str, origins: dict[KeyPath, str]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return dict(_items(node, path, file, origins))
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        where = f"{file}:{node.start_mark.line + 1}"
        raise UserError(f"Not valid YAML: {getattr(error, 'problem', error)}", where, "Write a plain value.") from None
    finally:
        loader.dispose()


def merge(base: Document, child: Document) -> Document:
    """`child` over `base`: sections merge key by key, everything else (lists too) replaces.

    One exception: a child that names another `method.name` replaces the whole method section, because the keys of
    one method say nothing about another.
    """
    origins = dict(base.origins)
    return Document(_merged(base.data, child.data, (), origins, child.origins), origins)


def _merged(old: Mapping, new: Mapping, path: KeyPath, origins: dict[KeyPath, str], theirs: dict) -> dict[str, Any]:
    """The merged mapping at `path`; `origins` is brought up to date with the child's (`theirs`)."""
    merged = dict(old)
    origins[path] = theirs.get(path, origins.get(path, ""))
    for key, value in new.items():
        here = (*path, key)
        inherited = merged.get(key)
        if isinstance(inherited, Mapping) and isinstance(value, Mapping) and not _other_method(here, inherited, value):
            merged[key] = _merged(inherited, value, here, origins, theirs)
            continue
        merged[key] = value
        for gone in [p for p in origins if p[: len(here)] == here]:
            del origins[gone]
        origins.update({p: o for p, o in theirs.items() if p[: len(here)] == here})
    return merged


def _other_method(path: KeyPath, old: Mapping, new: Mapping) -> bool:
    return path == ("method",) and new.get("name", old.get("name")) != old.get("name")
