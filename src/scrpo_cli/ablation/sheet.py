"""A table as text, for a terminal and for a page of markdown; how numbers and their intervals are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Group


class Cell(NamedTuple):
    """A number and its interval, or any text."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table by columns. `page_only` columns are left out on a terminal, which has 80 characters; `notes` stand below
    it on a page.
    """

    name: str
    title: str
    columns: dict[str, list[Cell]]
    page_only: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def rows(self, columns: Iterable[str]) -> Iterable[tuple[Cell, ...]]:
        return zip(*(self.columns[name] for name in columns), strict=True)


def terminal(sheet: Sheet) -> Group:
    """The title and the table; intervals stand under their numbers."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = [name for name in sheet.columns if name not in sheet.page_only]
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in shown:
        table.add_column(name, overflow="fold")
    for row in sheet.rows(shown):
        table.add_row(*(Text("\n".join(filter(None, cell))) for cell in row))
    return Group(Text(f"{sheet.title}:"), table, Text())


def markdown(sheet: Sheet) -> str:
    """The title, the table and the notes."""
    lines = [_row(sheet.columns), _row("---" for _ in sheet.columns)]
    lines += [_row(" ".join(filter(None, cell)) for cell in row) for row in sheet.rows(sheet.columns)]
    notes = ["", *(f"* {note}" for note in sheet.notes)] if sheet.notes else []
    return "\n".join([f"{sheet.title[0].upper()}{sheet.title[1:]}.", "", *lines, *notes])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def percent(number: dict[str, Any] | None) -> Cell:
    """`55.1%` and `[48.0, 62.2]`; a dash where there is no such number."""
    if number is None or number["value"] is None:
        return Cell("-")
    return Cell(f"{100 * number['value']:.1f}%", percents(number["ci95"]))


def percents(ci95: Sequence[float]) -> str:
    """`[48.0, 62.2]`, in percent."""
    low, high = ci95
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def points(value: float, ci95: Sequence[float]) -> Cell:
    """`+7.5` and `[+0.5, +14.5]`."""
    return Cell(f"{100 * value:+.1f}", interval(ci95))


def interval(ci95: Sequence[float]) -> str:
    """`[+0.5, +14.5]`, in points."""
    low, high = ci95
    return f"[{100 * low:+.1f}, {100 * high:+.1f}]"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
