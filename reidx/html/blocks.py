"""The blocks of a page: plain data that the templates turn into HTML, with every text escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Heading:
    """A heading within a section, such as the name of a run."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Missing:
    """The reason why a run has no part in a section."""

    text: str
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a background: ``level`` from 0 to 1."""

    text: str
    level: float = 0.0


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of each row names the row. ``note`` explains it in a sentence."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Lines:
    """Lines of text, one below the other."""

    lines: Sequence[str]
    kind: ClassVar[str] = "lines"


@dataclass(frozen=True)
class Folded:
    """Blocks that are hidden until their title is chosen."""

    title: str
    blocks: Sequence[object]
    kind: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Shown:
    """An image of a ranking: a title, further facts, and ``picture``, a data URI, if pictures were requested.

    ``right`` is True for the query's identity, False for another one, None for the query itself.
    """

    title: str
    facts: Sequence[str] = ()
    right: bool | None = None
    picture: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Ranking:
    """A query and the gallery images that were found for it, best first."""

    title: str
    query: Shown
    found: Sequence[Shown]
    kind: ClassVar[str] = "ranking"


@dataclass(frozen=True)
class Pictures:
    """A row of images with captions."""

    label: str
    images: Sequence[Shown]
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Heat:
    """A map (h rows of w values in 0 to 1), drawn over ``picture`` if there is one."""

    title: str
    values: Sequence[Sequence[float]]
    alt: str
    picture: str = ""
    kind: ClassVar[str] = "heat"


@dataclass(frozen=True)
class Row:
    """Blocks next to each other where the screen is wide enough."""

    blocks: Sequence[object]
    kind: ClassVar[str] = "row"


@dataclass(frozen=True)
class Section:
    """A section of the page. ``id`` is its address on the page, ``intro`` explains it."""

    id: str
    title: str
    intro: str
    blocks: Sequence[object]
