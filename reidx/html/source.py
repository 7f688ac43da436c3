"""A run of a report: its files, and its measurement or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reidx.html.blocks import Heading, Missing
from reidx.html.measured import Measured
from reidx.runs.stored import StoredRun


@dataclass(frozen=True)
class Source:
    """A run, its name on the page, and its measurement; without one, ``reason`` is a sentence."""

    name: str
    run: StoredRun
    measured: Measured | None = None
    reason: str = ""
    pictures: bool = False
    """True if pictures of people were requested."""


def heading(sources: Sequence[Source], source: Source) -> list[object]:
    """The heading of a run's part of a section; none on a page about one run."""
    return [Heading(source.name)] if len(sources) > 1 else []


def measured_parts(sources: Sequence[Source], blocks: list[object]) -> Iterator[tuple[Source, Measured]]:
    """Yield the measured runs after adding their headings to ``blocks``; for the others, add the reason."""
    for source in sources:
        blocks += heading(sources, source)
        if source.measured is None:
            blocks.append(Missing(source.reason))
        else:
            yield source, source.measured
