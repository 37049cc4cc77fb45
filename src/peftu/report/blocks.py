"""What a section of the report is made of, before it meets the page: ``templates/blocks.html.j2`` draws each kind."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from peftu.errors import PeftuError
from peftu.report.words import NOTHING


class DrawingError(PeftuError):
    """Raised when a report cannot be drawn; what it would have shown is whole and kept."""


@dataclass(frozen=True)
class Table:
    """A table with a heading for each column; the first cell of a row names the row.

    Attributes:
        caption: what the table shows.
        head: headings.
        rows: cells as they are shown; one for each heading.
        words: places of columns that hold words: they stand left and may wrap.
        summary: where it has one, the table is folded away under it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    summary: str = ""

    def known(self) -> "Table":
        """Returns the table without columns that have nothing in any row."""
        kept = [place for place in range(len(self.head)) if any(row[place] != NOTHING for row in self.rows)]
        return replace(
            self,
            head=tuple(self.head[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
            words=tuple(number for number, place in enumerate(kept) if place in self.words),
        )


@dataclass(frozen=True)
class Picture:
    """A chart with its finding as a title.

    Attributes:
        title: what the picture shows, as a statement.
        svg: the chart.
        alt: the chart in words, for those who do not see it.
        note: what stands below the title.
        narrow: the chart for narrow pages, where it needs one of its own.
    """

    title: str
    svg: str
    alt: str
    note: str = ""
    narrow: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, and their numbers as a table that opens.

    Attributes:
        shown: drawn at once.
        more: drawn, but folded away.
        numbers: the pictures' text alternative.
        lead: what stands above them.
        key: whether the colours of helped, unchanged and hurt need a key.
        columns: how many pictures stand side by side where there is room.
    """

    kind: ClassVar[str] = "pictures"
    shown: tuple[Picture, ...]
    more: tuple[Picture, ...] = ()
    numbers: Table | None = None
    lead: str = ""
    key: bool = False
    columns: Literal[1, 2, 3] = 3


@dataclass(frozen=True)
class Facts:
    """Names with what is to be said of them."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str


@dataclass(frozen=True)
class Code:
    """Text as a machine wrote or reads it; folded away under a summary where it has one."""

    kind: ClassVar[str] = "code"
    text: str
    summary: str = ""


Block = Table | Pictures | Facts | Words | Code


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        anchor: its address within the run's part of the page.
        title: its heading.
        short: its name in the list of sections.
        blocks: what it holds.
        lead: what stands first.
    """

    anchor: str
    title: str
    short: str
    blocks: tuple[Block, ...]
    lead: str = ""
