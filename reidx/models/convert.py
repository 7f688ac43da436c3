"""Conversion of weight files to safetensors, also of files with other Python objects, whose code a separate process runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.numpy_numbers import numpy_numbers_allowed
from reidx.models.weight_files import load_tensors, refuse_unusable
from reidx.models.weights import named_tensors

SECONDS = 600
"""Time limit in seconds of the process that runs the code of a file."""

KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")
"""Environment variables that this process gets; those with keys and passwords are none of them."""


def convert(path: Path, out: Path, trust: bool = False) -> dict[str, Tensor]:
    """Write the named tensors of the weight file ``path`` to the safetensors file ``out``, and return them.

    Names and values stay, so the key maps recognise the new file as the old one. A file with other Python objects is read only
    if ``trust`` is true: unpickling runs the code that the file names.

    Raises :class:`CheckpointError` if the file cannot be read, holds other objects and is not trusted, or holds no tensors, or
    if ``out`` cannot be written.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} does not end in .safetensors. Give the new file that suffix.")
    objects = foreign_objects(path)
    if objects and not trust:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors ({objects}). To read them, Python runs the code that the file names, "
            "which may do anything with your account. If you trust its source, add --trust: a separate process then reads the "
            "file, and only the tensors are kept."
        )
    if objects:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.safetensors"
            _run_its_code(path.absolute(), plain)
            tensors = load_tensors(plain)
    else:
        tensors = named_tensors(load_tensors(path))
    if not tensors:
        raise CheckpointError(f"{path} holds no named tensors, so it is not a file of weights.")
    refuse_unusable(tensors, path)
    partial = out.with_name(f".{out.name}.partial")
    try:
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, partial)
        os.replace(partial, out)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{out} cannot be written: {error}. Choose an existing folder with enough space.") from error
    finally:
        partial.unlink(missing_ok=True)
    return tensors


def foreign_objects(path: Path) -> str:
    """Name the first Python object in a PyTorch file that is no tensor or plain value; empty for a file without any."""
    if path.suffix == ".safetensors" or not path.is_file():
        return ""
    try:
        with numpy_numbers_allowed():
            torch.load(path, map_location="meta", weights_only=True)
    except UnpicklingError as error:
        text = str(error)
        _, found, rest = text.partition("GLOBAL ")
        return rest.split()[0] if found and rest else "of a type that is not recorded"
    except Exception as error:
        # any other is a damaged file, for which load_tensors has a message
        return "a TorchScript program" if "TorchScript" in str(error) else ""
    return ""


def _run_its_code(path: Path, out: Path) -> None:
    """Read a file in a separate process, in its own folder and with few environment variables."""
    environment = {name: value for name, value in os.environ.items() if name in KEPT}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "", "HOME": str(out.parent)}
    command = [sys.executable, "-m", "reidx.models.unpickle", str(path), str(out)]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            cwd=out.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} could not be read within {SECONDS} seconds, also with --trust.") from None
    if done.returncode or not out.is_file():
        lines = (done.stderr or "").strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
        raise CheckpointError(f"{path} could not be read, also with --trust: {lines[0][:400]}")
