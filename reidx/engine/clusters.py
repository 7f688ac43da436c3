"""The clusters of a stage's training images, as files."""

from __future__ import annotations

from pathlib import Path

from reidx.engine.relabel import Relabeller
from reidx.runs.labels_file import EpochLabels, write_epoch_labels, write_labels


def write_clusters(folder: Path, relabeller: Relabeller) -> None:
    """Write the paths of the images of each labelling, with their present labels, into a stage's folder."""
    images = {name: relabeller.domains.split(plan.domain, "train").paths for name, plan in relabeller.labellings.items()}
    write_labels(folder, {name: (images[name], labels.labels) for name, labels in relabeller.labels.items() if name in images})


def save_labels(folder: Path, relabeller: Relabeller, epoch: int) -> None:
    """Write the labels with which ``epoch`` (from 0) trains into a stage's folder, for each labelling with ``save``.

    The true identities are written only for a labelling that is monitored.
    """
    saved: dict[str, EpochLabels] = {}
    for name, plan in relabeller.labellings.items():
        if plan.settings.save:
            split, labels = relabeller.domains.split(plan.domain, "train"), relabeller.labels[name]
            truth = split.ids if plan.settings.monitor else None
            saved[name] = EpochLabels(split.paths, labels.labels, labels.weights, truth)
    write_epoch_labels(folder, epoch + 1, saved)
