"""Files named in a config, whose content is part of a run's provenance."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reidx.outline.source import file_digest
from reidx.registry import build as builder
from reidx.registry.constructor import is_file
from reidx.registry.registry import KINDS


def digests_of(data: Any) -> dict[str, str]:
    """SHA-256 of each file that a (part of a) resolved config names, by its path as written in the config.

    A value names a file if its argument is declared as :data:`~reidx.registry.constructor.FilePath`, or if it looks like a
    path, and if the file exists. The content of folders belongs to the data sets
    (:func:`reidx.data.fingerprint.fingerprint`).
    """
    digests: dict[str, str] = {}
    for path in _paths(data, ""):
        if path not in digests and (digest := digest_of(path)):
            digests[path] = digest
    return digests


def digest_of(path: str) -> str:
    """SHA-256 of the file at ``path``, ``~`` expanded; empty if it is not a readable regular file."""
    try:
        place = Path(path).expanduser()
        return file_digest(place) if stat.S_ISREG(place.stat().st_mode) else ""
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~ of an unknown user
        return ""


def by_content(data: Any, digests: Mapping[str, str]) -> Any:
    """Replace the path of each file in a part of a config by its digest."""
    if isinstance(data, Mapping):
        return {key: by_content(value, digests) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [by_content(value, digests) for value in data]
    return f"sha256 {digests[data]}" if isinstance(data, str) and data in digests else data


def _paths(data: Any, key: str, declared: frozenset[str] = frozenset()) -> Iterator[str]:
    if isinstance(data, Mapping):
        name = data.get("type")
        inner = _declared(name) if isinstance(name, str) else frozenset()
        for inside, value in data.items():
            yield from _paths(value, inside, inner)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _paths(value, key, declared)
    elif isinstance(data, str) and data and (key in declared or _reads_as_path(data)):
        yield data


def _reads_as_path(text: str) -> bool:
    return "\n" not in text and (os.sep in text or text.startswith("~") or bool(Path(text).suffix))


def _declared(name: str) -> frozenset[str]:
    """Keys that the components ``name``, of any kind, declare as file paths."""
    entries = [entry for kind in KINDS for entry in builder.registry().entries(kind) if entry.name == name]
    return frozenset(key for entry in entries for key, own in builder.signature_of(entry).items() if is_file(own.hint))
