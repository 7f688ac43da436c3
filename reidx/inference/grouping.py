"""A folder of images grouped by person: its clusters, embeddings and contact sheets in a new folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidx.errors import DataError
from reidx.inference.adaptation import adapt
from reidx.inference.clustering import by_size, cluster, distances_to_centres, draw_clusters, write_clusters
from reidx.inference.embeddings import SUFFIXES, Embeddings, have_parquet
from reidx.inference.extraction import images_of
from reidx.inference.reid import ReID
from reidx.labels.most_clusters import Clustering
from reidx.reporting.reporter import Mode, Reporter

SHEETS = "sheets"


def group_images(folder: Path, weights: Path, out: Path, minutes: float | None = None, mode: Mode | None = None) -> list[str]:
    """Cluster the images of ``folder`` by person into ``out``; returns lines for the user.

    Files: ``clusters.csv``, ``embeddings.parquet`` (``.npz`` without pyarrow), and contact sheets in ``sheets/``. With
    ``minutes`` the network is first trained on the images without labels; its run stays in ``out/run``. Raises
    :class:`~reidx.errors.DataError` for an unreadable image, which it names, and for images without clusters.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give the folder of your images.")
    reporter, images = Reporter(mode), images_of(str(folder), "ImageFolder")
    model = ReID.load(weights)
    embedded, found = _clustered(model, images.paths, reporter)
    out.mkdir(parents=True, exist_ok=True)
    if minutes is not None:
        model = ReID.load(adapt(model.trained, folder, len(images), found.eps, minutes, out, mode))
        embedded, found = _clustered(model, images.paths, reporter)
    labels = by_size(found.labels)
    distances = distances_to_centres(embedded, labels)
    write_clusters(out / "clusters.csv", images.paths, labels, distances)
    file = out / f"embeddings{SUFFIXES[0] if have_parquet() else SUFFIXES[1]}"
    Embeddings(images.paths, embedded.numpy(), digest=model.digest, model=model.name).write(file)
    (out / SHEETS).mkdir(exist_ok=True)
    sheets = draw_clusters(out / SHEETS, images.paths, labels, distances)
    sizes, outliers = np.bincount(labels[labels >= 0]), int((labels < 0).sum())
    return [
        f"{len(images):,} images: {len(sizes):,} clusters of {sizes.min()} to {sizes.max()} images; {outliers:,} are in none",
        f"network {model.name}, eps {found.eps:g}, which gives the most clusters",
        f"{out / 'clusters.csv'}, {file.name}, {len(sheets)} contact sheets in {out / SHEETS}",
    ]


def _clustered(model: ReID, paths: list[str], reporter: Reporter) -> tuple[Tensor, Clustering]:
    rows = []
    with reporter.work("embeddings", len(paths)) as work:
        for names, features in model.stream(paths):
            rows.append(features)
            work.advance(len(names))
    embedded = torch.cat(rows)
    return embedded, cluster(embedded)
