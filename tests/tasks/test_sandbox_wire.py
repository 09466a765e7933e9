"""Values cross between the processes of a check as plain data: all kinds survive, nothing else can be made to."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.tasks.code.inside.wire import Heap, Malformed, Opaque, Unsendable, classes_of, receive, send

NODE = """
class Node:
    def __init__(self, value, successor=None):
        self.value, self.successor = value, successor
    def __bool__(self):
        return True
"""
CLASSES = classes_of({"sandbox_node": NODE})
Node: Any = CLASSES["sandbox_node.Node"]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
hashables: st.SearchStrategy[Any] = st.recursive(
    scalars | st.binary(), lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3)
)
values: st.SearchStrategy[Any] = st.recursive(
    hashables | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashables, inner, max_size=3) | st.tuples(inner),
)


def over(value: Any, opaque: bool = False) -> Any:
    """To another process and read there."""
    return Heap(CLASSES).unpack(json.loads(json.dumps(Heap(CLASSES, opaque).pack(value))))


@given(values)
def test_plain_values_survive(value: Any) -> None:
    back = over(value)
    assert back == value
    assert repr(type(back)) == repr(type(value))


@pytest.mark.parametrize(
    "value",
    [
        Counter("abca"),
        OrderedDict(b=1, a=2),
        defaultdict(list, a=[1]),
        deque([1, 2], maxlen=5),
        bytearray(b"\xff\x00"),
        {(2, frozenset({3}))},
        range(2, 10, 3),
        range(1 << 70),
        -(1 << 5000),
        Decimal("1.10"),
        Fraction(-1, 3),
        datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        datetime.date(2026, 1, 2),
        datetime.time(3, 4, 5),
        datetime.timedelta(days=-1, microseconds=7),
        int,
        "\ud800 \0",
        float("inf"),
        -0.0,
        [],
        [True, 1, 1.0],
    ],
    ids=repr,
)
def test_each_kind_survives(value: Any) -> None:
    back = over(value)
    assert (back, type(back), repr(back)) == (value, type(value), repr(value))


def test_iterators_and_views_survive() -> None:
    assert list(over(x * x for x in range(3))) == [0, 1, 4]
    assert next(over(zip("ab", [1, 2]))) == ("a", 1)
    assert over({"a": 1}.keys()) == {"a"}
    assert list(over({"a": [1]}.items())) == [("a", [1])]
    assert list(over({"a": 1}.values())) == [1]


def test_sharing_and_cycles_survive() -> None:
    shared: list[Any] = []
    shared.append(({"me": shared},))
    first, second = over([shared, shared])
    assert first is second
    assert first[0][0]["me"] is first


def test_subclasses_cross_as_what_they_derive_from() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(over(Liar(5))) is int
    assert over(namedtuple("Point", "x y")(1, 2)) == (1, 2)
    assert type(over({"a": Liar(7)})["a"]) is int


def test_what_has_no_plain_form() -> None:
    with pytest.raises(Unsendable):
        over([print])
    match = over(re.match("a", "a"), opaque=True)
    assert isinstance(match, Opaque)
    assert match
    assert match != re.match("a", "a")
    with pytest.raises(Unsendable):
        over(iter(int, 1))  # never ends


def test_objects_come_back_as_themselves_changed() -> None:
    """What QuixBugs' linked lists need: the checker's own nodes, with the program's new links."""
    here, there = Heap(CLASSES), Heap(CLASSES)
    numbers, first = [3, 1, 2], Node(1, Node(2))
    second, given_numbers = first.successor, numbers
    (node, received), _ = there.unpack(here.pack(((first, numbers), {"k": 1})))
    received.sort()
    node.successor.successor, node.successor, top = node, None, node.successor
    answer = here.unpack(json.loads(json.dumps(there.pack([top, Node("new")]))))
    assert answer[0] is second
    assert second.successor is first
    assert first.successor is None
    assert given_numbers == [1, 2, 3]
    assert answer[1].value == "new"


def test_sets_of_nodes_keep_their_nodes() -> None:
    here, there = Heap(CLASSES), Heap(CLASSES)
    nodes = {Node(1), Node(2)}
    received = there.unpack(here.pack([nodes, {node: node.value for node in nodes}]))
    assert here.unpack(there.pack(received[0])) is nodes
    assert sorted(node.value for node in nodes) == [1, 2]


node = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
KINDS = ["list", "tuple", "dict", "set", "object", "int", "type", "iterator", "deque", "default", "decimal", "x"]
nodes = st.lists(st.tuples(st.sampled_from(KINDS), node, node).map(list) | node, max_size=5)


@given(nodes, node)
def test_a_hostile_message_is_refused_or_plain(heap: list[Any], value: Any) -> None:
    """It can neither raise anything else nor change a class."""
    before = dict(vars(Node))
    reader = Heap(CLASSES)
    reader.pack(("f", (Node(1),), {}))
    try:
        back = reader.unpack({"value": value, "heap": heap})
    except Malformed:
        back = None
    assert dict(vars(Node)) == before
    assert type(back).__module__ in (
        "builtins",
        "collections",
        "decimal",
        "sandbox_node",
        "scrpo_cli.tasks.code.inside.wire",
    )


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"value": [5], "heap": []},
        {"value": [-1], "heap": [["list"]]},
        {"value": [0], "heap": [["tuple", [0]]]},
        {"value": [0], "heap": [["tuple", [1]], ["tuple"]]},
        {"value": [0], "heap": [["object", "os.system"]]},
        {"value": [0], "heap": [["object", "builtins.object"]]},
        {"value": [0], "heap": [["type", "object"]]},
        {"value": [0], "heap": [["default", "print"]]},
        {"value": [0], "heap": [["set", [1]], ["list"]]},
        {"value": [0], "heap": [["dict", 1]]},
        {"value": [0], "heap": [["int", "0x"]]},
        {"value": {"a": 1}, "heap": []},
    ],
)
def test_malformed_messages(message: Any) -> None:
    with pytest.raises(Malformed):
        Heap(CLASSES).unpack(message)


def test_messages_on_a_pipe() -> None:
    reader, writer = os.pipe()
    send(writer, {"a": [1]})
    assert receive(reader) == {"a": [1]}
    os.write(writer, b"\0\0\0\x01{")
    with pytest.raises(Malformed, match="not JSON"):
        receive(reader)
    os.write(writer, b"\xff\0\0\0")
    with pytest.raises(Malformed, match="bytes"):
        receive(reader, limit=100)
    with pytest.raises(Unsendable):
        send(writer, "x" * 100, limit=50)
    os.close(writer)
    with pytest.raises(EOFError):
        receive(reader)
    os.close(reader)
