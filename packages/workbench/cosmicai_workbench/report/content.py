"""Building blocks of a page, free of HTML."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Alert:
    """Something the reader must see first."""

    title: str
    text: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An inline SVG with its caption; ``wide`` takes the page's full width."""

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    published: tuple[int, ...] = ()
    """Columns with others' figures, marked as such."""


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    key: str
    title: str
    text: str = ""
    cards: tuple[Card, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = field(default_factory=tuple)
