"""The files that a config names: their content decides numbers, so it is part of what a run's numbers come from."""

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
    """The SHA-256 of each file that (a part of) a resolved config names, by its path as it is written there.

    Those are all paths of files that are there: those given to arguments that their component declares as
    :data:`~reidx.registry.constructor.FilePath`, and every other value that reads as a path and is one of a file.
    What lies in folders belongs to the data sets (:func:`reidx.data.fingerprint.fingerprint`).
    """
    digests: dict[str, str] = {}
    for path in _paths(data, ""):
        if path not in digests and (digest := digest_of(path)):
            digests[path] = digest
    return digests


def digest_of(path: str) -> str:
    """The SHA-256 of the file at ``path``, ``~`` expanded; empty where there is no regular file that can be read."""
    try:
        place = Path(path).expanduser()
        return file_digest(place) if stat.S_ISREG(place.stat().st_mode) else ""
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~ of nobody
        return ""


def by_content(data: Any, digests: Mapping[str, str]) -> Any:
    """The part of a config with the digest of each file in place of its path."""
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
    """The keys that components called ``name``, of whatever kind, declare as paths of files."""
    entries = [entry for kind in KINDS for entry in builder.registry().entries(kind) if entry.name == name]
    return frozenset(key for entry in entries for key, own in builder.signature_of(entry).items() if is_file(own.hint))
