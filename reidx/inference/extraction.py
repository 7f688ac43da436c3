"""Embeddings of all images of a folder, a table or a data set, written batch by batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reidx.data.datasets import Split
from reidx.data.datasets.base import Dataset
from reidx.data.datasets.image_folder import ImageFolder
from reidx.doctor.recognition import recognise
from reidx.doctor.sources import data_sets_of, is_config
from reidx.errors import ConfigError, DataError
from reidx.inference.embeddings import Batches, write_embeddings
from reidx.inference.reid import ReID
from reidx.reporting.reporter import Reporter

SPLITS = ("train", "query", "gallery")


def images_of(source: str, name: str | None = None, split: str | None = None) -> Split:
    """The images of a source: a folder, a table, a data set, or a config with one domain.

    ``name`` is the data set as which a path is read; without it, a folder that is laid out as no known data set is read as
    images without identities. All splits are taken, or ``split``. Raises :class:`DataError` if there are no images.
    """
    dataset = _dataset_of(source, name)
    splits = [getattr(dataset, each) for each in SPLITS if split in (None, each)]
    filled = [each for each in splits if len(each)]
    if not filled:
        raise DataError(f"{source} has no images{'' if split is None else f' in the split {split}'}.")
    unknown = [np.full(len(each), -1, np.int64) if each.ids is None else each.ids for each in filled]
    ids = None if all(each.ids is None for each in filled) else np.concatenate(unknown)
    paths = [path for each in filled for path in each.paths]
    return Split(paths, ids, np.concatenate([each.cameras for each in filled]))


def _dataset_of(source: str, name: str | None) -> Dataset:
    path = Path(source).expanduser()
    if name is None and not is_config(source) and path.is_dir():
        try:
            reading = recognise(path)
        except DataError:  # not laid out as a known data set
            return ImageFolder(str(path))
        if reading.dataset is not None and not reading.faults:
            return reading.dataset
    found = data_sets_of(source, name, [])
    if len(found) > 1:
        raise ConfigError(f"{source} has the domains {', '.join(found)}. Give the folder of one data set.")
    return next(iter(found.values()))


def extract_to_file(model: ReID, images: Split, out: Path, reporter: Reporter) -> None:
    """Write the embeddings of ``images`` to ``out``, with their identities and cameras; memory holds two batches.

    Raises :class:`~reidx.data.decode.CorruptImage`, which names the image, for one that cannot be read.
    """

    def batches() -> Batches:
        with reporter.work("embeddings", len(images)) as work:
            for names, rows in model.stream(images.paths, cameras=images.cameras):
                yield names, rows
                work.advance(len(names))

    write_embeddings(
        out, batches(), len(images), model.dim, images.ids, images.cameras, digest=model.digest, model=model.name
    )  # fmt: skip
