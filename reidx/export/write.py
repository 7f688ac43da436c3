"""Export of a network: write it, compare it with the original, and only then give it its name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from reidx.errors import ConfigError, DataError, ReidxError
from reidx.export.card import card_of
from reidx.export.layouts import layout_for, normalisation_for
from reidx.export.parity import Parity, compare, refuse_unequal
from reidx.inference import ReID
from reidx.inference.pictures import Pictures

CHECKED = 64
"""Number of images on which an export is usually compared with the original."""


def export(
    model: ReID,
    out: Path,
    program: str | None = None,
    *,
    normalise: bool = False,
    images: Path | None = None,
    count: int = CHECKED,
    licence: Path | None = None,
    source: Path = Path(),
) -> Parity:
    """Write ``model`` to ``out`` and return its agreement with the original on ``count`` of the ``images`` in a folder.

    The suffix of ``out`` chooses the form: ``.onnx``, ``.pt2``, or a folder; ``program`` is ``roboflow`` or ``boxmot``. With
    ``normalise`` a file takes images in 0..1. Without ``images``, generated ones are compared. ``licence`` is a text that is
    copied into a folder; ``source`` is the run whose results its card states.

    Raises :class:`ReidxError`, and leaves nothing, if ``out`` exists, the form cannot express the network, or its embeddings
    or rankings differ.
    """
    layout = layout_for(out, program)
    if normalise and (layout.is_folder or program):
        raise ConfigError("--normalise belongs to an .onnx or .pt2 file: the other forms have their own normalisation.")
    if licence is not None and not layout.is_folder:
        raise ConfigError(f"--licence is copied into a folder; put {licence.name} next to {out.name} yourself.")
    text = "" if licence is None else _text_of(licence)
    given = normalisation_for(layout, model, normalise)
    batch = _images(model, images, count)
    original = model.embed(batch)
    with _finished(out) as place:
        if layout.is_folder:
            place.mkdir()
        layout.write(model, place, given)
        parity = compare(layout.open(model, place, given), original, batch)
        refuse_unequal(parity)
        if layout.is_folder:
            named = "LICENSE" if text else ""
            if text:
                (place / named).write_text(text, encoding="utf-8")
            card = card_of(model, layout, out.name, source, parity, named)
            (place / "README.md").write_text(card, encoding="utf-8")
    return parity


def _text_of(licence: Path) -> str:
    try:
        return licence.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"--licence {licence} cannot be read: {why}. Give a text file.") from error


def _images(model: ReID, folder: Path | None, count: int) -> Tensor:
    """Up to ``count`` images (N,3,H,W) in 0..1: of a folder, spread over its sorted paths, or coloured noise."""
    if folder is None:
        random = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 3, 8, 4, generator=random)
        smooth = torch.nn.functional.interpolate(coarse, size=model.image_size, mode="bilinear", align_corners=False)
        return (0.8 * smooth + 0.2 * torch.rand(smooth.shape, generator=random)).clamp(0, 1)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Give a folder of images.")
    paths = Pictures(folder, model.image_size, model.interpolation).names
    if len(paths) < 2:
        raise DataError(f"{folder} has one image; a ranking needs at least two.")
    chosen = [paths[int(number)] for number in torch.linspace(0, len(paths) - 1, min(count, len(paths)))]
    pictures = Pictures(chosen, model.image_size, model.interpolation)
    return torch.cat([batch for _, batch in pictures.batches(count)]).float() / 255


@contextlib.contextmanager
def _finished(out: Path) -> Iterator[Path]:
    """Context with a path in a temporary folder; on success, all that was written there moves next to ``out``."""
    if os.path.lexists(out):
        raise ConfigError(f"{out} already exists; nothing was written. Give another name, or delete it.")
    partial = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial / out.name
        made = sorted(partial.iterdir(), key=lambda path: path.name == out.name)  # `out` itself last
        if taken := [path.name for path in made if os.path.lexists(out.parent / path.name)]:
            raise ConfigError(f"{out.parent / taken[0]} already exists; nothing was written. Delete it, or give another name.")
        for path in made:
            os.replace(path, out.parent / path.name)
    except OSError as error:
        raise ReidxError(f"{out} cannot be written: {error.strerror or error}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
