"""What a run leaves for whoever looks at it in W&B when it has ended: tables, figures, and its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class TableData:
    """Rows under named columns; a cell is a text, a number, or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Published:
    """`adapter`: a directory that holds ADAPTER_FILES; `about` says of it what its card would."""

    tables: Mapping[str, TableData] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    adapter: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of what has to be uploaded, but for the tables."""
        files = [*self.figures.values(), *([self.adapter / name for name in ADAPTER_FILES] if self.adapter else [])]
        return sum(file.stat().st_size for file in files if file.is_file())
