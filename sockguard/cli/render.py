"""How things look in a terminal: tables for two widths, and the words for ages and sizes.

Everything here is pure: facts in, something printable out. `make_console` alone knows
where it is printed.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["WIDE", "Column", "age_text", "indented", "make_console", "make_table", "plural", "size_text"]

PIPED_WIDTH = 200
"""Columns where nobody looks at a screen: enough that no address is cut."""
WIDE = 120
"""Columns from which on the wide layout is used."""


class PipeConsole(Console):
    """A console that leaves a reader who has left to `sockguard.cli.main`; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raises the error that brought us here once more."""
        raise BrokenPipeError


def make_console(stream: TextIO | None = None) -> Console:
    """Makes the console: coloured in a terminal unless NO_COLOR is set, plain text in a pipe."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return PipeConsole(file=stream, width=width, highlight=False, emoji=False, markup=False)


class Column(NamedTuple):
    """A column of a table."""

    title: str
    justify: Literal["left", "right"] = "left"
    style: str | None = None
    may_fold: bool = False
    """Goes on in the next line where the screen is too narrow; others are never broken."""


def make_table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Lays out rows without frames, as ss and ps do; columns with nothing in them are left out."""
    rows = list(rows)
    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    filled = [(column, texts) for column, texts in zip(columns, cells, strict=True) if any(texts)]
    has_header = any(column.title for column, _ in filled)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=has_header)
    for (title, justify, style, may_fold), _ in filled:
        table.add_column(title, justify=justify, style=style, no_wrap=not may_fold, overflow="fold")
    for row in zip(*(texts for _, texts in filled), strict=True):
        table.add_row(*row)
    return table


def indented(renderable: RenderableType, *, above: int = 0) -> Padding:
    """Moves something two columns to the right, below so many empty lines."""
    return Padding(renderable, (above, 0, 0, 2), expand=False)


MINUTE, HOUR, DAY = 60, 3600, 86400
KIB = 1024
_PREFIX = {"exact": "", "about": "~", "at_least": "≥"}


def age_text(seconds: float | None, kind: str = "exact") -> str:
    """Writes an age in at most two units: 4.2 s, ~12 min 07 s, ≥3 h 05 min, ? if not known."""
    if seconds is None:
        return "?"
    return _PREFIX.get(kind, "") + _span(seconds)


def _span(seconds: float) -> str:
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} min"
    return f"{whole // DAY} d {whole % DAY // HOUR:02} h"


def size_text(n_bytes: int) -> str:
    """Writes a number of bytes: 5 B, 88.2 KiB, 1.4 MiB; empty for none."""
    if not n_bytes:
        return ""
    if n_bytes < KIB:
        return f"{n_bytes} B"
    if n_bytes < KIB * KIB:
        return f"{n_bytes / KIB:.1f} KiB"
    return f"{n_bytes / KIB / KIB:.1f} MiB"


def plural(count: int, noun: str) -> str:
    """Writes a count with its noun: 1 leak, 2 leaks, 2 processes, 2 connections in LISTEN."""
    head, space, rest = noun.partition(" in ")
    ending = "" if count == 1 else "es" if head.endswith("s") else "s"
    return f"{count} {head}{ending}{space}{rest}"
