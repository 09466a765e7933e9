"""Values as they cross between the checker and the program: plain data that the reader builds itself.

Not pickle: its reader calls what the writer names, and with the class of a linked list alone it lets the writer set
`Node.__eq__`. Here a message is JSON. A scalar stands for itself; any other object is `[i]`, the i-th of the call's
heap: all objects that crossed, each as `[kind, ...]`. A question sends the heap, the answer sends it back with new
contents, so the objects of the question come back as the very same objects, changed in place. Identity, sharing and
cycles survive.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HEADER = struct.Struct(">I")  # the length of a message
SAFE_INTEGER = 1 << 63  # larger ones cross as hexadecimal: Python reads long decimals in quadratic time
MAX_ITEMS = 1_000_000  # that are taken out of an iterator
FACTORIES = {kind.__name__: kind for kind in (list, dict, set, int, float, str, tuple)}  # of a defaultdict
TYPES = {kind.__name__: kind for kind in (*FACTORIES.values(), bool, bytes, complex, frozenset, type(None))}
VIEWS: dict[type, str] = {type({}.keys()): "keys", type({}.items()): "items", type({}.values()): "values"}
SCALARS = (str, int, float, type(None))
MUTABLE = {"list", "deque", "bytearray", "dict", "ordered", "counter", "default", "set", "object"}


class Unsendable(TypeError):
    """A value that has no plain form: a function, an open file, an object of a class of the program's own."""


class Malformed(ValueError):
    """A message that no honest writer sends."""


