"""Tables and labelled lines for people: the one place that decides what is folded, left out, set below or stacked.

Into a pipe, which has no width, everything is written in full, a row a line. On a terminal a number, name, date, path
or id is never broken. What does not fit gives way in this order: columns that may be left out and hold one value in all
rows (it is said below the table); the width of the widest columns, which fold between words; at last the table itself,
which becomes several or, in a list of records, sets its widest columns below each row, or is a block of lines a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

GAP = "  "
SHORTEST = 16  # columns of a text, at least
ROW_LINES = 3  # of a row of records, at most: what needs more stands below it
TEXT_LINES = 6  # of a text on a terminal, at most
WORDS = re.compile(r"\[[^\]]*\]\S*|\S+")  # an interval is one word
BEFORE_INTERVAL = re.compile(r" (?=\[)")


@dataclass(frozen=True)
class Column:
    """`folds`: `whole` only before an interval, `words` between words, `text`, which somebody wrote and another command
    shows in full, between words and inside of endless ones, and after TEXT_LINES it is broken off. `same`: it may be
    left out where all rows agree.
    """

    name: str
    folds: Literal["whole", "words", "text"] = "whole"
    same: bool = False

    def lines(self, cell: str, width: int | None) -> list[str]:
        """The cell in lines of at most `width` characters, but for pieces that are longer; None: in one line."""
        if width is None:
            return ["; ".join(cell.split("\n"))] if self.folds != "text" else [" ".join(cell.split())]
        if self.folds == "text":
            return broken_off(cell.split(), max(width, SHORTEST))
        return [line for part in cell.split("\n") for line in filled(self._pieces(part), width)]

    def _pieces(self, text: str) -> list[str]:
        return BEFORE_INTERVAL.split(text) if self.folds == "whole" else WORDS.findall(text)


def broken_off(words: Sequence[str], width: int) -> list[str]:
    """At most TEXT_LINES lines; what is left out is a `...` in a place of its own."""
    lines = filled([piece for word in words for piece in chop_cells(word, width) or [""]], width)
    return lines if len(lines) <= TEXT_LINES else [*lines[: TEXT_LINES - 1], "..."]


def filled(pieces: Sequence[str], width: int) -> list[str]:
    """Pieces put into lines of at most `width`; one that is longer has a line of its own."""
    lines = [""]
    for piece in pieces:
        joined = f"{lines[-1]} {piece}" if lines[-1] else piece
        lines[-1:] = [joined] if not lines[-1] or cell_len(joined) <= width else [lines[-1], piece]
    return lines


class Table:
    """Rows under named columns, fitted to where they are printed.

    `records`: on a terminal that is too narrow the widest columns stand below each row; else the table is split into
    several that begin with the first column. A cell is a string or a Rich Text of one style.
    """

    def __init__(self, *columns: str | Column, title: str = "", records: bool = False) -> None:
        self.columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self.title, self.records = title, records
        self.rows: list[tuple[str | Text, ...]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Cells from the left; those that are not given are empty."""
        self.rows.append((*cells, *[""] * (len(self.columns) - len(cells))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = options.max_width if options.is_terminal else None
        every = range(len(self.columns))
        if self.title:
            yield from _styled(filled(WORDS.findall(self.title), width or cell_len(self.title)), "italic")
        if width is None:
            yield from self._table(every, None)
            return
        shown = self._without_same(width)
        if self.records and (above := self._above(shown, width)) is not None:
            yield from self._table(above, self._fit(above, width), [c for c in shown if c not in above], width)
        elif not self.records and (parts := self._parts(shown, width)):
            for i, part in enumerate(parts):
                yield from _styled([""] * (i > 0))
                yield from self._table(part, self._fit(part, width))
        else:
            yield from self._blocks(shown, width)
        said = [f"{self.columns[c].name} {self._cell(0, c)}" for c in every if c not in shown]
        yield from _styled(filled(["every row:", *_listed(said)], width) if said else [], "dim")

    def _cell(self, row: int, column: int) -> str:
        cell = self.rows[row][column]
        return cell if isinstance(cell, str) else cell.plain

    def _cells(self, column: int) -> set[str]:
        return {self._cell(row, column) for row in range(len(self.rows))}

    def _width(self, column: int, at_most: int | None) -> int:
        """Of the widest line of a column when it is folded to `at_most`."""
        lines = Column("", "words").lines(self.columns[column].name, at_most)
        lines += [line for cell in self._cells(column) for line in self.columns[column].lines(cell, at_most)]
        return max(map(cell_len, lines))

    def _without_same(self, width: int) -> list[int]:
        """The columns to show: from the right, those with one value are left out until the table fits unfolded."""
        shown = list(range(len(self.columns)))
        natural = [self._width(column, width) for column in shown]
        for column in reversed(range(len(self.columns))):
            fits = sum(natural[c] for c in shown) + len(GAP) * (len(shown) - 1) <= width
            if not fits and self.columns[column].same and len(self._cells(column)) == 1:
                shown.remove(column)
        return shown

    def _fit(self, shown: Sequence[int], width: int) -> list[int] | None:
        """Widths of the columns that fit into `width`: the widest gives way first. None where they cannot."""
        widths = [self._width(column, width) for column in shown]
        fixed: set[int] = set()
        while sum(widths) + len(GAP) * (len(widths) - 1) > width:
            free = [i for i in range(len(widths)) if i not in fixed]
            if not free:
                return None
            widest = max(free, key=lambda i: widths[i])
            narrower = self._narrower(shown[widest], widths[widest])
            if narrower is None:
                fixed.add(widest)
            else:
                widths[widest] = narrower
        return widths

    def _narrower(self, column: int, width: int) -> int | None:
        """The next smaller width of a column, or None."""
        if width <= 1 or (self.columns[column].folds == "text" and width <= SHORTEST):
            return None
        found = self._width(column, width - 1)
        return found if found < width else None

    def _above(self, shown: Sequence[int], width: int) -> list[int] | None:
        """The columns of a list that stand beside each other in rows of few lines: the widest go below them, one after
        the other. None where the first column would be left alone.
        """
        above = list(shown)
        while True:
            widths = self._fit(above, width)
            if widths is not None and all(self._height(c, w) <= ROW_LINES for c, w in zip(above, widths, strict=True)):
                return above
            if len(above) <= 2:
                return None
            above.remove(max(above[1:], key=lambda column: (self._width(column, None), column)))

    def _height(self, column: int, width: int) -> int:
        """Lines of the tallest cell of a column."""
        return max((len(self.columns[column].lines(cell, width)) for cell in self._cells(column)), default=1)

    def _parts(self, shown: Sequence[int], width: int) -> list[list[int]]:
        """The columns in groups that fit, each beginning with the first; none where not even two of them do."""
        if self._fit(shown, width) is not None:
            return [list(shown)]
        parts = [[shown[0]]]
        for column in shown[1:]:
            if self._fit([*parts[-1], column], width) is not None:
                parts[-1].append(column)
            elif self._fit([shown[0], column], width) is not None:
                parts.append([shown[0], column])
            else:
                return []
        return parts

    def _table(
        self, shown: Sequence[int], widths: Sequence[int] | None, below: Sequence[int] = (), width: int = 0
    ) -> Iterator[RenderableType]:
        folded: Sequence[int | None] = widths or [None] * len(shown)
        natural = widths or [self._width(column, None) for column in shown]
        heads = [Column("", "words").lines(self.columns[c].name, folded[i]) for i, c in enumerate(shown)]
        yield from _beside(heads, natural, ["bold"] * len(heads))
        for row in range(len(self.rows)):
            cells = [self.columns[c].lines(self._cell(row, c), folded[i]) for i, c in enumerate(shown)]
            yield from _beside(cells, natural, [_style(self.rows[row][c]) for c in shown])
            yield from self._under(row, below, width)

    def _under(self, row: int, below: Sequence[int], width: int) -> Iterator[RenderableType]:
        """The cells that have no place in the row, each after the name of its column."""
        said = [c for c in below if self._cell(row, c)]
        labels = max((cell_len(self.columns[c].name) for c in said), default=0)
        for column in said:
            lines = self.columns[column].lines(self._cell(row, column), width - labels - 2 * len(GAP))
            style = _style(self.rows[row][column])
            if max(map(cell_len, lines)) <= width - labels - 2 * len(GAP):
                yield from _beside([[""], [self.columns[column].name], lines], [0, labels, 0], ["", "dim", style])
            else:  # a path, say: it has a line of its own
                yield from _styled([GAP + self.columns[column].name], "dim")
                yield from _styled([2 * GAP + line for line in lines], style)

    def _blocks(self, shown: Sequence[int], width: int) -> Iterator[RenderableType]:
        """Each row as its first cell and, below it, `column cell, column cell, ...`."""
        for row in range(len(self.rows)):
            yield from _styled([self._cell(row, shown[0])], "bold")
            cells = [(self.columns[c].name, "; ".join(self._cell(row, c).split("\n"))) for c in shown[1:]]
            said = _listed([f"{name} {cell}".lstrip() for name, cell in cells if cell])
            pieces = [piece for text in said for piece in _unbroken(text, width - len(GAP))]
            yield from _styled([GAP + line for line in filled(pieces, width - len(GAP))])


def _listed(texts: Sequence[str]) -> list[str]:
    """With a comma after each but the last."""
    return [*(f"{text}," for text in texts[:-1]), *texts[-1:]]


def _unbroken(text: str, width: int) -> list[str]:
    """The text itself, or its words if it does not fit."""
    return [text] if cell_len(text) <= width else WORDS.findall(text)


@dataclass
class Pairs:
    """Labels and what they stand for, a line each. A value that is one long word, such as a path, is never folded, so
    that it can be copied: it has a line of its own where it does not fit beside its label.
    """

    values: Mapping[str, str | Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        label_width = max(map(cell_len, self.values), default=0)
        room = options.max_width - label_width - len(GAP) if options.is_terminal else None
        value_column = Column("", "words")
        for label, value in self.values.items():
            text = value if isinstance(value, str) else value.plain
            lines = value_column.lines(text, room)
            if room is not None and max(map(cell_len, lines)) > room:
                indent = label[: len(label) - len(label.lstrip())] + GAP
                yield from _styled([label])
                below = value_column.lines(text, options.max_width - len(indent))
                yield from _styled([indent + line for line in below], _style(value))
            else:
                yield from _beside([[label], lines], [label_width, 0], ["", _style(value)])


@dataclass
class Row:
    """A row of a table that is printed as it comes: all cells but the last have at least these widths, and the last
    one folds between words.
    """

    cells: Sequence[str | Text]
    widths: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        *first, last = (cell if isinstance(cell, str) else cell.plain for cell in self.cells)
        widths = [max(width, cell_len(cell)) for cell, width in zip(first, self.widths, strict=True)]
        room = options.max_width - sum(widths) - len(GAP) * len(widths) if options.is_terminal else None
        lines = [*([cell] for cell in first), Column("", "words").lines(last, room)]
        yield from _beside(lines, [*widths, 0], [_style(cell) for cell in self.cells])


@dataclass
class Prose:
    """Text that folds between words and never inside of one, with its own lines and spaces; into a pipe, unfolded."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for line in self.text.split("\n"):
            fits = not options.is_terminal or cell_len(line) <= options.max_width
            yield from _styled([line] if fits else words_in_lines(line, options.max_width), self.style)


words_in_lines = partial(
    wrap, break_long_words=False, break_on_hyphens=False, replace_whitespace=False, expand_tabs=False
)


def _style(cell: str | Text) -> str:
    return "" if isinstance(cell, str) else str(cell.style)


def _beside(cells: Sequence[Sequence[str]], widths: Sequence[int], styles: Sequence[str]) -> Iterator[Text]:
    """The lines of a row from the lines of its cells."""
    from rich.text import Text

    for lines in zip_longest(*cells, fillvalue=""):
        found = Text(no_wrap=True, overflow="ignore")
        for line, width, style in zip(lines, widths, styles, strict=True):
            found.append(line, style)
            found.append(" " * (width - cell_len(line)) + GAP)
        found.rstrip()
        yield found


def _styled(lines: Sequence[str], style: str = "") -> Iterator[Text]:
    from rich.text import Text

    for line in lines:
        yield Text(line, style=style, no_wrap=True, overflow="ignore")
