"""Section that shows clusters of the training images, from the labels of a run's last epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.errors import ReidxError
from reidx.html.blocks import Folded, Lines, Missing, Pictures, Section, Shown, Table, Text
from reidx.html.charts import Chart, Line
from reidx.html.pictures import picture
from reidx.html.source import Source, heading
from reidx.runs.checkpoint import load, newest
from reidx.runs.labels_file import NAME as LABELS_FILE
from reidx.runs.training_state import TrainingState

CHOSEN = 12
"""Clusters of each choice: the largest, the most mixed, others evenly by size."""
IMAGES = 12
"""Images of a cluster, evenly among its images."""


@dataclass(frozen=True)
class Labelled:
    """The clusters (N,) of a labelling's images, their files, cameras, and identities where the truth was monitored."""

    name: str
    clusters: np.ndarray
    paths: Sequence[str]
    cameras: np.ndarray | None = None
    ids: np.ndarray | None = None


def cluster_browser(sources: Sequence[Source]) -> Section | None:
    """Clusters of the last labels of each run: the largest, the most mixed (if monitored), and others of all sizes."""
    blocks: list[object] = []
    for source in sources:
        planned = (source.run.config or {}).get("stages", [])
        number = next((n for n in range(len(planned), 0, -1) if (planned[n - 1].get("labels") or {}).get("labellings")), None)
        if number is None:
            continue
        blocks += heading(sources, source)
        try:
            for labelled in labels_of(source.run.folder, number, source.run.config or {}):
                blocks += _browser(labelled, source.pictures)
        except (ReidxError, OSError) as error:
            blocks.append(Missing(f"The clusters are not shown: {error}"))
    intro = "The labels that the last epoch was trained with: training images by cluster."
    return Section("clusters", "Clusters", intro, blocks) if blocks else None


def labels_of(folder: Path, number: int, config: Mapping[str, Any]) -> list[Labelled]:
    """Read the last labels of a stage from its file of labels, or from its checkpoint, and the images from the data.

    Raises :class:`ReidxError` or :class:`OSError` if neither file has them, or if the data are gone.
    """
    stage = config["stages"][number - 1]
    path = folder / f"{number}-{stage['name']}"
    found: dict[str, tuple[np.ndarray, list[str] | None]] = {}
    if (path / LABELS_FILE).is_file():
        with open(path / LABELS_FILE, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        for name in dict.fromkeys(row["labelling"] for row in rows):
            own = [row for row in rows if row["labelling"] == name]
            found[name] = np.array([int(row["cluster"]) for row in own]), [row["path"] for row in own]
    else:
        last = newest(path)
        if last is None:
            raise ReidxError(f"{path} has neither {LABELS_FILE} nor a checkpoint.")
        labels = TrainingState.of(load(last)).labels
        found = {name: (arrays["labels"].numpy(), None) for name, arrays in labels.items()}
    domains = Domains(config["data"])
    made = []
    for name, (clusters, paths) in found.items():
        labelling = stage["labels"]["labellings"].get(name)
        if labelling is None:  # identities of a labelled stream
            continue
        split = _split(domains, labelling["domain"])
        if split is None or len(split) != len(clusters):
            if paths is None:
                raise ReidxError(f"the training images of {labelling['domain']} are gone or have changed.")
            made.append(Labelled(name, clusters, paths))
        else:
            made.append(Labelled(name, clusters, split.paths, split.cameras, split.ids if labelling["monitor"] else None))
    return made


def _split(domains: Domains, domain: str) -> Split | None:
    try:
        return domains.split(domain, "train")
    except (ReidxError, OSError):
        return None


def _browser(labelled: Labelled, pictures: bool) -> list[object]:
    clusters = labelled.clusters
    names, sizes = np.unique(clusters[clusters >= 0], return_counts=True)
    if not len(names):
        return [Missing(f"Labelling {labelled.name}: all {len(clusters):,} images are outliers.")]
    order = np.argsort(-sizes, kind="stable")
    choices = {"The largest clusters": order[:CHOSEN]}
    purities = None if labelled.ids is None else np.array([purity(labelled.ids[clusters == name]) for name in names])
    if purities is not None:
        choices["The most mixed clusters"] = np.argsort(purities, kind="stable")[:CHOSEN]
    choices["Clusters of all sizes"] = order[spread(len(order), CHOSEN)]
    counts = np.bincount(sizes)
    line = Line("clusters", [(float(size), float(counts[size])) for size in range(1, len(counts)) if counts[size]])
    blocks: list[object] = [
        Text(
            f"Labelling {labelled.name}: {len(names):,} clusters of {int((clusters >= 0).sum()):,} images; "
            f"{int((clusters < 0).sum()):,} outliers."
        ),
        Chart("Sizes of clusters", "images", "number of clusters of this size", [line]),
    ]
    for title, chosen in choices.items():
        inner: list[object] = [_table(title, labelled, names[chosen], None if purities is None else purities[chosen])]
        inner += [_images(labelled, int(name), pictures) for name in names[chosen]]
        blocks.append(Folded(f"{title} ({len(chosen)})", inner))
    return blocks


def spread(length: int, count: int) -> np.ndarray:
    """Positions of at most ``count`` of ``length`` entries, evenly from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))


def purity(ids: np.ndarray) -> float:
    """The share of the most frequent identity among the images (N,) of a cluster."""
    return float(np.unique(ids, return_counts=True)[1].max() / len(ids))


def _table(title: str, labelled: Labelled, names: np.ndarray, purities: np.ndarray | None) -> Table:
    head = ["cluster", "images", *(["cameras"] if labelled.cameras is not None else [])]
    head += ["identities", "share of the largest"] if purities is not None else []
    rows = []
    for place, name in enumerate(names.tolist()):
        inside = labelled.clusters == name
        row = [str(name), f"{int(inside.sum()):,}"]
        row += [str(len(np.unique(labelled.cameras[inside])))] if labelled.cameras is not None else []
        if purities is not None and labelled.ids is not None:
            row += [str(len(np.unique(labelled.ids[inside]))), f"{100 * purities[place]:.0f} %"]
        rows.append(row)
    return Table(title, head, rows)


def _images(labelled: Labelled, name: int, pictures: bool) -> object:
    places = np.flatnonzero(labelled.clusters == name)
    shown = places[spread(len(places), IMAGES)]
    files = [Path(labelled.paths[place]).name for place in shown]
    title = f"Cluster {name}: {len(shown)} of {len(places)} images"
    if not pictures:
        return Folded(title, [Lines(files)])
    images = []
    for place in shown.tolist():
        who = "" if labelled.ids is None else f"identity {labelled.ids[place]}"
        alt = ", ".join(filter(None, (f"Image of cluster {name}", who)))
        images.append(Shown(who or "image", picture=picture(labelled.paths[place], 96), alt=alt))
    return Folded(title, [Pictures(title, images)])
