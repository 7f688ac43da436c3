"""The folder of an index: one generation of files, and a manifest whose replacement commits the next generation.

``index.json`` names the current generation, a folder ``generation_N``, with the size and the SHA-256 of each of its files. A
change writes the next generation completely, syncs it, replaces the manifest in one step, and then deletes the earlier
generation. A process killed at any moment therefore leaves the index before the change or after it; the next change deletes
files that were left over. One process changes an index at a time; readers need no lock, and a reader that has mapped the
earlier files keeps them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reidx.errors import ConfigError, DataError, RunError
from reidx.outline.source import file_digest
from reidx.runs.checkpoint import write_atomically
from reidx.runs.lock import LOCK, InUse, locked

MANIFEST = "index.json"
FORMAT = 1
"""Format version of an index's files."""

VERIFIED = 64 << 20
"""Bytes of a file up to which its checksum is compared whenever the index is opened; of larger files only the size is."""

_GENERATION = "generation_"
_REMEDY = "Build the index again, or restore its folder."


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Context manager that keeps other processes from changing the index; raises :class:`InUse` while one does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK))
        except InUse as error:
            raise InUse(f"{folder} is being changed ({error.holder}). Wait for it to end.", error.holder) from None
        yield


def is_index(folder: Path) -> bool:
    """Return True if the folder has the manifest of an index."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest; raises :class:`DataError` if there is none, or it is damaged or of another version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DataError(f"There is no index {folder}. Build one: reidx index build {folder} IMAGES --weights RUN")
    if not path.is_file():
        raise DataError(f"{folder} is no index: it has no {MANIFEST}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        checksum = found.pop("checksum", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is damaged. {_REMEDY}") from error
    if found.get("format") != FORMAT:
        raise DataError(f"{path} is of format {found.get('format')}; this reidx reads format {FORMAT}. Build the index again.")
    if checksum != _checksum(found):
        raise DataError(f"{path} is damaged: its checksum differs. {_REMEDY}")
    return dict(found)


def files_of(folder: Path, manifest: dict[str, Any]) -> Path:
    """Return the folder of the current generation."""
    return folder / f"{_GENERATION}{manifest['generation']}"


def verify(folder: Path, manifest: dict[str, Any], whole: bool = False) -> None:
    """Compare the files with the manifest: sizes, and the checksums of small files, or of all (``whole``).

    Raises :class:`DataError`, which names the first file that is missing, truncated or changed.
    """
    place = files_of(folder, manifest)
    for name, facts in manifest["files"].items():
        path = place / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} of the index is missing or cannot be read. {_REMEDY}") from error
        if size != facts["bytes"]:
            raise DataError(f"{path} is truncated or changed: it has {size:,} bytes instead of {facts['bytes']:,}. {_REMEDY}")
        if (whole or size <= VERIFIED) and file_digest(path) != facts["sha256"]:
            raise DataError(f"{path} is corrupt: its checksum differs. {_REMEDY}")


def commit(folder: Path, before: dict[str, Any] | None, facts: dict[str, Any], write: Callable[[Path], None]) -> dict[str, Any]:
    """Write the next generation by ``write`` (which gets its folder) and commit it; returns its manifest.

    ``before`` is the present manifest, None for a new index; ``facts`` are the other entries of the new one. Raises
    :class:`RunError` if the disk is full or refuses the write; the index then is unchanged.
    """
    number = 1 if before is None else before["generation"] + 1
    _delete_all_but(folder, None if before is None else before["generation"])
    place = folder / f"{_GENERATION}{number}"
    try:
        place.mkdir()
        write(place)
        files = {path.name: _settled(path) for path in sorted(place.iterdir())}
        _sync(place)
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        kept = "The index is unchanged." if before is not None else "Nothing was left behind."
        raise RunError(f"{folder} cannot be written: {error.strerror or error}. {kept}") from error
    manifest = {"format": FORMAT, "generation": number, **facts, "files": files}
    text = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1)
    write_atomically(folder / MANIFEST, lambda partial: partial.write_text(text, encoding="utf-8"), "run it again")
    _sync(folder)
    _delete_all_but(folder, number)
    return manifest


def refuse_other_contents(folder: Path) -> None:
    """Raise :class:`ConfigError` if the folder for a new index has anything in it but what a killed build left."""
    if is_index(folder):
        raise ConfigError(f"{folder} is an index already. Add to it, or name another folder, or delete it first.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; an index is a folder.")
    names = folder.iterdir() if folder.exists() else ()
    if others := [path.name for path in names if path.name != LOCK and not _is_generation(path)]:
        raise ConfigError(f"{folder} has other files in it ({sorted(others)[0]}); name a new folder for the index.")


def _settled(path: Path) -> dict[str, Any]:
    """Sync a file to the disk and return its size and checksum."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_generation(path: Path) -> bool:
    return re.fullmatch(rf"{_GENERATION}\d+", path.name) is not None


def _delete_all_but(folder: Path, number: int | None) -> None:
    for path in folder.iterdir():
        if _is_generation(path) and path.name != f"{_GENERATION}{number}":
            shutil.rmtree(path, ignore_errors=True)


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
