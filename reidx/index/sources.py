"""Embeddings for an index: read from a file, or computed from images by the network of the index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reidx.errors import ConfigError
from reidx.index.index import Index
from reidx.index.rows import Rows
from reidx.index.tables import absolute, listed_images
from reidx.inference.embeddings import SUFFIXES, Embeddings
from reidx.inference.reid import ReID


@dataclass(frozen=True)
class Source:
    """Embeddings (N,D) of the images ``rows``, and the network that they are of: digest, name, and the path of its weights."""

    features: np.ndarray
    rows: Rows
    digest: str
    model: str
    weights: str


def network_of(index: Index, weights: str | None) -> ReID:
    """Load the network of an index: from ``weights``, or from the place that the index remembers.

    Raises :class:`ConfigError` if it remembers none, :class:`DataError` if another network is there.
    """
    if not (place := weights or index.weights):
        raise ConfigError(f"{index.folder} was built from a file of embeddings: give its network with --weights.")
    network = ReID.load(place)
    index.require_network(network.digest, network.dim, network.name)
    return network


def read_source(
    source: Path, network: Callable[[], ReID], weights: str | None, leave_out: frozenset[str] = frozenset()
) -> Source:
    """Read a file of embeddings, or embed the images of a folder or table, except those with paths in ``leave_out``.

    ``network`` loads the network of the images, ``weights`` is its place.
    """
    if source.suffix.lower() in SUFFIXES:
        found = Embeddings.read(source)
        rows = Rows([absolute(path) for path in found.paths], found.ids, found.cameras)
        kept = _not_in(rows, leave_out)
        place = "" if weights is None else os.path.abspath(weights)
        return Source(found.features[kept], rows.take(kept), found.digest, found.model, place)
    rows = listed_images(source)
    rows = rows.take(_not_in(rows, leave_out))
    reid = network()
    features = np.concatenate([np.zeros((0, reid.dim), np.float32), *_embedded(reid, rows)])
    return Source(features, rows, reid.digest, reid.name, "" if weights is None else os.path.abspath(weights))


def _not_in(rows: Rows, leave_out: frozenset[str]) -> np.ndarray:
    return np.array([place for place, path in enumerate(rows.paths) if path not in leave_out], np.int64)


def _embedded(reid: ReID, rows: Rows) -> Iterator[np.ndarray]:
    """Yield the embeddings of the images, batch by batch."""
    if len(rows):
        for _, features in reid.stream(list(rows.paths), cameras=rows.cameras):
            yield features.numpy()
