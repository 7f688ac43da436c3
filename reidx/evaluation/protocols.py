"""Protocols: which gallery images are ignored for a query, and the words a result's card says it in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reidx.errors import ConfigError

JUNK = -1  # Market-1501's identity number for boxes that show no person well enough to count either way


@dataclass(frozen=True)
class Protocol:
    """The rule by which a ranking is judged. Subclass and override `ignored` for a rule of another kind.

    `version` changes whenever the numbers of one ranking would; results with different versions are not comparable.
    """

    name: str
    version: str
    camera_filter: bool
    junk: str = "gallery images of identity -1 are ignored; identity 0 (distractors) stays as a negative"

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Bool (Q, G): gallery images that neither help nor harm the query."""
        skip = np.broadcast_to(gallery_ids == JUNK, (len(query_ids), len(gallery_ids)))
        if not self.camera_filter:
            return skip
        return skip | ((query_ids[:, None] == gallery_ids) & (query_cams[:, None] == gallery_cams))


class Market1501(Protocol):
    """Gallery images of the query's own identity *and* camera are ignored (Market-1501 and all that follow it)."""

    def __init__(self) -> None:
        super().__init__("market1501", "1", camera_filter=True)


class NoCameraFilter(Protocol):
    """Every gallery image counts, for data sets without cameras, or whose cameras are all one."""

    def __init__(self) -> None:
        super().__init__("no_camera_filter", "1", camera_filter=False)


PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (Market1501(), NoCameraFilter())}


def protocol_named(protocol: str | Protocol) -> Protocol:
    """The protocol of that name, or the object itself; ConfigError names those there are."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"evaluate: unknown protocol {protocol!r}; choose one of {', '.join(sorted(PROTOCOLS))}."
        )
    return PROTOCOLS[protocol]
