"""Addresses of images: the path of a file, or the path with the box of a crop, ``PATH#xywh=X,Y,W,H``.

The form is that of the W3C's Media Fragments. A crop has an address of its file's and its own, so lists of paths, caches and
fingerprints tell two crops of one file apart.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_CROP = re.compile(r"(.+)#xywh=(\d+),(\d+),(\d+),(\d+)", re.ASCII | re.DOTALL)


class Box(NamedTuple):
    """A rectangle in pixels of the upright image: its left and upper edge, its width and height."""

    x: int
    y: int
    width: int
    height: int

    def lies_in(self, width: int, height: int) -> bool:
        """Return True if the box has an area, all of it inside an image of that size."""
        return 0 < self.width <= width - self.x and 0 < self.height <= height - self.y


def address_of(path: str, box: Box) -> str:
    """The address of a crop of the file at ``path``."""
    return f"{path}#xywh={box.x},{box.y},{box.width},{box.height}"


def shown(address: str) -> str:
    """An address for a message: unchanged, or quoted with escapes if it is not printable, such as one with a line break."""
    return address if address.isprintable() else repr(address)


def parse_address(address: str) -> tuple[str, Box | None]:
    """The path of an image's file, and the box of a crop of it, or None for the whole image."""
    match = _CROP.fullmatch(address)
    return (address, None) if match is None else (match[1], Box(*map(int, match.groups()[1:])))


def as_unicode(text: str) -> str:
    r"""Return the text with the bytes that are not UTF-8, in names of files, as escapes: ``caf\xe9``.

    Formats that hold Unicode alone (Parquet, HTML) cannot hold such a name.
    """
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
