"""An index and its network behind a page: searches by image of the index or by upload, small pictures of both."""

from __future__ import annotations

import io
import secrets
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from reidx.data.decode import CorruptImage, decode
from reidx.errors import DataError
from reidx.index import Filter, Found, Index
from reidx.index.results import Result, ranked_results
from reidx.inference.reid import ReID

KEPT = 50
"""Uploads that are kept, in memory only; the oldest is forgotten first."""

FIRST = 100
"""Results that are re-ranked."""

_HEIGHT = 256  # pixels of a picture on the page


class Query(NamedTuple):
    """A picture to search for: an image of the index by its ``row``, or an upload by its ``token``."""

    row: int | None = None
    token: str | None = None


@dataclass(frozen=True)
class _Upload:
    features: np.ndarray
    picture: bytes


class Gallery:
    """The searches of a page; one at a time, so that visitors share one network and its memory.

    ``cameras`` are the known cameras of the images, sorted.
    """

    def __init__(self, index: Index, network: ReID) -> None:
        index.require_network(network.digest, network.dim, network.name)
        self.index, self.network = index, network
        self._turn = threading.Lock()
        self._uploads: OrderedDict[str, _Upload] = OrderedDict()
        found = () if index.rows.cameras is None else np.unique(index.rows.cameras).tolist()
        self.cameras: list[int] = [camera for camera in found if camera >= 0]

    def upload(self, content: bytes) -> str:
        """Embed the image in a file's bytes and return the token of the upload.

        Raises :class:`DataError`, without a path, for bytes that are no image.
        """
        with tempfile.TemporaryDirectory(prefix="reidx-") as folder:
            file = Path(folder) / "upload"
            file.write_bytes(content)
            try:
                image = decode(str(file))
            except CorruptImage as error:
                raise DataError(str(error).replace(str(file), "The file")) from None
        with self._turn:
            features = self.network.embed([image]).numpy()
            token = secrets.token_urlsafe(12)
            self._uploads[token] = _Upload(features, _jpeg(image))
            while len(self._uploads) > KEPT:
                self._uploads.popitem(last=False)
        return token

    def search(self, query: Query, k: int, camera: int | None, rerank: bool) -> list[Result]:
        """Return the ``k`` best images of a query, without the query itself; raises :class:`DataError` if it is unknown."""
        where = Filter([] if camera is None else [camera])
        with self._turn:
            features = self._upload(query.token).features if query.token else self.index.vectors([self._row(query.row)])
            wide = min(k + 1, len(self.index))
            found = self.index.search(features, wide, where, FIRST if rerank else 0)
        others = found.rows[0] != (-1 if query.row is None else query.row)
        return ranked_results(self.index, Found(found.rows[:, others][:, :k], found.similarities[:, others][:, :k]), 0, "")

    def images(self, start: int, count: int, camera: int | None) -> tuple[list[int], int]:
        """Return row numbers of the images of a camera (None: of all) from the ``start``-th on, and their number in all."""
        rows = np.arange(len(self.index))
        if camera is not None and self.index.rows.cameras is not None:
            rows = np.flatnonzero(self.index.rows.cameras == camera)
        return rows[start : start + count].tolist(), len(rows)

    def picture(self, query: Query) -> bytes:
        """Return a small JPEG; raises :class:`DataError` for an unknown query and for a file that cannot be read."""
        if query.token:
            with self._turn:
                return self._upload(query.token).picture
        return _jpeg(decode(self.index.rows.paths[self._row(query.row)]))

    def _row(self, row: int | None) -> int:
        if row is None or not 0 <= row < len(self.index):
            raise DataError(f"There is no image {row}; the index has images 0 to {len(self.index) - 1}.")
        return row

    def _upload(self, token: str) -> _Upload:
        if token not in self._uploads:
            raise DataError("This upload is not kept any more. Upload the image again.")
        return self._uploads[token]


def _jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((2 * _HEIGHT, _HEIGHT))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()
