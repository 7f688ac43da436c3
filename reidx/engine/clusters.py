"""The clusters of a stage's training images, as a file."""

from __future__ import annotations

from pathlib import Path

from reidx.engine.relabel import Relabeller
from reidx.runs.labels_file import write_labels


def write_clusters(folder: Path, relabeller: Relabeller) -> None:
    """Write the paths of the images of each labelling, with their present labels, into a stage's folder."""
    images = {name: relabeller.domains.split(plan.domain, "train").paths for name, plan in relabeller.labellings.items()}
    write_labels(folder, {name: (images[name], labels.labels) for name, labels in relabeller.labels.items() if name in images})
