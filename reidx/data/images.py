"""Decoded and resized images, cached in memory when they fit."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from reidx.data.decode import CorruptImage, decode
from reidx.errors import ConfigError
from reidx.machine.threads import available_cores

__all__ = ["CorruptImage", "ImageStore"]

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resized(image: Image.Image, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize an RGB image to ``size`` (height, width), as Pillow does; returns uint8 (3,H,W)."""
    height, width = size
    small = image.resize((width, height), FILTERS[interpolation])
    # NumPy, not torch: torch would start its own threads for each image, in addition to ours or the worker processes
    return np.stack([np.asarray(channel) for channel in small.split()])


class ImageStore(Dataset[Tensor]):
    """Images uint8 (3,H,W), contiguous, decoded from files and resized exactly as Pillow does.

    ``size`` is (height, width) in pixels; ``interpolation`` bicubic or bilinear. :func:`reidx.data.decode.decode` describes
    the treatment of colours, bit depths and rotations. If the whole set at this size takes at most ``cache_bytes``, each
    image is decoded once: forked worker processes share the memory (spawned ones decode for themselves), which is
    allocated only as it fills. :meth:`move_to` moves the cache to the training device. ``packed`` uint8 (N,3,H,W) are all
    images, decoded already (:mod:`reidx.data.packs`).

    Raises :class:`CorruptImage` when a file cannot be read, :class:`ConfigError` for an unknown interpolation.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: tuple[int, int] = (256, 128),
        interpolation: str = "bicubic",
        cache_bytes: int = 4 << 30,
        packed: np.ndarray | None = None,
    ) -> None:
        if interpolation not in FILTERS:
            raise ConfigError(f"interpolation is {interpolation!r}; it must be one of {', '.join(FILTERS)}.")
        self.paths = list(paths)
        self.size = (int(size[0]), int(size[1]))
        self.interpolation = interpolation
        self.cache: np.ndarray | None = None
        self.filled: np.ndarray | None = None
        self.held: Tensor | None = None
        shape = (len(self.paths), 3, *self.size)
        if packed is not None:
            self.cache, self.filled = packed, np.ones(len(self.paths), np.uint8)
        elif 0 < math.prod(shape) <= cache_bytes:
            # anonymous shared mappings: unlike /dev/shm, they have no separate limit and leave nothing behind
            self.cache = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8).reshape(shape)
            self.filled = np.frombuffer(mmap.mmap(-1, len(self.paths)), np.uint8)

    def required_memory(self) -> str:
        """The memory that the images need, formatted for messages."""
        needed = math.prod((len(self), 3, *self.size)) / 2**30
        return f"{len(self)} images of {self.size[0]}x{self.size[1]} take {needed:.2f} GB"

    @property
    def cached_bytes(self) -> int:
        """Size of the full cache in bytes; 0 when the set is too large for it."""
        if self.held is not None:
            return self.held.nbytes
        return 0 if self.cache is None else self.cache.nbytes

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "cache": None, "filled": None, "held": None}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The images at ``indices``: uint8 (B,3,H,W), a fresh copy, on the device that holds them (else the CPU)."""
        if self.held is not None:
            return self.held[torch.as_tensor(indices).to(self.held.device, non_blocking=True)]
        if self.cache is None:
            return torch.from_numpy(np.stack([self._decode(index) for index in indices]))
        for index in indices:
            self._fill(index)
        return torch.from_numpy(self.cache[np.asarray(indices)])

    def _decode(self, index: int) -> np.ndarray:
        return resized(decode(self.paths[index]), self.size, self.interpolation)

    def warm(
        self,
        positions: range | None = None,
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the cache at ``positions`` (default: all) on ``threads`` threads (default: the machine's cores).

        Does nothing if the set is too large for the cache. ``progress(done, total)`` counts the images that were not
        cached yet.
        """
        if self.cache is None or self.filled is None:
            return
        wanted = range(len(self)) if positions is None else positions
        missing = [position for position in wanted if self.filled[position] == 0]
        with ThreadPoolExecutor(threads or available_cores()) as pool:
            try:
                for done, _ in enumerate(pool.map(self._fill, missing), start=1):
                    if progress is not None:
                        progress(done, len(missing))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def move_to(self, device: torch.device, progress: Callable[[int, int], None] | None = None) -> None:
        """Move all images to ``device``, decoding those that are missing, and free the cache in main memory.

        The set must fit the cache. Raises :class:`ConfigError` when a GPU has too little free memory.
        """
        if self.held is not None:
            return
        assert self.cache is not None
        left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else self.cached_bytes
        if self.cached_bytes > left:
            raise ConfigError(
                f"data.cache_on: device: {self.required_memory()}; {device} has {left / 2**30:.2f} GB left. "
                "Make data.image_size smaller, or set data.cache_on: host."
            )
        self.warm(progress=progress)
        self.held = torch.from_numpy(self.cache).to(device)
        self.cache = self.filled = None

    def _fill(self, index: int) -> None:
        assert self.cache is not None and self.filled is not None
        if not self.filled[index]:
            self.cache[index] = self._decode(index)
            self.filled[index] = 1  # set after the image is written: another process may be reading
