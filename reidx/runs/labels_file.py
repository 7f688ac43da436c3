"""The clusters of a stage's images as files: the last ones in ``labels.csv``, those of each epoch as Parquet."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reidx import distributed
from reidx.data.address import as_unicode
from reidx.runs.checkpoint import write_atomically

NAME = "labels.csv"


def write_labels(folder: Path, labels: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> None:
    """Write the clusters of each labelling, on the first process only; nothing without labellings.

    ``labels`` maps each labelling to the paths of its images and their labels (N,). The columns are ``path``, ``cluster``,
    which is -1 for an outlier, and ``labelling``. Names that are not UTF-8 keep their bytes.
    """
    if distributed.rank() > 0 or not labels:
        return

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("path", "cluster", "labelling"))
            for name, (paths, clusters) in labels.items():
                rows.writerows((path, cluster, name) for path, cluster in zip(paths, clusters.tolist(), strict=True))

    write_atomically(folder / NAME, write)


@dataclass(frozen=True)
class EpochLabels:
    """The labels of a labelling's images in an epoch.

    ``clusters`` (N,) are -1 for an outlier; ``weights`` (N,) are set by refiners, None means 1 for every image;
    ``identities`` (N,) are the true ones, None if they are unknown or must not be shown.
    """

    paths: Sequence[str]
    clusters: np.ndarray
    weights: np.ndarray | None = None
    identities: np.ndarray | None = None


def write_epoch_labels(folder: Path, epoch: int, labels: Mapping[str, EpochLabels]) -> None:
    """Write the labels of ``epoch`` (from 1) to ``labels_EPOCH.parquet``, on the first process only; nothing without labels.

    The columns are ``path``, ``cluster``, ``labelling``, ``weight`` and ``identity``, which is empty where it is unknown.
    Names that are not UTF-8 are written with escapes.
    """
    if distributed.rank() > 0 or not labels:
        return
    import pyarrow  # an optional package
    from pyarrow import parquet

    def table(name: str, of: EpochLabels) -> Any:
        images = len(of.paths)
        weights = np.ones(images) if of.weights is None else of.weights
        return pyarrow.table(
            {
                "path": [as_unicode(path) for path in of.paths],
                "cluster": pyarrow.array(of.clusters, pyarrow.int64()),
                "labelling": [name] * images,
                "weight": pyarrow.array(weights.astype(np.float32)),
                "identity": pyarrow.array([None] * images if of.identities is None else of.identities, pyarrow.int64()),
            }
        )

    rows = pyarrow.concat_tables([table(name, of) for name, of in labels.items()])
    write_atomically(folder / f"labels_{epoch}.parquet", lambda partial: parquet.write_table(rows, partial))
