"""The domains of an experiment: data sets and their decoded images, shared by all stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from reidx.data.datasets import Dataset, Split
from reidx.data.files import same_files
from reidx.data.fingerprint import fingerprint
from reidx.data.images import ImageStore
from reidx.data.packs import check_sample, find_pack
from reidx.errors import Broken, ConfigError
from reidx.registry.build import build, contract
from reidx.registry.describing import describe_value
from reidx.registry.seam import call


def _split_of(dataset: Any, split: str, columns: frozenset[str]) -> Split:
    found = getattr(dataset, split, None)
    if not isinstance(found, Split):
        raise Broken(f"its {split} is {describe_value(found)}, not a Split of paths, ids and cameras")
    if odd := next((path for path in found.paths if not isinstance(path, str)), None):
        raise Broken(f"its {split} has a path that is no text: {describe_value(odd)}")
    if not len(found) and not found.columns:
        return Split.empty(*sorted(columns))
    if set(found.columns) != columns:
        have, declared = (", ".join(sorted(names)) or "none" for names in (found.columns, columns))
        raise Broken(f"its {split} has these further columns: {have}; its contract declares: {declared}")
    return found


Counted = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def _no_progress(task: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, total: None)


def _discard(line: str) -> None:
    """Discard a line about a data set."""


class Domains:
    """Data sets by domain name, read on first use, and one image store for each of their splits.

    ``counted(task)`` returns a context manager whose ``progress(done, total)`` is displayed, for example while a synthetic
    data set is rendered. ``message`` receives each of a data set's ``notes``, one line at a time, when the data set is read.
    ``packs`` is a folder in which packed images are looked up (:mod:`reidx.data.packs`).
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        counted: Counted = _no_progress,
        message: Callable[[str], None] = _discard,
        packs: Path | None = None,
    ) -> None:
        self.packs = packs
        self.counted, self.message = counted, message
        self.specs: Mapping[str, Any] = data["domains"]
        self.size = (int(data["image_size"][0]), int(data["image_size"][1]))
        self.interpolation = data["interpolation"]
        self.workers = int(data["workers"])
        self.on_device = data.get("cache_on") == "device"
        self._left = int(data["cache_gb"] * (1 << 30))
        self._datasets: dict[str, Dataset] = {}
        self._own: dict[str, np.ndarray] = {}
        self._stores: dict[tuple[str, str], ImageStore] = {}
        self._sources: dict[str, Mapping[str, Any]] = {}

    def __getitem__(self, name: str) -> Dataset:
        if name not in self.specs:
            raise ConfigError(f"There is no domain {name!r}; data.domains has {', '.join(self.specs) or 'none'}.")
        if name not in self._datasets:
            where = f"data.domains.{name}"
            with self.counted(f"rendering the images of {name}") as progress:
                self._datasets[name] = build("dataset", self.specs[name], where=where, progress=progress)
            for note in self._datasets[name].notes():
                self.message(f"{name}: {note}")
        return self._datasets[name]

    def read(self) -> dict[str, Dataset]:
        """The data sets read so far, in the order of the config."""
        return {name: self._datasets[name] for name in self.specs if name in self._datasets}

    def split(self, name: str, split: str) -> Split:
        """A split of a domain: ``train``, ``query`` or ``gallery``."""
        dataset = self[name]
        return call("dataset", dataset, f"its {split}", _split_of, dataset, split, self.columns(name))

    def columns(self, name: str) -> frozenset[str]:
        """The names of the further columns of a domain, as its contract declares them; reads no data."""
        spec = self.specs[name]
        return contract("dataset", {"type": spec} if isinstance(spec, str) else spec).columns

    def own_images(self, name: str) -> np.ndarray:
        """Pairs (M,2) of query and gallery positions of a domain that refer to the same file."""
        if name not in self._own:
            self._own[name] = same_files(self.split(name, "query").paths, self.split(name, "gallery").paths)
        return self._own[name]

    def images(self, name: str, split: str) -> ImageStore:
        """The images of a split, decoded once as long as all splits in use fit the cache.

        Raises :class:`ConfigError` when training images that are to be held on the device do not fit it.
        """
        if (name, split) not in self._stores:
            packed = self._packed(name, split)
            store = ImageStore(self.split(name, split).paths, self.size, self.interpolation, self._left, packed)
            if self.on_device and split == "train" and not store.cached_bytes:
                left = f"{self._left / 2**30:.2f} GB"
                raise ConfigError(
                    f"data.cache_on: device: {name}: {store.required_memory()}, and data.cache_gb leaves {left}. "
                    "Raise data.cache_gb, make data.image_size smaller, or set data.cache_on: host."
                )
            if store.cached_bytes and packed is None:  # packed images are in the file system's cache
                self._left -= store.cached_bytes
            self._stores[name, split] = store
        return self._stores[name, split]

    def _packed(self, name: str, split: str) -> np.ndarray | None:
        """The images of a split in a pack that fits; None, with a message, if there is none that does."""
        found = self.split(name, split)
        if self.packs is None or not self.packs.is_dir() or not len(found):
            return None
        if name not in self._sources:
            self._sources[name] = fingerprint(self[name])
        pack, reason = find_pack(self.packs, self._sources[name], split, self.size, self.interpolation)
        if pack is None:
            self.message(f"{name}: no packed {split} images fit{f': {reason}' if reason else ''}; they are decoded")
            return None
        images = pack.images(split)
        check_sample(images, found.paths, self.size, self.interpolation, pack.folder)
        return images
