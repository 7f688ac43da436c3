"""Recognition of the data set in a folder, among all that have facts, and its reading with all faults."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from reidx.data.datasets.base import Dataset, Split
from reidx.data.datasets.inspection import Fault, inspection
from reidx.data.published import PublishedSet, published_sets
from reidx.errors import DataError
from reidx.registry.build import build, signature_of
from reidx.registry.discovery import registry

SPLITS = ("train", "query", "gallery")
NEAR = 0.1
"""Mean deviation from the published counts below which they tell which data set it is."""
TABLES = {".csv": "CSV", ".parquet": "Parquet"}


@dataclass(frozen=True)
class Reading:
    """A data set as its loader reads it: None where the loader gives up, with all faults of files and lines."""

    component: str
    spec: Mapping[str, Any]
    layout: str
    faults: list[Fault]
    dataset: Dataset | None
    others: tuple[str, ...] = ()
    """Other data sets that the folder may hold as well, by their names."""

    def splits(self) -> dict[str, Split]:
        """The splits that have images."""
        found = {} if self.dataset is None else {name: getattr(self.dataset, name) for name in SPLITS}
        return {name: split for name, split in found.items() if len(split)}


def recognise(path: Path, name: str | None = None) -> Reading:
    """Read the data set at ``path``: the component ``name``, or the one whose layout and file names fit best.

    Raises :class:`DataError` if none fits, or if several data sets lie below ``path``.
    """
    if not os.path.exists(path):
        raise DataError(f"There is no {path}. Give the folder of a data set, or a table.")
    if name is None and os.path.isfile(path):
        name = TABLES.get(path.suffix.lower(), "CSV")
    if name is not None:
        return _as(path, name)
    readings, missing = [], []
    for known in published_sets():
        try:
            readings += list(_readings(path, known))
        except DataError as error:
            missing.append(str(error))
    if not readings:
        near = min((message for message in missing if "is incomplete" in message), key=len, default="")
        raise DataError(
            f"{path} is not laid out as one of the published data sets (`reidx data where` lists them). "
            f"{f'The nearest: {near} ' if near else ''}For your own images, name the component: --as ImageFolder."
        )
    if len(folders := {str(reading.spec["root"]) for reading in readings}) > 1:
        raise DataError(f"There are several data sets below {path}: {', '.join(sorted(folders))}. Give the folder of one.")
    best = min(readings, key=_misfit)
    return replace(best, others=_others(best, readings))


def _others(best: Reading, readings: list[Reading]) -> tuple[str, ...]:
    """The data sets whose layout and file names fit as well as those of the ``best``.

    None if the counts of the best are nearly the published ones, or if the folder has its name.
    """
    share, deviation, unnamed = _misfit(best)
    if deviation < NEAR or not unnamed:
        return ()
    alike = [reading.component for reading in readings if _misfit(reading)[0] == share]
    return tuple(dict.fromkeys(name for name in alike if name != best.component))


def _as(path: Path, name: str) -> Reading:
    """Read ``path`` as the component ``name`` (or a spec with arguments), or as the published data set of that name."""
    for known in published_sets():
        if known.kind.layouts and name.casefold() in (known.component.casefold(), known.kind.name.casefold()):
            return min(_readings(path, known), key=_misfit)
    spec = yaml.safe_load(name) if name.startswith("{") else {"type": name}
    entry = registry().find("dataset", spec["type"])
    key = next((key for key in ("path", "root") if key in signature_of(entry)), None)
    if key is None:
        raise DataError(f"{entry.name} takes neither root nor path, so it cannot be read from {path} alone.")
    return read({**spec, key: str(path)})


def _readings(path: Path, known: PublishedSet) -> Iterator[Reading]:
    """Read each complete layout of a published data set; raises :class:`DataError` if there is none."""
    for layout, base in known.kind.locate(str(path)) if known.kind.layouts else ():
        yield read({"type": known.component, "root": str(base), **known.kind.arguments_of(layout)}, layout)


def read(spec: Mapping[str, Any], layout: str = "") -> Reading:
    """Read the data set of a spec with all faults."""
    with inspection() as faults:
        try:
            dataset = build("dataset", spec)
        except DataError as error:
            place = str(spec.get("root", spec.get("path")))
            return Reading(spec["type"], spec, layout, [*faults, Fault(place, str(error))], None)
    return Reading(spec["type"], spec, layout, faults, dataset)


def _misfit(reading: Reading) -> tuple[int, float, bool]:
    """Sort key: the share of refused files in percent, the deviation from the published counts, an unusual folder name."""
    data = reading.dataset
    if data is None or not (images := sum(map(len, reading.splits().values()))):
        return 101, 0.0, True
    share = round(100 * len(reading.faults) / (images + len(reading.faults)))
    official = data.facts.counts.get(data.variant, {}) if data.facts else {}
    deviations = [
        abs(getattr(data, split).counts()[what] - number) / number
        for split, counts in official.items()
        for what, number in counts._asdict().items()
        if number
    ]
    named = Path(data.root).resolve().name in {Path(place).name for place in data.places}
    return share, round(sum(deviations) / len(deviations), 3) if deviations else 1.0, not named
