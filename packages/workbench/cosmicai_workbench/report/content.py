"""Building blocks of a page, free of HTML."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosmicai_workbench.report.plot import Plot


@dataclass(frozen=True)
class Alert:
    """Something the reader must see first.

    ``urgent`` is for what needs action, and only that: it is shown in red.
    """

    title: str
    text: str
    items: tuple[str, ...] = ()
    urgent: bool = True


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure with its caption."""

    plot: "Plot"
    caption: str


@dataclass(frozen=True)
class Cutout:
    """The picture of one galaxy: ``source`` is a PNG as a data address.

    ``galaxy`` is its position in the page's sample, ``lines`` the text below it.
    """

    source: str
    galaxy: int
    lines: tuple[str, ...]
    alternative: str


@dataclass(frozen=True)
class Cutouts:
    """A row of cutouts with a heading."""

    caption: str
    pictures: tuple[Cutout, ...]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    published: tuple[int, ...] = ()
    """Columns with others' figures, marked as such."""
    folded: bool = False
    """Shown when asked for."""


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    key: str
    title: str
    text: str = ""
    cards: tuple[Card, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = field(default_factory=tuple)
    cutouts: tuple[Cutouts, ...] = ()
    progress: tuple[int, int] | None = None
    """How much is done, of how much."""
    explorer: str = ""
    """``ranks`` or ``galaxies``: what of the page's data can be looked into here."""
