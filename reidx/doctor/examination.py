"""The examination of a data set: its reading, its files, and all findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from reidx.doctor.file_checks import check_files
from reidx.doctor.files import examine_files
from reidx.doctor.findings import Report
from reidx.doctor.label_checks import check_labels
from reidx.doctor.recognition import recognise


def examine(
    path: Path, name: str | None = None, quick: bool = False, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Examine the data set at ``path``, recognised or read as the component ``name``; ``quick`` decodes no image.

    Raises :class:`~reidx.errors.DataError` if no data set is recognised.
    """
    start = time.monotonic()
    reading = recognise(path, name)
    paths = [path for split in reading.splits().values() for path in split.paths]
    files = examine_files(paths, not quick, progress)
    of_files, of_labels = list(check_files(reading, files)), list(check_labels(reading))
    found = [*(f for f in of_files if f.severity != "fact"), *of_labels, *(f for f in of_files if f.severity == "fact")]
    root = str(path) if reading.dataset is None else reading.dataset.root
    return Report(root, reading.component, reading.spec, found, len(files), time.monotonic() - start)
