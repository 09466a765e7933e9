"""The file of a W&B run that was kept offline, read back: LevelDB's log format, whose records are W&B's protobuf."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, MAGIC = 32768, 7
SECONDS = 30.0
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Every record of the file, in order."""
    data, at, parts = path.read_bytes(), MAGIC, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # the rest of a block, which no header fits into
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):  # half written
            return
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def of_kind(path: Path, kind: str) -> list[Any]:
    """The records of one kind: `run`, `history`, `artifact`, `summary`, `files`. W&B's own process writes the file, and
    on a busy machine its end comes a little after the run's.
    """
    deadline = time.monotonic() + SECONDS
    while not any(record.WhichOneof("record_type") == "exit" for record in records(path)):
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.1)
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, a row a call."""
    rows = []
    for row in of_kind(path, "history"):
        rows.append(found := {})
        for item in row.item:
            *sections, name = item.nested_key or [item.key]
            place = found
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = json.loads(item.value_json)
    return rows
