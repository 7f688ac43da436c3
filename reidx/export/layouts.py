"""The forms of an exported network, and the program that each is written for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.export.boxmot import write_description
from reidx.export.folder import write_folder
from reidx.export.onnx_file import open_onnx, require_onnx, write_onnx
from reidx.export.program import dynamic_program
from reidx.export.rescaled import IMAGENET, PLAIN, Normalisation, Rescaled, normalised
from reidx.export.roboflow import open_roboflow, write_roboflow
from reidx.inference import ReID

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """A form of an exported network.

    ``write`` makes the file or the folder, and ``open`` loads it as its reader does: a function of images (B,3,H,W) in 0..1.
    Both get the network, the place, and the normalisation of the images that the file takes, None for a folder.
    """

    name: str
    write: Callable[[ReID, Path, Normalisation], None]
    open: Callable[[ReID, Path, Normalisation], Embed]
    is_folder: bool = False


def layout_for(out: Path, program: str | None) -> Layout:
    """The layout for a program (``roboflow``, ``boxmot``), or else for the suffix of the file; a folder is reidx's own.

    Raises :class:`ConfigError` if program and suffix do not fit.
    """
    if program == "boxmot" and out.suffix != ".onnx":
        raise ConfigError(f"boxmot loads an ONNX file: name it {out.with_suffix('.onnx')}.")
    if program == "roboflow" and out.suffix in FILES:
        raise ConfigError(f"Roboflow's reid loads a folder, not a {out.suffix} file: give the name of a new folder.")
    if program is not None:
        return PROGRAMS[program]
    if out.suffix in (".pt", ".pth", ".safetensors", ".engine", ".xml"):
        raise ConfigError(f"{out}: a file is .onnx or .pt2; a name without a suffix is a folder.")
    return FILES.get(out.suffix, OWN)


def normalisation_for(layout: Layout, model: ReID, inside: bool) -> Normalisation:
    """The normalisation of the images that a file takes; with ``inside`` it takes images in 0..1."""
    if layout.name == "boxmot":
        return IMAGENET
    return PLAIN if inside else (model.mean, model.std)


def facts_of(model: ReID, given: Normalisation) -> dict[str, str]:
    """The facts in a file that tell a user how to call it."""
    return {
        "name": model.name,
        "digest": model.digest,
        "input": f"images (batch,3,{model.image_size[0]},{model.image_size[1]}): RGB in 0..1, minus mean, divided by std",
        "mean": json.dumps([float(value) for value in given[0]]),
        "std": json.dumps([float(value) for value in given[1]]),
        "interpolation": model.interpolation,
        "output": f"embeddings (batch,{model.dim}) of length 1",
    }


def _program(model: ReID, given: Normalisation) -> torch.export.ExportedProgram:
    own: Normalisation = (model.mean, model.std)
    same = [list(map(float, row)) for row in own] == [list(map(float, row)) for row in given]
    network: nn.Module = model.network if same else Rescaled(model.network, own, given)
    return dynamic_program(network.eval(), {"images": torch.rand(3, 3, *model.image_size)})


def _write_onnx(model: ReID, path: Path, given: Normalisation) -> None:
    require_onnx()
    write_onnx(_program(model, given), path, facts_of(model, given))


def _open_onnx(model: ReID, path: Path, given: Normalisation) -> Embed:
    run = open_onnx(path)
    return lambda images: run(normalised(images, given))


def _write_boxmot(model: ReID, path: Path, given: Normalisation) -> None:
    _write_onnx(model, path, given)
    write_description(model, path)


def _write_torch(model: ReID, path: Path, given: Normalisation) -> None:
    buffer = io.BytesIO()
    torch.export.save(_program(model, given), buffer, extra_files={"reidx.json": json.dumps(facts_of(model, given))})
    path.write_bytes(buffer.getvalue())


def _open_torch(model: ReID, path: Path, given: Normalisation) -> Embed:
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        rows: Tensor = module(normalised(images, given))
        return rows

    return run


def _open_own(model: ReID, folder: Path, given: Normalisation) -> Embed:
    return ReID.load(folder, device="cpu").embed


OWN = Layout("reidx", lambda model, folder, given: write_folder(model, folder), _open_own, True)
FILES = {".onnx": Layout("onnx", _write_onnx, _open_onnx), ".pt2": Layout("torch", _write_torch, _open_torch)}
PROGRAMS = {
    "roboflow": Layout(
        "roboflow",
        lambda model, folder, given: write_roboflow(model, folder),
        lambda model, folder, given: open_roboflow(model, folder),
        True,
    ),
    "boxmot": Layout("boxmot", _write_boxmot, _open_onnx),
}
