"""Images in the forms that a user has: a folder, paths, Pillow images, arrays, a tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reidx.data.datasets.folder import images_below
from reidx.data.decode import convert, decode
from reidx.data.images import resized
from reidx.errors import DataError
from reidx.machine.threads import available_cores

Picture: TypeAlias = str | Path | Image.Image | np.ndarray
Images: TypeAlias = Picture | Sequence[Picture] | Tensor
"""A folder, or one image or several: paths (or addresses of crops), Pillow images, arrays uint8 (H,W,3), or a tensor (N,3,H,W)
of floats in 0..1."""
NAMED = (str, Path, Image.Image)


class Pictures:
    """Images with their names, decoded in batches to uint8 (B,3,H,W), or unchanged floats (B,3,H,W) of a tensor.

    The name of a path is the path; other images are named by their number. Raises :class:`DataError` for no images, and for
    arrays and tensors of another type or shape, with the name of the image.
    """

    def __init__(self, images: Images, size: tuple[int, int], interpolation: str) -> None:
        self.size, self.interpolation = size, interpolation
        self.tensor: Tensor | None = None
        self.items: Sequence[Picture] = ()
        if isinstance(images, Tensor):
            self.tensor = _checked_tensor(images, size)
            self.names = [f"image {number}" for number in range(len(images))]
        else:
            self.items = _listed(images)
            self.names = [_name(item, number) for number, item in enumerate(self.items)]
        if not self.names:
            raise DataError("There are no images: the list is empty.")

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, size: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the images in batches of ``size``, with their positions; the next batch is decoded meanwhile.

        Raises :class:`~reidx.data.decode.CorruptImage`, with the name, for an image that cannot be read.
        """
        starts = [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        if self.tensor is not None:
            yield from ((place, self.tensor[place]) for place in starts)
            return
        with ThreadPoolExecutor(available_cores()) as pool:
            try:
                submitted = ((at, [pool.submit(self._decode, n) for n in range(at.start, at.stop)]) for at in starts)
                ahead = list(islice(submitted, 1))
                while ahead:
                    ahead += islice(submitted, 1)
                    place, futures = ahead.pop(0)
                    yield place, torch.from_numpy(np.stack([future.result() for future in futures]))
            finally:
                pool.shutdown(cancel_futures=True)

    def _decode(self, number: int) -> np.ndarray:
        item = self.items[number]
        if isinstance(item, str | Path):
            image = decode(str(item))
        elif isinstance(item, Image.Image):
            image = convert(item, self.names[number])
        else:
            image = Image.fromarray(item)
        return resized(image, self.size, self.interpolation)


def _listed(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """The images one by one; those of a folder, with its sub-folders, as paths in sorted order."""
    if isinstance(images, np.ndarray):
        return [_checked_array(images, 0)] if images.ndim == 3 else _each(images)
    if isinstance(images, Image.Image):
        return [images]
    if not isinstance(images, str | Path):
        return [item if isinstance(item, NAMED) else _checked_array(item, n) for n, item in enumerate(images)]
    folder = Path(images).expanduser()
    if not folder.is_dir():
        return [str(folder)]
    names = images_below(folder).names
    if not names:
        raise DataError(f"{folder} has no images. Give a folder of images (in sub-folders, too), or their paths.")
    return [f"{folder}{os.sep}{name}" for name in names]


def _each(images: np.ndarray) -> list[np.ndarray]:
    if images.ndim != 4:
        raise DataError(f"An array of images has the shape (N,H,W,3), or (H,W,3) for one, not {images.shape}.")
    return [_checked_array(image, number) for number, image in enumerate(images)]


def _name(item: Picture, number: int) -> str:
    return str(item) if isinstance(item, str | Path) else f"image {number}"


def _checked_array(image: object, number: int) -> np.ndarray:
    """The array of an image; raises :class:`DataError` unless it is uint8 (H,W,3)."""
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"image {number} is of type {type(image).__name__}; give paths, Pillow images, arrays uint8 (H,W,3), or one tensor "
            "(N,3,H,W)."
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"image {number} is an array {image.dtype} of shape {image.shape}; it must be uint8 (H,W,3), in RGB.")
    return image


def _checked_tensor(images: Tensor, size: tuple[int, int]) -> Tensor:
    """A tensor of images; raises :class:`DataError` unless it is (N,3,H,W) of the network's size, floats in 0..1."""
    wanted = f"floats (N,3,{size[0]},{size[1]}) in 0..1: RGB of the network's size, not normalised"
    if not images.is_floating_point() or images.ndim != 4 or tuple(images.shape[1:]) != (3, *size):
        kind = str(images.dtype).removeprefix("torch.")
        raise DataError(f"The tensor of images is {kind} of shape {tuple(images.shape)}; it must be {wanted}.")
    flat = images.flatten(1)
    outside = ~((flat >= 0) & (flat <= 1)).all(1)  # NaN is outside, too
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise DataError(f"image {first} of the tensor has values outside 0..1; the tensor must be {wanted}.")
    return images
