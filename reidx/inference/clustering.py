"""Clusters of images by person, without identities: k-reciprocal Jaccard distances and DBSCAN with the eps that it finds."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidx.data.datasets import Split
from reidx.doctor.pictures import PER_IDENTITY, draw_rows
from reidx.labels import Jaccard
from reidx.labels.most_clusters import Clustering, most_clusters
from reidx.runs.checkpoint import write_atomically

K1, K2 = 15, 4
"""Neighbours of the Jaccard distance: fewer than for training, because a folder has fewer images of each person."""
ROWS = 20
"""Clusters on a contact sheet."""
NO_CAMERA = -1


def cluster(features: Tensor) -> Clustering:
    """Cluster unit features (N,D) by person; -1 marks an image that is like too few others."""
    return most_clusters(Jaccard(k1=K1, k2=K2)(features))


def distances_to_centres(features: Tensor, labels: np.ndarray) -> np.ndarray:
    """Cosine distance (N,) of each image to the mean of its cluster; of an outlier to that of the nearest cluster."""
    of = torch.from_numpy(labels)
    centres = torch.zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, of[of >= 0], features[of >= 0])
    distances = 1 - features @ torch.nn.functional.normalize(centres, dim=1).T
    own = distances.gather(1, of.clamp(min=0)[:, None])[:, 0]
    return torch.where(of >= 0, own, distances.min(1).values).numpy()


def by_size(labels: np.ndarray) -> np.ndarray:
    """Labels (N,) in which clusters are numbered from the largest to the smallest."""
    sizes = np.bincount(labels[labels >= 0])
    number = np.empty(len(sizes), np.int64)
    number[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.where(labels >= 0, number[labels], -1)


def write_clusters(path: Path, names: Sequence[str], labels: np.ndarray, distances: np.ndarray) -> None:
    """Write the columns ``path``, ``cluster`` (-1: none) and ``distance``: cluster by cluster, nearest to the centre first."""
    order = np.lexsort((distances, np.where(labels < 0, len(labels), labels)))

    def write(partial_file: Path) -> None:
        with partial_file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "cluster", "distance"))
            rows.writerows((names[place], labels[place], f"{distances[place]:.4f}") for place in order.tolist())

    write_atomically(path, write, "run it again")


def draw_clusters(folder: Path, paths: Sequence[str], labels: np.ndarray, distances: np.ndarray) -> list[Path]:
    """Draw contact sheets of the clusters, :data:`ROWS` on each, as ``clusters_000.png`` and so on; returns their paths.

    A row has the images nearest to the cluster's centre first, then those farthest from it, where mistakes show.
    """
    split = Split(list(paths), labels, np.full(len(paths), NO_CAMERA, np.int64))
    rows = list(_rows(labels, distances))
    sheets = []
    for start in range(0, len(rows), ROWS):
        sheets.append(folder / f"clusters_{start:03d}.png")
        picture = draw_rows(split, str, rows[start : start + ROWS])  # type: ignore[arg-type]
        write_atomically(sheets[-1], partial(picture.save, format="PNG"), "run it again")
    return sheets


def _rows(labels: np.ndarray, distances: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The title of each cluster, and the images that are drawn of it: the nearest to its centre, and the farthest."""
    for number in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == number)
        members = members[np.argsort(distances[members], kind="stable")]
        half = PER_IDENTITY // 2
        drawn = members if len(members) <= PER_IDENTITY else np.concatenate([members[:half], members[-half:]])
        yield f"{number}\n{len(members)} images", drawn