def send(descriptor: int, message: Any, limit: int = 0xFFFFFFFF) -> None:
    """One message; Unsendable if it is longer than `limit` bytes."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > limit:
        raise Unsendable(f"{len(body)} bytes, where {limit} are allowed")
    data = memoryview(HEADER.pack(len(body)) + body)
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int, limit: int = 0xFFFFFFFF) -> Any:
    """The next message; EOFError where the writer is gone, Malformed where it is too long or no JSON."""
    (length,) = HEADER.unpack(_read(descriptor, HEADER.size))
    if length > limit:
        raise Malformed(f"a message of {length} bytes, where {limit} are allowed")
    body = _read(descriptor, length)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("a message that is not JSON") from error


def _read(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class Opaque:
    """Stands for an object that has no plain form, such as a match of `re`: true or false, and equal to nothing."""

    def __init__(self, name: str, truth: bool) -> None:
        self.name, self.truth = name, truth

    def __bool__(self) -> bool:
        return self.truth

    def __repr__(self) -> str:
        return f"<an object of {self.name}>"


class Heap:
    """The objects of one call by index. `classes` are those of trusted modules, by dotted name. `opaque`: objects
    without a plain form cross as Opaque; otherwise they are Unsendable. So is what takes more than `limit` bytes at
    least: found out before it is written, as a number of a billion bits takes seconds and a gigabyte to write.
    """

    def __init__(
        self, classes: Mapping[str, type] | None = None, opaque: bool = False, limit: int = 0xFFFFFFFF
    ) -> None:
        self._opaque = opaque
        self._limit = self._room = limit
        self.objects: list[Any] = []  # kept: an id is only unique while its object lives
        self._index: dict[int, int] = {}
        self._fixed: dict[int, Sequence[Any]] = {}  # the parts of what cannot change; an iterator is read only once
        self._classes = classes or {}
        self._names = {cls: name for name, cls in self._classes.items()}

    # ---- writing

    def pack(self, value: Any) -> dict[str, Any]:
        """`value` and all objects of the heap as they now are."""
        self._room = self._limit
        top = self._refer(value)
        nodes: list[list[Any]] = []
        while len(nodes) < len(self.objects):  # describing one adds those that it refers to
            self._take(1)
            nodes.append(self._node(self.objects[len(nodes)], self._fixed.get(len(nodes), ())))
        return {"value": top, "heap": nodes}

    def _take(self, size: int) -> None:
        """Of the room that there is in a message."""
        self._room -= size
        if self._room < 0:
            raise Unsendable(f"a message of more than {self._limit} bytes")

    def _refer(self, value: Any) -> Any:
        """A scalar, or `[i]`. What cannot change later is listed after its parts, so that it can be built in order."""
        if type(value) is bool or value is None or type(value) is float:
            return value
        if isinstance(value, str):
            self._take(str.__len__(value))
            return str.__str__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, int) and -SAFE_INTEGER < value < SAFE_INTEGER:
            return int.__int__(value)
        if id(value) not in self._index:
            fixed = _fixed_parts(value)
            for part in fixed:
                self._refer(part)
            if id(value) not in self._index:  # an iterator may give itself
                self._index[id(value)] = len(self.objects)
                self._fixed[len(self.objects)] = fixed
                self.objects.append(value)
        return [self._index[id(value)]]

    def _node(self, value: Any, fixed: Sequence[Any]) -> list[Any]:
        """`[kind, ...]`; the first kind that fits, so subclasses stand before what they derive from."""
        refer, kind = self._refer, type(value)
        match value:
            case list():
                return ["list", *map(refer, value)]
            case tuple() | frozenset() | range():
                return [next(k.__name__ for k in (tuple, frozenset, range) if isinstance(value, k)), *map(refer, fixed)]
            case Counter() | OrderedDict() | defaultdict() | dict():
                return [*_dict_kind(value), *(refer(part) for pair in value.items() for part in pair)]
            case set():
                return ["set", *map(refer, value)]
            case int():
                self._take(int.bit_length(value) // 4)
                return ["int", hex(value)]
            case complex():
                return ["complex", value.real, value.imag]
            case bytes() | bytearray():
                self._take(len(value))
                return ["bytes" if isinstance(value, bytes) else "bytearray", value.decode("latin-1")]
            case deque():
                return ["deque", value.maxlen, *map(refer, value)]
            case type() if value in TYPES.values():
                return ["type", value.__name__]
        if kind in self._names:
            return ["object", self._names[kind], *(refer(part) for pair in vars(value).items() for part in pair)]
        if kind in VIEWS:
            return [VIEWS[kind], *map(refer, fixed)]
        if isinstance(value, Iterator):
            return ["iterator", *map(refer, fixed)]
        if isinstance(value, Opaque):  # given back
            return ["opaque", value.name, value.truth]
        name = f"{kind.__module__}.{kind.__name__}"
        special = _special(value, name)
        if special is None and not self._opaque:
            raise Unsendable(f"a value of type {name} cannot leave its process")
        return special or ["opaque", name, bool(value)]

    # ---- reading

    def unpack(self, message: Any) -> Any:
        """The value of a message. Objects of this heap are changed in place; Malformed, whatever is wrong with it."""
        try:
            return self._unpack(message["value"], message["heap"])
        except (MemoryError, Malformed):
            raise
        except Exception as error:
            raise Malformed(f"an answer that cannot be read ({type(error).__name__})") from error

    def _unpack(self, value: Any, nodes: list[list[Any]]) -> Any:
        known = len(self.objects)
        if len(nodes) < known:
            raise Malformed("an answer without the objects of its question")
        self.objects += [self._empty(node) if node[0] in MUTABLE else None for node in nodes[known:]]
        for index, (kind, *parts) in enumerate(nodes[known:], known):
            if kind not in MUTABLE:  # refers to mutable ones, which all exist by now, and to earlier ones
                self.objects[index] = self._built(kind, parts, index)
        for index in range(known, len(nodes)):
            self._index[id(self.objects[index])] = index
        filled = [(self.objects[index], node) for index, node in enumerate(nodes) if node[0] in MUTABLE]
        for late in (False, True):  # hashed containers last: a hash may need its object's contents
            for thing, (kind, *parts) in filled:
                if (kind not in ("list", "object", "deque", "bytearray")) is late:
                    self._fill(thing, kind, parts)
        return self._resolve(value)

    def _resolve(self, reference: Any, below: int | None = None) -> Any:
        if isinstance(reference, SCALARS):
            return reference
        (index,) = reference
        if type(index) is not int or not 0 <= index < len(self.objects):
            raise Malformed("a reference to nothing")
        thing = self.objects[index]
        if thing is None or (below is not None and index >= below and type(thing) in (tuple, frozenset)):
            raise Malformed("a reference ahead")
        return thing

    def _empty(self, node: list[Any]) -> Any:
        kind = node[0]
        if kind == "default":
            return defaultdict(FACTORIES[node[1]] if node[1] else None)
        if kind == "deque":
            return deque(maxlen=node[1])
        if kind == "object":
            cls = self._classes[node[1]]
            return object.__new__(cls)
        empty: dict[str, Any] = {"list": list, "dict": dict, "set": set, "bytearray": bytearray}
        return (empty | {"ordered": OrderedDict, "counter": Counter})[kind]()

    def _fill(self, thing: Any, kind: str, parts: list[Any]) -> None:
        """New contents for an object that exists; what it is never changes."""
        if kind == "object" and type(thing) is self._classes[parts[0]]:
            contents = _pairs([self._resolve(part) for part in parts[1:]])
            vars(thing).clear()
            vars(thing).update({str(name): value for name, value in contents.items()})
        elif kind == "bytearray" and isinstance(thing, bytearray):
            thing[:] = parts[0].encode("latin-1")
        elif kind == "list" and isinstance(thing, list):
            thing[:] = map(self._resolve, parts)
        elif (kind == "set" and isinstance(thing, set)) or (kind == "deque" and isinstance(thing, deque)):
            values = [self._resolve(part) for part in (parts[1:] if kind == "deque" else parts)]
            thing.clear()
            for value in values:
                thing.add(value) if isinstance(thing, set) else thing.append(value)
        elif isinstance(thing, dict) and kind in ("dict", "ordered", "counter", "default"):
            contents = _pairs([self._resolve(part) for part in (parts[1:] if kind == "default" else parts)])
            thing.clear()
            for key, value in contents.items():
                thing[key] = value
        else:
            raise Malformed("an object that became another kind of object")

    def _built(self, kind: str, parts: list[Any], index: int) -> Any:
        """An object that cannot change."""
        if kind in ("tuple", "frozenset", "iterator", "range", *VIEWS.values()):
            values = [self._resolve(part, below=index) for part in parts]
            if kind in VIEWS.values():
                return getattr(_pairs(values), kind)()
            made: dict[str, Any] = {"tuple": tuple, "frozenset": frozenset, "iterator": iter}
            return range(*values) if kind == "range" else made[kind](values)
        simple: dict[str, Any] = {
            "int": lambda text: int(text, 16),
            "complex": lambda real, imaginary: complex(float(real), float(imaginary)),
            "bytes": lambda text: text.encode("latin-1"),
            "type": TYPES.__getitem__,
            "opaque": lambda name, truth: Opaque(str(name)[:100], truth is True),
        }
        return simple[kind](*parts) if kind in simple else _special_built(kind, parts)


def _dict_kind(value: dict) -> list[Any]:
    if isinstance(value, defaultdict):
        name = getattr(value.default_factory, "__name__", "")
        return ["default", name if FACTORIES.get(name) is value.default_factory else None]
    return ["counter" if isinstance(value, Counter) else "ordered" if isinstance(value, OrderedDict) else "dict"]


def _fixed_parts(value: Any) -> Sequence[Any]:
    """What an object that cannot change consists of."""
    if isinstance(value, tuple | frozenset):
        return tuple(value)
    if isinstance(value, range):
        return value.start, value.stop, value.step
    if type(value) in VIEWS:
        return [part for pair in value.mapping.items() for part in pair]
    return _taken(value) if isinstance(value, Iterator) else ()


def _taken(iterator: Iterator[Any]) -> list[Any]:
    items = []
    for item in iterator:
        items.append(item)
        if len(items) > MAX_ITEMS:
            raise Unsendable(f"an iterator of more than {MAX_ITEMS} items")
    return items


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _special(value: Any, name: str) -> list[Any] | None:
    """Numbers and times of the standard library; their modules are loaded if there is such a value."""
    match name:
        case "decimal.Decimal":
            return ["decimal", str(value)]
        case "fractions.Fraction":
            return ["fraction", hex(value.numerator), hex(value.denominator)]
        case "datetime.datetime" | "datetime.date" | "datetime.time":
            return [type(value).__name__, value.isoformat()]
        case "datetime.timedelta":
            return ["timedelta", value.days, value.seconds, value.microseconds]
    return None


def _special_built(kind: str, parts: list[Any]) -> Any:
    if kind == "decimal":
        import decimal

        return decimal.Decimal(parts[0])
    if kind == "fraction":
        import fractions

        return fractions.Fraction(int(parts[0], 16), int(parts[1], 16))
    if kind in ("datetime", "date", "time", "timedelta"):
        import datetime

        cls = getattr(datetime, kind)
        return cls(*parts) if kind == "timedelta" else cls.fromisoformat(parts[0])
    raise Malformed(f"an unknown kind of object: {str(kind)[:40]}")


def classes_of(modules: Mapping[str, str]) -> dict[str, type]:
    """Makes the modules importable from their sources; their classes by dotted name."""
    from types import ModuleType

    found: dict[str, type] = {}
    for name, source in modules.items():
        module = sys.modules[name] = ModuleType(name)
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)
        own = [thing for thing in vars(module).values() if isinstance(thing, type) and thing.__module__ == name]
        found |= {f"{name}.{cls.__name__}": cls for cls in own}
    return found
