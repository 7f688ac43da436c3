"""Safe loading of tensor files of any origin: type, size and integrity are checked before the content is loaded."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reidx.errors import CheckpointError, out_of_memory
from reidx.machine.free_memory import free_memory
from reidx.models.numpy_numbers import numpy_numbers_allowed
from reidx.outline.source import file_digest

UNREADABLE = (
    "could not be read as a file of weights{why}: it is damaged, of another format, or holds more than plain tensors. "
    "`reidx convert FILE OUT.safetensors` says which, and with --trust re-saves a file with other Python objects."
)

ROOM = 1 << 30
"""Unpacked size in bytes that is always accepted; a larger compressed file is compared with its network."""

TIMES = 8
"""Maximum unpacked size in multiples of the network: weights of several networks, moments, memories."""

REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)

_HEX = re.compile(r"\\?([0-9a-fA-F]{64})(?:[ \t]+[ *]?(.+))?")


def load_tensors(
    path: str | Path,
    network_bytes: int = 0,
    map_location: Any = "cpu",
    unreadable: str = UNREADABLE,
    lazily: bool = False,
) -> Any:
    """The content of a ``.safetensors`` file, or of a PyTorch file, read without running code.

    ``network_bytes`` is the size of the network that the file is for, if known; ``unreadable`` is the message for a damaged
    file. With ``lazily``, tensor data is read from the disk on first access.

    Raises:
        CheckpointError: the file is missing or no regular file, needs more memory than is free or than any
            weights of that network could, is damaged, or holds more than plain data.
    """
    path = Path(os.path.expanduser(path))
    size = _size_of_regular(path)
    unpacked = _unpacked(path, size)
    if unpacked > free_memory():
        raise CheckpointError(f"{path} holds {_gb(unpacked)}, but {_gb(free_memory())} of memory are free.")
    if unpacked > 2 * size and unpacked > ROOM + TIMES * network_bytes:
        raise CheckpointError(
            f"{path} takes {_gb(size)} on the disk and unpacks to {_gb(unpacked)}, more than weights of this network need. "
            "It is not loaded. Save the weights again with torch.save, which does not compress."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with numpy_numbers_allowed():
            return torch.load(path, map_location=map_location, mmap=lazily and unpacked <= size, weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own kind, torch's with bad advice
        if out_of_memory(error) and not _asks_for_more(error, unpacked):
            raise
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise CheckpointError(f"{path} {unreadable.format(why=why)}") from error


def verify_checksum(path: Path) -> None:
    """Verify a file against the SHA-256 file next to it, if any: ``NAME.sha256`` or ``NAME.EXT.sha256``.

    Both the bare number and the lines of ``sha256sum`` are understood; lines about other files are ignored.
    Raises :class:`CheckpointError` if the checksum differs or cannot be read.
    """
    for checksum_file in (path.with_name(f"{path.name}.sha256"), path.with_suffix(".sha256")):
        if checksum_file == path or not checksum_file.is_file():
            continue
        try:
            lines = [line.strip() for line in checksum_file.read_text(encoding="utf-8").splitlines() if line.strip()]
            found = [match for match in map(_HEX.fullmatch, lines) if match is not None]
            if len(found) < max(1, len(lines)):
                raise ValueError("it holds no SHA-256")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no SHA-256"
            raise CheckpointError(
                f"{checksum_file}, the checksum of {path}, cannot be read ({why}). Restore it, or delete it if it belongs to "
                "another file."
            ) from error
        wanted = {match[1].lower() for match in found if match[2] is None or os.path.basename(match[2]) == path.name}
        if wanted and file_digest(path) not in wanted:
            raise CheckpointError(
                f"{path} does not match its checksum {checksum_file.name}: it is damaged or another file. Restore the "
                "file; if it was changed on purpose, delete or renew the checksum."
            )


def refuse_unusable(state: Mapping[str, Tensor], source: str | Path, buffers: Collection[str] = ()) -> None:
    """Raise :class:`CheckpointError` with the first names of tensors that cannot be weights, and why.

    Unusable are complex, sparse, quantised and nested tensors, those without data, and those of far more numbers than are
    stored; and NaN, or infinity in tensors other than ``buffers`` (masks).
    """
    for check in (_not_plain, lambda name, tensor: _not_finite(tensor, name in buffers)):
        faults = {name: why for name, tensor in state.items() if (why := check(name, tensor))}
        if faults:
            name, why = next(iter(faults.items()))
            more = f" (and {len(faults) - 1} more tensors)" if len(faults) > 1 else ""
            raise CheckpointError(f"weights: {source}: {name}{more} {why}. Training cannot start from such a file.")


def size_of(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of a module."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _not_plain(name: str, tensor: Tensor) -> str:
    if tensor.is_nested:
        return "is a nested tensor"
    if tensor.is_quantized or tensor.dtype not in (*REAL, *WHOLE):
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}; weights are plain real numbers"
    if tensor.layout is not torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')}); weights are saved dense"
    if tensor.device.type == "meta":
        return "has a shape but no data (device meta)"
    logical = tensor.numel() * tensor.element_size()
    if logical > max(ROOM, 2 * tensor.untyped_storage().nbytes()):
        return f"stands for {_gb(logical)} that the file does not hold"
    return ""


def _not_finite(tensor: Tensor, may_be_infinite: bool) -> str:
    if tensor.dtype not in REAL:
        return ""
    numbers = tensor.float()  # the precision of networks: doubles beyond its range count as infinite
    if bool(numbers.isnan().any()):
        return "holds NaN (not a number)"
    return "holds infinite numbers" if not may_be_infinite and bool(numbers.isinf().any()) else ""


def _size_of_regular(path: Path) -> int:
    """Bytes of a regular file."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) else ""
        raise CheckpointError(f"there is no file {path}{why}. Give the path of a .pth or .safetensors file.") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise CheckpointError(f"{path} is {what}. Give the path of a .pth or .safetensors file.")
    return status.st_size


def _unpacked(path: Path, size: int) -> int:
    """Bytes that a file needs in memory; for a zip, such as PyTorch's files, the sizes in its directory."""
    if size > free_memory():  # not even its directory is read
        return size
    try:
        with open(path, "rb") as handle:
            if handle.read(4) != b"PK\3\4":
                return size
            with zipfile.ZipFile(handle) as archive:
                return max(size, sum(entry.file_size for entry in archive.infolist()))
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):  # loading it raises the error
        return size


def _asks_for_more(error: BaseException, held: int) -> bool:
    """Return True if torch's allocator failed on more bytes than the file holds, a sign of a damaged file."""
    asked = re.search(r"allocate (\d+) bytes", str(error))
    return asked is not None and int(asked[1]) > 2 * held


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
