"""The clusters of a stage's images, in the file ``labels.csv`` of its folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from reidx import distributed
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
