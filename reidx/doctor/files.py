"""Examination of image files: presence, digest of the content, decoding, size in pixels."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from reidx.data.address import parse_address
from reidx.data.decode import CorruptImage, decode
from reidx.machine.threads import available_cores


@dataclass(frozen=True)
class ImageFile:
    """An examined image: digest of its bytes, (height, width) in pixels (None if not decoded), its fault (empty: none).

    The digest of a crop is that of its file and its box.
    """

    digest: str = ""
    size: tuple[int, int] | None = None
    fault: str = ""


def examine_files(
    paths: Sequence[str], decoded: bool = True, progress: Callable[[int, int], None] | None = None
) -> dict[str, ImageFile]:
    """Examine the image at each distinct address, on all cores; without ``decoded``, only presence and content.

    ``progress(done, total)`` counts files.
    """
    distinct = list(dict.fromkeys(paths))
    found = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        try:
            for path, file in zip(distinct, pool.map(partial(_examine, decoded=decoded), distinct)):
                found[path] = file
                if progress is not None:
                    progress(len(found), len(distinct))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def _examine(address: str, decoded: bool) -> ImageFile:
    path, box = parse_address(address)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block forever
            return ImageFile(fault="it is not a regular file")
        with open(path, "rb") as file:
            content = file.read()
        if not content:
            return ImageFile(fault="it is empty (0 bytes)")
    except OSError as error:
        return ImageFile(fault=f"it cannot be read: {error.strerror}")
    digest = hashlib.blake2b(content + repr(box).encode(), digest_size=16).hexdigest()
    if not decoded:
        return ImageFile(digest)
    try:
        width, height = decode(address).size
    except CorruptImage as error:
        return ImageFile(digest, fault=str(error).partition(" cannot be read as an image: ")[2] or str(error))
    return ImageFile(digest, (height, width))
