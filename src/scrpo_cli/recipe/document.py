"""YAML as plain data that still knows the file and line of every key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scrpo_cli.errors import UserError, nearest, shown

KeyPath = tuple[str, ...]

LARGEST_FILE = 2**20
"""Bytes; the longest shipped recipe has some 3,000. What is larger is a data set, or weights."""
DEEPEST, MOST_VALUES = 32, 10_000
"""Levels, and values once all aliases are written out (nine lines of them can stand for a billion)."""
TAGS = ("map", "seq", "str", "int", "float", "bool", "null")


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

    def mistake(self, error: ValidationError, keys: Iterable[str], fix: str = "") -> UserError:
        """What is wrong first of all with a file that is no recipe and has these `keys`, with file and line: a misspelt
        key, before what then is missing.
        """
        first, *_ = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        path = tuple(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        legal = f"Its keys: {', '.join(keys)}."
        if first["type"] == "extra_forbidden":
            what = f"There is no key {'.'.join(path)}"
            fix = f"{nearest(path[-1], keys)} {fix}" if len(path) == 1 else fix
        elif path:
            what = f"{'.'.join(path)}: {what}"
        return UserError(what, self.origin(path), f"{legal} {fix}".strip())


def read_document(path: Path) -> Document:
    """Parse a YAML file whose top level is a mapping with distinct text keys; UserError names file and line."""
    text = _read(path)
    node = _parse(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        found = "empty" if node is None else "not a mapping"
        raise UserError(f"The file is {found}", str(path), "Write `key: value`; a recipe may be `extends: tiny` alone.")
    document = Document({}, {(): str(path)})
    document.data = dict(_items(node, (), str(path), document.origins))
    return document


def _read(path: Path) -> str:
    """The text of a regular file: a device has no end, and a pipe nobody writes to never begins."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise UserError("Cannot read the file: it is no regular file", str(path), "Name a YAML file.")
        if os.path.getsize(path) > LARGEST_FILE:
            what = f"Cannot read the file: it has over {LARGEST_FILE:,} bytes"
            raise UserError(what, str(path), "Name a YAML file; data sets are named inside it.")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"Cannot read the file: {reason}", str(path), "Name a YAML file.") from None


def parse_value(text: str, where: str) -> Any:
    """One value as YAML reads it: `1e-6` is a number, `[a, b]` a list, nothing is null."""
    node = _parse(text, where)
    return None if node is None else _value(node, (), where, {})


def _parse(text: str, where: str) -> yaml.Node | None:
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            _measure(node, {}, where)
        return node
    except RecursionError:
        raise UserError(TOO_DEEP, where, FLATTER) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise UserError(
            f"Not valid YAML: {reason}", f"{where}{line}", "Check indentation, colons and quotes."
        ) from None


TOO_DEEP, FLATTER = f"The values are nested more than {DEEPEST} levels deep", "No key needs that."


def _measure(node: yaml.Node, known: dict[yaml.Node, tuple[int, int] | None], file: str) -> tuple[int, int]:
    """For how many values a node stands with its aliases written out, and in how many levels; UserError for too many
    of either, and for a node that contains itself. `known`: what was measured before; none while that goes on.
    """
    if (found := known.get(node, (0, 0))) is None:
        raise UserError("A value contains itself", _line(node, file), "Write the value out instead of its alias.")
    if found[0]:
        return found
    known[node] = None
    inside = node.value if isinstance(node, yaml.SequenceNode) else []
    inside = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else inside
    sizes = [_measure(each, known, file) for each in inside]
    values, levels = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if levels > DEEPEST:
        raise UserError(TOO_DEEP, _line(node, file), FLATTER)
    if values > MOST_VALUES:
        what = f"Over {MOST_VALUES:,} values, aliases written out"
        raise UserError(what, _line(node, file), "Data sets are files of their own.")
    known[node] = values, levels
    return values, levels


def _line(node: yaml.Node, file: str) -> str:
    """`file:line` of a node; an option has no lines."""
    return file if file.startswith("--") else f"{file}:{node.start_mark.line + 1}"


def _items(node: yaml.MappingNode, path: KeyPath, file: str, origins: dict[KeyPath, str]) -> Iterator[tuple[str, Any]]:
    """The mapping's items; PyYAML would let the second of two equal keys win."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, where = key_node.value, _line(key_node, file)
        if not isinstance(key_node, yaml.ScalarNode) or not key.isprintable():
            raise UserError("A key must be plain text", where, "Quote the value if it holds braces.")
        if key in seen:
            first = f"It is also on line {seen[key]}: keep one."
            raise UserError(f"Key '{'.'.join((*path, key))}' is written twice", where, first)
        seen[key] = key_node.start_mark.line + 1
        origins[*path, key] = where
        yield key, _value(value_node, (*path, key), file, origins)


def _value(node: yaml.Node, path: KeyPath, file: str, origins: dict[KeyPath, str]) -> Any:
    where, tag = _line(node, file), node.tag.removeprefix("tag:yaml.org,2002:")
    if tag not in TAGS:
        raise UserError(f"Not valid YAML here: the tag {shown(node.tag)}", where, "Write a plain value.")
    if isinstance(node, yaml.MappingNode):
        return dict(_items(node, path, file, origins))
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*path, str(i)), file, origins) for i, each in enumerate(node.value)]
    if re.search("[\0\ud800-\udfff]", node.value):
        what = f"A text that no file or database takes: {shown(node.value)}"
        raise UserError(what, where, "Leave out NUL characters and halves of surrogate pairs.")
    try:
        return _Loader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError):  # `!!int x`, `!!bool x`; more digits than Python reads
        raise UserError(f"Not valid YAML: {shown(node.value)} is no {tag}", where, "Write a plain value.") from None


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
