"""A searchable gallery on disk: build, add, remove, search."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.index import store, structures
from reidx.index.filters import Filter
from reidx.index.recall import Recall, measure_recall
from reidx.index.reranking import reranked_order
from reidx.index.rows import Rows
from reidx.labels.features import checked, unit

VECTORS = "vectors.faiss"
EVERYTHING = Filter()


@dataclass(frozen=True)
class Found:
    """The best images of each query: row numbers (Q,k) int64 and cosines (Q,k) float32, best first.

    There are fewer columns if a filter leaves fewer images. After re-ranking the cosines are not sorted.
    """

    rows: np.ndarray
    similarities: np.ndarray


class Index:
    """Embeddings of N images in a folder, with their paths, identities, cameras and times; searched in place.

    Files are mapped into memory: an open index takes the memory of the parts that searches touch. :meth:`add` and
    :meth:`remove` write the whole index again (:mod:`reidx.index.store`). All embeddings are of one network, whose digest and
    width the index knows; an empty digest is not compared.

    Attributes:
        rows: the columns of the images, by row number.
        kind: exact, ivf or hnsw (:mod:`reidx.index.structures`).
        recall: the measured recall of its searches against exact ones.
        dim: the width of an embedding.
        digest, model, weights: of the network: the digest, its name, and the place it was loaded from ("" if unknown).
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], whole: bool = False) -> None:
        self.folder, self._manifest = folder, manifest
        store.verify(folder, manifest, whole)
        self.kind: str = manifest["kind"]
        self.dim: int = manifest["dim"]
        self.digest, self.model, self.weights = (str(manifest["network"][name]) for name in ("digest", "model", "weights"))
        self.recall = Recall(**manifest["recall"])
        place = store.files_of(folder, manifest)
        try:
            self._vectors = structures.read(place / VECTORS, self.kind, mapped=True)
            self.rows = Rows.read(place, manifest["time_form"])
        except (ValueError, OSError) as error:
            raise DataError(f"{place} of the index cannot be read: {error}. Build the index again.") from error
        if not self._vectors.ntotal == len(self.rows) == manifest["rows"] or self._vectors.d != self.dim:
            raise DataError(f"{place} is corrupt: its files differ in the number of rows. Build the index again.")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes_on_disk(self) -> int:
        """The size of all files of the index."""
        return sum(facts["bytes"] for facts in self._manifest["files"].values())

    @classmethod
    def build(
        cls,
        folder: str | Path,
        features: Tensor | np.ndarray,
        rows: Rows,
        kind: str = "exact",
        recall: float = 0.95,
        digest: str = "",
        model: str = "",
        weights: str = "",
    ) -> Index:
        """Write a new index of embeddings (N,D) into a new folder.

        ``recall`` is the aim of an approximate kind: the least effort that reaches it on sampled rows is kept, and its recall
        on others is measured. Raises :class:`DataError` for an empty gallery, for embeddings that are not finite or all zero,
        and for a path that is listed twice; :class:`ConfigError` for a folder with other contents, and an unknown kind.
        """
        folder = Path(folder)
        if kind not in structures.KINDS:
            raise ConfigError(f"There is no index of kind {kind!r}; choose one of {', '.join(structures.KINDS)}.")
        if not 0 < recall <= 1:
            raise ConfigError(f"recall is {recall}; it must be above 0 and at most 1.")
        vectors = _unit_rows(features, rows)
        rows.refuse_repeated()
        store.refuse_other_contents(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with store.changing(folder):
            store.refuse_other_contents(folder)
            facts = {"kind": kind, "dim": vectors.shape[1], "aim": recall}
            facts["network"] = {"digest": digest, "model": model, "weights": weights}
            return cls(folder, _commit(folder, None, facts, structures.create(kind, vectors), rows))

    @classmethod
    def open(cls, folder: str | Path, whole: bool = False) -> Index:
        """Open an index; ``whole`` compares the checksums of all files, not only of those up to 64 MB.

        Raises :class:`DataError` if there is none, and for a missing, truncated or corrupt file.
        """
        folder = Path(folder)
        manifest = store.read_manifest(folder)
        try:
            return cls(folder, manifest, whole)
        except DataError:
            newer = store.read_manifest(folder)
            if newer["generation"] == manifest["generation"]:
                raise
            return cls(folder, newer, whole)  # another process changed the index meanwhile

    def require_network(self, digest: str, dim: int, name: str) -> None:
        """Raise :class:`DataError` unless the network with this digest and width computed the embeddings of the index."""
        if self.digest and digest and self.digest != digest:
            raise DataError(
                f"{self.folder} holds embeddings of another network ({self.model}, {self.digest[:12]}), not of {name} "
                f"({digest[:12]}): their distances mean nothing. Give the weights of that network, or build the index again."
            )
        if dim != self.dim:
            raise DataError(f"{self.folder} holds embeddings of {self.dim} numbers, {name} gives {dim}. Give its network.")

    def add(self, features: Tensor | np.ndarray, rows: Rows, digest: str = "", model: str = "these embeddings") -> Index:
        """Append embeddings (M,D) and return the index with them; this object keeps the earlier state.

        Raises :class:`DataError` for embeddings of another network, and for images that the index has.
        """
        vectors = _unit_rows(features, rows)
        self.require_network(digest, vectors.shape[1], model)
        rows.refuse_repeated()
        with store.changing(self.folder):
            now = store.read_manifest(self.folder)
            place = store.files_of(self.folder, now)
            present = Rows.read(place, now["time_form"])
            if known := set(present.paths) & set(rows.paths):
                raise DataError(f"{len(known):,} of the images are in {self.folder} already, such as {min(known)}.")
            both = present.followed_by(rows)
            index = structures.read(place / VECTORS, self.kind, mapped=False)
            structures.add(index, vectors)
            return Index(self.folder, _commit(self.folder, now, _same(now), index, both))

    def remove(self, paths: Collection[str]) -> Index:
        """Delete the images with these paths and return the index without them; no trace of them is left on the disk.

        Raises :class:`DataError` for a path that the index does not have, and if nothing would be left.
        """
        with store.changing(self.folder):
            now = store.read_manifest(self.folder)
            place = store.files_of(self.folder, now)
            present = Rows.read(place, now["time_form"])
            wanted, listed = set(paths), list(present.paths)
            if missing := wanted - set(listed):
                raise DataError(f"{len(missing):,} of the images are not in {self.folder}, such as {min(missing)}.")
            kept = np.flatnonzero([path not in wanted for path in listed])
            if not len(kept):
                raise DataError(f"These are all images of {self.folder}. Delete the folder instead.")
            index = structures.without(structures.read(place / VECTORS, self.kind, mapped=True), self.kind, kept)
            return Index(self.folder, _commit(self.folder, now, _same(now), index, present.take(kept)))

    def search(
        self, queries: Tensor | np.ndarray, k: int = 10, where: Filter = EVERYTHING, rerank: int = 0
    ) -> Found:
        """Return the ``k`` images with the largest cosines to each query (Q,D), among those that ``where`` allows.

        ``rerank`` re-orders that many of the first results by k-reciprocal neighbours, before they are cut to ``k``. Raises
        :class:`DataError` for queries that are not finite or of another width, ``k`` beyond the images of the index, and a
        filter that no image passes.
        """
        vectors = unit(checked(queries, "queries"), "queries").cpu().numpy()
        self.require_network("", vectors.shape[1], "the query")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self):
            raise DataError(f"k is {k}; it must be a whole number from 1 to the {len(self):,} images of the index.")
        allowed = where.allowed(self.rows)
        most = len(self) if allowed is None else int(allowed.sum())
        wide = min(max(k, rerank), most)
        similarities, rows = structures.search(self._vectors, self.kind, vectors, wide, self.recall.effort, allowed)
        if rerank > 1 and wide > 1:
            for number, query in enumerate(vectors):
                first = rows[number, :rerank]
                order = reranked_order(query, self.vectors(first))
                rows[number, : len(first)] = first[order]
                similarities[number, : len(first)] = similarities[number, : len(first)][order]
        return Found(rows[:, :k], similarities[:, :k])

    def vectors(self, rows: Collection[int] | np.ndarray) -> np.ndarray:
        """Return the embeddings (R,D) float32 of row numbers."""
        return np.concatenate(list(structures.blocks(self._vectors, np.asarray(rows, np.int64))))


def _unit_rows(features: Tensor | np.ndarray, rows: Rows) -> np.ndarray:
    vectors = checked(features, "embeddings")
    if not len(vectors):
        raise DataError("There are no embeddings: the gallery is empty.")
    if len(vectors) != len(rows):
        raise DataError(f"There are {len(vectors):,} embeddings for {len(rows):,} paths.")
    return unit(vectors, "embeddings").cpu().numpy()


def _same(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that a change of rows keeps."""
    return {name: manifest[name] for name in ("kind", "dim", "aim", "network")}


def _commit(folder: Path, before: dict[str, Any] | None, facts: dict[str, Any], index: Any, rows: Rows) -> dict[str, Any]:
    """Measure the recall of the new structure, then write and commit it with its rows; returns the manifest."""
    found = measure_recall(index, facts["kind"], facts["aim"])
    facts = {**facts, "rows": len(rows), "time_form": rows.time_form, "recall": dataclasses.asdict(found)}

    def write(place: Path) -> None:
        structures.write(index, place / VECTORS)
        rows.write(place)

    return store.commit(folder, before, facts, write)
