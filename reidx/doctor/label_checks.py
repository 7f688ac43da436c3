"""Checks of the labels of a data set: counts, cameras, identities, queries under its protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from reidx.data.datasets.base import Dataset, Split
from reidx.data.files import same_files
from reidx.data.published import base_config
from reidx.doctor.findings import Finding, Place, Severity, counted
from reidx.doctor.recognition import SPLITS, Reading
from reidx.errors import ReidxError
from reidx.evaluation.matches import has_match
from reidx.evaluation.protocols import drawn_trials, in_trial
from reidx.registry.build import build

TYPICAL = 10
"""Images per camera (median) from which a camera with a single image is reported."""


def check_labels(reading: Reading) -> Iterator[Finding]:
    """Yield the findings about counts, cameras, identities and queries."""
    data = reading.dataset
    if data is None:
        return
    splits = reading.splits()
    if reading.others:
        found = f"names and folders also fit {' and '.join(reading.others)}"
        yield Finding("warning", "recognition", f"{found}; if it is another set, name it: --as {reading.others[0]}")
    yield from _counts(data)
    yield from _cameras(data, splits)
    yield from _people(data, splits)
    yield from _queries(reading, splits)
    yield from (Finding("fact", "notes", note) for note in data.notes())
    for key in ("version", "layout", "train_lists"):
        if value := data.card().get(key):
            yield Finding("fact", key, f"{key.replace('_', ' ')}: {value}")


def _counts(data: Dataset) -> Iterator[Finding]:
    official = data.facts.counts.get(data.variant, {}) if data.facts else {}
    for name in SPLITS:
        found = getattr(data, name).counts()
        things = ("images", "image", ""), ("ids", "identity", "identities"), ("cameras", "camera", "")
        text = f"{name}: " + ", ".join(counted(found[key], one, many) for key, one, many in things)
        if name not in official:
            yield Finding("fact", "counts", text)
            continue
        images, ids = official[name]
        known = ((images, "images"), (ids, "identities"))
        stated = ", ".join(f"{count:,} {what}" for count, what in known if count is not None)
        if images not in (None, found["images"]) or ids not in (None, found["ids"]):
            yield Finding("error", "counts", f"{text}; the published data set has {stated}")
        else:
            yield Finding("fact", "counts", f"{text} (as published)")


def _cameras(data: Dataset, splits: Mapping[str, Split]) -> Iterator[Finding]:
    cameras = np.concatenate([split.cameras for split in splits.values()] or [np.zeros(0, np.int64)])
    known, counts = np.unique(cameras[cameras >= 0], return_counts=True)
    if not len(known):
        yield Finding("fact", "cameras", "no cameras are known; protocol NoCameraFilter ranks without them")
        return
    if len(known) == 1:
        yield Finding("warning", "cameras", f"all images are of camera {data.camera_name(int(known[0]))}")
    if np.median(counts) >= TYPICAL:
        for camera in known[counts == 1].tolist():
            paths = [path for s in splits.values() for path, seen in zip(s.paths, s.cameras.tolist()) if seen == camera]
            text = f"camera {data.camera_name(camera)} has a single image"
            yield Finding("warning", "cameras", text, [Place(path) for path in paths])
    expected = getattr(data, "camera_numbers", None) or ()
    if absent := sorted(set(expected) - {data.camera_number(int(camera)) for camera in known}):
        yield Finding("warning", "cameras", f"no image is of camera {', '.join(map(str, absent))}")


def _people(data: Dataset, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Yield people who are in training and in the test; and a fact on the gallery's distractors."""
    ids = {name: split.ids for name, split in splits.items() if split.ids is not None}
    for name in ("query", "gallery") if "train" in ids and not data.separate_ids else ():
        both = np.intersect1d(ids["train"], ids[name]) if name in ids else ()
        if len(both):
            places = [Place(path) for path, shared in zip(splits[name].paths, np.isin(ids[name], both)) if shared]
            people = counted(len(both), "training identity", "training identities")
            yield Finding("error", "identities", f"{people} in the {name}, too ({counted(len(places), 'image')})", places)
    if data.distractors:
        yield Finding("fact", "identities", f"{counted(data.distractors, 'gallery image')} of people in no query")


def _queries(reading: Reading, splits: Mapping[str, Split]) -> Iterator[Finding]:
    query, gallery = splits.get("query"), splits.get("gallery")
    if query is None or gallery is None or query.ids is None or gallery.ids is None:
        yield Finding("fact", "queries", "there is no test: query and gallery are empty")
        return
    spec = _protocol(reading, bool((query.cameras >= 0).any()))
    name = spec if isinstance(spec, str) else spec["type"]
    try:
        protocol = build("protocol", spec)
        known = query.ids, gallery.ids, query.cameras, gallery.cameras
        columns = query.columns, gallery.columns
        whole = known, same_files(query.paths, gallery.paths), columns
        trials = drawn_trials(protocol, known, columns)
        rankings = [whole] if trials is None else [in_trial(trial, *whole) for trial in trials]
        matched = [has_match(protocol, ids, own, further) for ids, own, further in rankings]
    except ReidxError as error:
        yield Finding("error", "queries", f"protocol {name}: {error}")
        return
    worst = min(matched, key=lambda found: found.mean() if len(found) else 1.0)
    if trials is not None:
        lost = len(worst) - int(worst.sum())
        text = f"{lost:,} of {len(worst):,} queries have no match in a trial of protocol {name}"
        yield Finding("error" if not worst.any() else "fact", "queries", text if lost else f"every query has a match ({name})")
        return
    places = [Place(path) for path, found in zip(query.paths, worst) if not found]
    if not places:
        yield Finding("fact", "queries", f"each of the {len(query):,} queries has a match under protocol {name}")
        return
    severity: Severity = "error" if len(places) == len(query) else "warning"
    text = f"{len(places):,} of {len(query):,} queries have no match that counts under protocol {name}"
    yield Finding(severity, "queries", text, places)


def _protocol(reading: Reading, cameras: bool) -> str | Mapping[str, Any]:
    """The protocol of the data set's base config; for others the usual one, with or without a camera filter."""
    if base := base_config(reading.component):
        return base[1].get("evaluate", {}).get("protocol", "Market1501")
    return "Market1501" if cameras else "NoCameraFilter"
