"""Packs: the images of a data set, decoded and resized once for all runs that share a folder.

A pack is a folder with ``pack.json`` (the size, the interpolation, the fingerprint of the source, the versions of the decoder),
and for each split ``SPLIT.npy``, uint8 (N,3,H,W), which runs map into memory, and ``SPLIT.npz`` with the arrays ``paths``,
``ids``, ``cameras`` and ``column_NAME`` for each further column.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

from reidx.data.datasets.base import Dataset, Split
from reidx.data.fingerprint import fingerprint
from reidx.data.images import ImageStore
from reidx.errors import DataError
from reidx.machine.threads import available_cores

FORMAT = 1
ABOUT = "pack.json"
SPLITS = ("train", "query", "gallery")
CHECKED = 3
"""Images of a split that are decoded again when a pack is opened."""


def decoder() -> dict[str, str]:
    """The versions of the libraries that determine decoded pixels."""
    libraries = ("libjpeg_turbo", "jpg", "zlib", "webp", "libtiff")
    return {"pillow": PIL.__version__, **{name: str(features.version(name)) for name in libraries}}


@dataclass(frozen=True)
class Pack:
    """The description of a pack in ``folder``."""

    folder: Path
    size: tuple[int, int]
    interpolation: str
    source: Mapping[str, Any]
    decoder: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Pack:
        """Read ``pack.json``; raises :class:`DataError` if it describes no pack."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise DataError(f"{folder}: the pack has format {about['format']}, not {FORMAT}. Pack the data set again.")
            height, width = about["size"]
            return cls(folder, (int(height), int(width)), about["interpolation"], about["source"], about["decoder"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / ABOUT} cannot be read as a pack ({error}). Pack the data set again.") from error

    def images(self, split: str) -> np.ndarray:
        """Map the images of a split, uint8 (N,3,H,W); changes of the array do not reach the file.

        Raises :class:`DataError` for a damaged file.
        """
        path = self.folder / f"{split}.npy"
        try:
            found = np.load(path, mmap_mode="c").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}). Pack the data set again.") from error
        shape = (self.source[split]["images"], 3, *self.size)
        if found.shape != shape or found.dtype != np.uint8:
            raise DataError(f"{path} holds {found.dtype} {found.shape}, not uint8 {shape}. Pack the data set again.")
        return found


def write_pack(
    dataset: Dataset,
    folder: Path,
    name: str,
    size: tuple[int, int],
    interpolation: str,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Pack all splits of a data set below ``folder`` and return the pack's own folder, which appears once it is complete.

    A pack of the same images, size and interpolation is kept. Raises :class:`~reidx.data.images.CorruptImage` for an image that
    cannot be decoded, :class:`DataError` where the folder cannot be written.
    """
    source = fingerprint(dataset)
    for other in packs_in(folder):
        if (other.size, other.interpolation, other.source, other.decoder) == (size, interpolation, source, decoder()):
            return other.folder
    height, width = size
    target = folder / f"{name}-{height}x{width}-{interpolation}-{source['train']['files'][:6]}{uuid.uuid4().hex[:4]}"
    part = target.with_name(f".{target.name}.partial")
    splits = {split: found for split in SPLITS if len(found := getattr(dataset, split))}
    total, before = sum(map(len, splits.values())), 0
    try:
        part.mkdir(parents=True)
        for split, found in splits.items():
            for done in _write_split(part / split, found, size, interpolation):
                if progress is not None:
                    progress(before + done, total)
            before += len(found)
        about = {"format": FORMAT, "name": dataset.name, "size": size, "interpolation": interpolation}
        text = json.dumps({**about, "decoder": decoder(), "source": source}, indent=1)
        (part / ABOUT).write_text(text + "\n", encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise DataError(f"{part} cannot be written: {error.strerror or error}. Name another folder, or free space.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write_split(stem: Path, split: Split, size: tuple[int, int], interpolation: str) -> Iterator[int]:
    """Write the images and the columns of a split; yields the number of images done."""
    columns: dict[str, Any] = {f"column_{name}": column for name, column in split.columns.items()}
    columns |= {"cameras": split.cameras, **({} if split.ids is None else {"ids": split.ids})}
    np.savez(stem.with_suffix(".npz"), paths=np.array(split.paths), **columns)
    images = np.lib.format.open_memmap(stem.with_suffix(".npy"), mode="w+", dtype=np.uint8, shape=(len(split), 3, *size))
    store = ImageStore(split.paths, size, interpolation, cache_bytes=0)
    with ThreadPoolExecutor(available_cores()) as pool:
        try:
            for place, image in enumerate(pool.map(store.__getitem__, range(len(split)))):
                images[place] = image.numpy()
                yield place + 1
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    images.flush()


def packs_in(folder: Path) -> list[Pack]:
    """The packs in the folders directly below ``folder``; raises :class:`DataError` for a damaged one."""
    return [Pack.read(path.parent) for path in sorted(folder.glob(f"*/{ABOUT}"))]


def find_pack(
    folder: Path, source: Mapping[str, Any], split: str, size: tuple[int, int], interpolation: str
) -> tuple[Pack | None, str]:
    """The pack of a split of a data set with the fingerprint ``source``, and the reason if there is one that does not fit.

    A pack fits if size, interpolation and the versions of the decoder are the same.
    """
    reasons = []
    for pack in packs_in(folder):
        if pack.source.get(split) != source[split]:
            continue
        wanted, there = f"{size[0]}x{size[1]} {interpolation}", f"{pack.size[0]}x{pack.size[1]} {pack.interpolation}"
        if wanted != there:
            reasons.append(f"{pack.folder} holds its images at {there}, not {wanted}")
        elif pack.decoder != decoder():
            reasons.append(f"{pack.folder} was made with other versions of the decoder")
        else:
            return pack, ""
    return None, "; ".join(reasons)


def check_sample(images: np.ndarray, paths: Sequence[str], size: tuple[int, int], interpolation: str, where: Path) -> None:
    """Decode a few images again; raises :class:`DataError` if they differ from those of a pack."""
    store = ImageStore(paths, size, interpolation, cache_bytes=0)
    for place in np.unique(np.linspace(0, len(paths) - 1, CHECKED).astype(int)).tolist():
        if not np.array_equal(store[place].numpy(), images[place]):
            raise DataError(f"{where}: the packed image of {paths[place]} differs from its file. Remove the pack; pack again.")
