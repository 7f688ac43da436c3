"""Decoding of image files into upright 8-bit RGB images; the only module that opens images."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reidx.data.address import Box, parse_address, shown
from reidx.errors import DataError, out_of_memory

FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Supported formats, recognised by content, and the file suffixes of each."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 1 << 26
MAX_SIDE = 65_535
MIN_LEVELS = 32
"""Minimum number of the 256 levels that a 16-bit image must span; unscaled 12-bit camera data spans only 16."""
BROKEN_SHARE = 0.5
"""Percentage of values ignored at either end of that span, because sensors have stuck black or white pixels."""
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)
"""The tag in EXIF, and its values for an image whose rows and columns are exchanged."""
TIFF_TAGS = {"BitsPerSample": 258, "Photometric": 262, "PlanarConfiguration": 284, "SampleFormat": 339}


class CorruptImage(DataError):
    """An image file that cannot be read; the message gives its name and the reason.

    A DataLoader re-raises a worker's exception by constructing it from the formatted traceback; only the message is
    kept from that text.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{__name__}.CorruptImage: ")[2].strip())


class _Refused(Exception):
    """The fault of an image that a decoder would accept, and its remedy."""


def is_image(name: str) -> bool:
    """Return True if the file name has an image suffix, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def decode(address: str) -> Image.Image:
    """Decode an image file to RGB with 8 bits per channel, rotated upright according to its EXIF or XMP, or a crop of it.

    ``address`` is the path of a file, or that of a crop (:mod:`reidx.data.address`), whose box must lie inside the image.

    Alpha is dropped; grey and palette images become RGB. 16-bit values are divided by 257, which maps their full range to
    that of 8 bits. Rejected are 32-bit integer, floating-point and signed images, whose white level is unknown; 16-bit
    images whose values, apart from a few, span fewer than ``MIN_LEVELS`` levels; images of several frames, except the extra
    frames that cameras add to a JPEG; and images of more than ``MAX_PIXELS`` pixels or ``MAX_SIDE`` on a side, a size that
    is checked before decoding.

    Raises :class:`CorruptImage`, which names the file.
    """
    path, box = parse_address(address)
    with _opened(path, address) as image:
        deep = _has_16_bits(image)
        ImageOps.exif_transpose(image, in_place=True)
        whole = _rgb(image, deep)
        return whole if box is None else _crop(whole, box)


def convert(image: Image.Image, name: str) -> Image.Image:
    """Convert an opened image to upright RGB with 8 bits per channel, as :func:`decode` does; ``name`` is for the error."""
    with _errors_of(name):
        _refuse(image)
        deep, orientation = _has_16_bits(image), image.getexif().get(ORIENTATION, 1)
        own = image.copy()
        own.getexif()[ORIENTATION] = orientation
        ImageOps.exif_transpose(own, in_place=True)
        return _rgb(own, deep)


def size_of(path: str) -> tuple[int, int]:
    """The width and height of the upright image in a file, from its header; raises :class:`CorruptImage`."""
    with _opened(path, path) as image:
        lying = image.getexif().get(ORIENTATION) in LYING
        return (image.height, image.width) if lying else image.size


@contextlib.contextmanager
def _opened(path: str, address: str) -> Iterator[Image.Image]:
    """Open an image file; each error in the block becomes a :class:`CorruptImage` that names ``address``."""
    with _errors_of(address):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would block forever
            raise _Refused("it is not a regular file.")
        if not found.st_size:
            raise _Refused("it is empty (0 bytes). Restore the file or drop it.")
        with Image.open(path, formats=tuple(FORMATS)) as image:
            _refuse(image)
            yield image


@contextlib.contextmanager
def _errors_of(address: str) -> Iterator[None]:
    """Turn each error in the block into a :class:`CorruptImage` that names ``address``."""
    try:
        yield
    except Exception as error:  # decoders raise almost any exception on damaged data
        if out_of_memory(error):
            raise
        raise CorruptImage(f"{shown(address)} cannot be read as an image: {_reason(error)}") from error


def _crop(image: Image.Image, box: Box) -> Image.Image:
    if not box.lies_in(*image.size):
        raise _Refused(f"its box is not inside the image of {image.width} by {image.height} pixels. Correct or drop it.")
    return image.crop((box.x, box.y, box.x + box.width, box.y + box.height))


def _reason(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own higher limit is checked first
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
    """The value of the TIFF tag ``name``, or the default of the TIFF standard."""
    value = image.tag_v2.get(TIFF_TAGS[name], 1)  # type: ignore[attr-defined]
    return value if isinstance(value, tuple) else (value,)


def _has_16_bits(image: Image.Image) -> bool:
    """Return True if the file stores 16 bits per channel; call it before loading, which cuts some images to 8 bits."""
    if image.mode.startswith("I;16"):
        return True
    if image.mode == "I":
        return image.format in ("PNG", "PPM")  # neither format stores more than 16
    return image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _rgb(image: Image.Image, deep: bool) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and not deep):
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise _Refused(f"its values are {kind}, whose black and white are not known. {_SCALE}")
    if deep and image.mode.startswith("I"):
        levels = np.rint(np.asarray(image) / 257).astype(np.uint8)
        # Pillow inverts white-is-zero images only for 8-bit grey
        inverted = image.format == "TIFF" and _tag(image, "Photometric") == (0,)
        image = Image.fromarray(255 - levels if inverted else levels)
    if image.mode == "P" and not (image.palette and image.palette.palette):
        raise _Refused("its palette is missing. Restore the file or drop it.")
    image.info.pop("transparency", None)  # Pillow would warn that it drops this
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
