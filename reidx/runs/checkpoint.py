"""Checkpoints: written atomically, read without running code, verified by checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reidx import distributed
from reidx.errors import CheckpointError, RunError
from reidx.models.domain_norm import for_each_domain
from reidx.models.network import Network
from reidx.models.weight_files import load_tensors, refuse_unusable, size_of, verify_checksum
from reidx.outline.source import file_digest as digest
from reidx.runs.failures import GONE

KEEP = 2
"""Number of checkpoints kept per stage, the newest."""

UNREADABLE = "is not a readable checkpoint{why}. It is damaged, or holds pickled objects, which are not loaded."

_NAME = re.compile(r"epoch_(\d+)\.pth")


def write_atomically(path: Path, write: Callable[[Path], object], then: str = "continue with --resume") -> None:
    """Write a file atomically: ``write`` fills a temporary file in the same folder, which is synced and renamed to ``path``.

    A reader sees either the old file or the new one. The folder must exist: a folder that was deleted or unmounted during
    a run is not recreated, since it might end up on another disk. Raises :class:`RunError` if the folder is gone, the disk is
    full, or the system refuses the write; the earlier file stays, and the message ends with the way to continue, ``then``.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError as error:
        if not path.parent.is_dir():
            raise RunError(f"{path} cannot be written: {GONE}") from error
        kept = f"The earlier {path.name} is untouched." if path.exists() else "No partial file was left behind."
        why, remedy = _why(path.parent, error), _remedy(error)
        raise RunError(f"{path} cannot be written: {why}. {kept} {remedy} and {then}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _why(folder: Path, error: OSError) -> str:
    """Describe a write error, with the free space of ``folder`` if space is the cause."""
    reason = str(error.strerror or error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return reason
    if error.errno == errno.ENOSPC and os.statvfs(folder).f_favail == 0 < os.statvfs(folder).f_files:
        return f"{reason} (the file system has no free inodes)"
    return f"{reason} ({shutil.disk_usage(folder).free / 1e6:,.1f} MB are free in {folder})"


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space"
    if error.errno == errno.EFBIG:
        return "Allow larger files (ulimit -f)"
    if error.errno == errno.EROFS:
        return "Remount the file system read-write"
    return "Make the folder writable" if error.errno in (errno.EACCES, errno.EPERM) else "Fix the cause"


class _File(io.BufferedWriter):
    """A file that keeps its first write error, because torch's writer raises a RuntimeError without the cause."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.refused: OSError | None = None

    def __str__(self) -> str:
        return str(self.name)

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.refused = self.refused or error
            raise


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Save with ``torch.save``; raises the system's :class:`OSError` where torch raises an unspecific RuntimeError."""
    file = _File(path)
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if file.refused is None:
            raise
        raise file.refused from error
    finally:
        try:
            file.close()
        except OSError:  # flushing the rest of the buffer fails too
            if file.refused is None:
                raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, on the first process only."""
    if distributed.rank() > 0:
        return
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def digest_of(states: Iterable[Mapping[str, Tensor]]) -> str:
    """SHA-256, in hex, over the names and bytes of tensors."""
    sha = hashlib.sha256()
    for state in states:
        for name, tensor in state.items():
            sha.update(name.encode())
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint and its checksum, then delete all but the newest :data:`KEEP` of the folder.

    The checksum is written first, so that the appearance of the checkpoint commits it.
    """

    def write(partial: Path) -> None:
        save_tensors(checkpoint, partial)
        write_text(path.with_suffix(".sha256"), digest(partial))

    write_atomically(path, write)
    for _, old in _numbered(path.parent)[:-KEEP]:
        with contextlib.suppress(OSError):
            old.unlink()
            old.with_suffix(".sha256").unlink(missing_ok=True)


def load(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint of plain data and tensors; code is never executed.

    Raises :class:`CheckpointError` if the file is missing, damaged, or contains other objects.
    """
    return load_tensors(path, map_location=map_location, unreadable=UNREADABLE)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    found = ((_NAME.fullmatch(p.name), p) for p in folder.glob("epoch_*.pth"))
    return sorted((int(match[1]), p) for match, p in found if match)


def numbered(folder: Path) -> list[Path]:
    """Checkpoints in a stage's folder, oldest first, complete or not."""
    return [path for _, path in _numbered(folder)]


def newest(folder: Path) -> Path | None:
    """Newest complete checkpoint in a stage's folder, or None; those with a wrong checksum are skipped."""
    return next((path for path in reversed(numbered(folder)) if is_complete(path)), None)


def is_complete(path: Path) -> bool:
    """Return true if a file matches the checksum written with it."""
    with contextlib.suppress(OSError):
        return checksum_of(path) == digest(path)
    return False


def checksum_of(path: Path) -> str | None:
    """The checksum written with a checkpoint, or None."""
    with contextlib.suppress(OSError):
        return path.with_suffix(".sha256").read_bytes().strip().decode(errors="replace")
    return None


def to_resume_from(folder: Path, message: Callable[[str], None]) -> Path | None:
    """Newest complete checkpoint in a stage's folder, or None if there are no checkpoints.

    Reports damaged checkpoints through ``message``. Raises :class:`CheckpointError` if checkpoints exist but none is complete,
    because only the user can decide to train the stage from its start.
    """
    there, found = numbered(folder), newest(folder)
    damaged = [path.name for path in there if found is None or there.index(path) > there.index(found)]
    if not damaged:
        return found
    names = f"{' and '.join(damaged)} in {folder}"
    if found is None:
        raise CheckpointError(
            f"{names}: damaged, or missing their checksums, and there is no other checkpoint. Restore one of them, or delete "
            "them to train the stage from its start."
        )
    message(f"{names}: damaged, or missing its checksum; continuing from {found.name}")
    return found


def not_finite(state: Mapping[str, Any], parameters: Collection[str] = ()) -> list[str]:
    """Names of the tensors that contain NaN, or infinity if they are among ``parameters``.

    Buffers may contain infinities (masks do).
    """
    found = []
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            bad = ~torch.isfinite(value) if name in parameters else torch.isnan(value)
            if bool(bad.any()):
                found.append(name)
    return found


def strip_prefix(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Entries whose key starts with ``prefix``, with the prefix removed."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def image_size_of(checkpoint: Any) -> tuple[int, int] | None:
    """Height and width of the images that a checkpoint was trained on, or None if it has no record of them."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    size = meta.get("image_size") if isinstance(meta, Mapping) else None
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


def load_weights(
    network: Network, path: str | Path, name: str = "student", whole: bool = False
) -> None:
    """Load the weights of network ``name`` (backbone and fusion) from a checkpoint of a stage into ``network``.

    The backbone must match exactly. Weights of the fusion may be missing or superfluous, because a later stage may have
    another head, unless ``whole`` is set. Position embeddings are resampled from the checkpoint's image size to the
    network's. Raises :class:`CheckpointError` with a list of all mismatches.
    """
    path = Path(path).expanduser()
    content = load_tensors(path, size_of(network), unreadable=UNREADABLE)
    verify_checksum(path)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    named = {str(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    weights = {k: v for k, v in strip_prefix(named, f"networks.{name}.").items() if isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f"{path} is not a checkpoint of a stage: it has no networks.{name}.* weights.")
    refuse_unusable(weights, path, dict(network.named_buffers()))
    weights = network.refit(for_each_domain(network, weights), image_size_of(content), str(path))
    must = "" if whole else "backbone."
    own = network.state_dict()
    shapes = [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    shapes += [
        f"{key}: {weights[key].dtype} in the file, {own[key].dtype} in the model"
        for key in own
        if key in weights and weights[key].is_floating_point() != own[key].is_floating_point()
    ]
    missing = [key for key in own if key not in weights and key.startswith(must)]
    unknown = [key for key in weights if key not in own and key.startswith(must)]
    problems = shapes + [f"{k}: missing" for k in missing] + [f"{k}: not in the model" for k in unknown]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(problems[:5])}{more}.")
    network.load_state_dict({**own, **{k: v for k, v in weights.items() if k in own}})
