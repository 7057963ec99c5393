"""What a page is made of: sections of text, tables, figures and cards."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.words import plain


@dataclass(frozen=True)
class Table:
    """Rows of text; the first `words` columns are words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    words: int = 1

    def markdown(self) -> str:
        """The table with its columns padded, so that a terminal shows it well."""
        rows = [[plain(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.columns))]
        rule = [("-" * w if k < self.words else "-" * (max(w, 2) - 1) + ":") for k, w in enumerate(widths)]
        rows.insert(1, rule)
        padded = [
            [
                cell.ljust(w) if k < self.words else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            for row in rows
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in padded)


@dataclass(frozen=True)
class Picture:
    """A figure: its file name without the ending, the SVG, what it shows in words, and how to read it."""

    name: str
    svg: bytes
    alt: str
    caption: str

    @property
    def uri(self) -> str:
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class Panel:
    """One picture of a card: a PNG, what it shows in words, and the line under it."""

    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Card:
    """An image and what networks made of it, side by side under a title that says what happened."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Deck:
    """Cards under one heading, with a caption that says how they were chosen; `legend` is of the pictures' colours."""

    title: str
    cards: Sequence[Card]
    caption: str
    legend: str = ""


@dataclass(frozen=True)
class Section:
    """Text, then tables, figures and cards, then smaller sections. `widget` names a part of the template."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    decks: Sequence[Deck] = ()
    parts: Sequence[Section] = ()
    widget: str = ""
