"""An image file as an upright 8-bit RGB image: the one place that opens images, for training, evaluation and pictures."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reidx.errors import DataError, out_of_memory

FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""The formats that are opened, whatever a file is called, and the suffixes of files that hold them."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 1 << 26
MAX_SIDE = 65_535
MIN_LEVELS = 32
"""How many of the 256 levels the values of a 16-bit image must span: the 12 bits of a camera, unscaled, span 16."""
BROKEN_SHARE = 0.5
"""Percent of the values at either end that do not count for this: sensors have pixels that are always black or white."""
TIFF_TAGS = {"BitsPerSample": 258, "Photometric": 262, "PlanarConfiguration": 284, "SampleFormat": 339}


class CorruptImage(DataError):
    """An image file that cannot be read; the message names it and says why.

    A DataLoader hands on a worker's exception by building it again from the worker's whole traceback: only the
    message is taken from that.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.CorruptImage: ")[2].strip())


class _Refused(Exception):
    """What is wrong with an image that a decoder would accept, and what to do."""


def is_image(name: str) -> bool:
    """Whether a file of that name should hold an image, in either case of the suffix."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def decode(path: str) -> Image.Image:
    """The image of a file, RGB with 8 bits a channel, turned as its EXIF or XMP says.

    Alpha is dropped, grey and palette colours become RGB. 16 bits are divided by 257, so that their full range is that of 8
    bits. Not read are integers and floats of 32 bits, and signed ones, whose white is unknown; 16-bit images whose values
    would span less than ``MIN_LEVELS`` levels but for a few; several frames, except those that a camera adds to a JPEG; more
    than ``MAX_PIXELS`` pixels, or ``MAX_SIDE`` on a side, which is known before they are decoded.

    Raises :class:`CorruptImage` that names the file.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for ever
            raise _Refused("it is not a regular file.")
        if not found.st_size:
            raise _Refused("it is empty (0 bytes). Restore the file or drop it.")
        with Image.open(path, formats=tuple(FORMATS)) as image:
            _refuse(image)
            deep = _has_16_bits(image)
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image, deep)
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        if out_of_memory(error):
            raise
        raise CorruptImage(f"{path} cannot be read as an image: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit lies higher, and is looked at first
        return f"it has more than {MAX_PIXELS:,} pixels. Shrink the image or drop it."
    if isinstance(error, UnidentifiedImageError):
        return (
            f"its format is none of {', '.join(FORMATS)}, or of a kind of these that Pillow does not read. Restore "
            "the file, save it as PNG with 8 bits, or drop it."
        )
    return f"{str(error) or type(error).__name__}. Restore the file or drop it."


def _refuse(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _Refused(
            f"it is {width:,} pixels wide and {height:,} high; more than {MAX_PIXELS:,} in all, or {MAX_SIDE:,} on a side, are "
            "not read. Shrink the image or drop it."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise _Refused(f"it holds {frames} frames. Save the frame that counts as a separate file.")
    if image.format == "TIFF":
        if max(_tag(image, "BitsPerSample")) > 8 and _tag(image, "PlanarConfiguration") == (2,):
            raise _Refused(f"its colours lie in planes of more than 8 bits, which Pillow misreads. {_SCALE}")
        if 2 in _tag(image, "SampleFormat") and max(_tag(image, "BitsPerSample")) < 32:
            raise _Refused(f"its values are signed integers, whose black and white are not known. {_SCALE}")


def _tag(image: Image.Image, name: str) -> tuple[int, ...]:
    """What a TIFF says under ``name``, or the default of its standard."""
    value = image.tag_v2.get(TIFF_TAGS[name], 1)  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) else (value,)


def _has_16_bits(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has 16 bits a channel in its file; some are cut to 8 bits when loaded."""
    if image.mode.startswith("I;16"):
        return True
    if image.mode == "I":
        return image.format in ("PNG", "PPM")  # which have no more
    return image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _rgb(image: Image.Image, deep: bool) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and not deep):
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise _Refused(f"its values are {kind}, whose black and white are not known. {_SCALE}")
    if deep and image.mode.startswith("I"):
        levels = np.rint(np.asarray(image) / 257).astype(np.uint8)
        # Pillow turns only grey of 8 bits around whose 0 is white
        inverted = image.format == "TIFF" and _tag(image, "Photometric") == (0,)
        image = Image.fromarray(255 - levels if inverted else levels)
    if image.mode == "P" and not (image.palette and image.palette.palette):
        raise _Refused("its palette is missing. Restore the file or drop it.")
    image.info.pop("transparency", None)  # Pillow would warn of what it drops
    if image.mode in ("RGBa", "La", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    colours = image.convert("RGB")
    if deep:
        values = np.asarray(colours)
        darkest, brightest = np.percentile(values, [BROKEN_SHARE, 100 - BROKEN_SHARE], method="nearest")
        span = int(brightest) - int(darkest) + 1
        if span < MIN_LEVELS:
            raise _Refused(f"as 8 bits its 16-bit values would fill {span} of 256 levels. {_SCALE}")
    return colours


_SCALE = "Scale the values of all images alike to 0..255 and save them with 8 bits."
