"""Decode and resize all images once, for all runs that share a folder: reidx train CONFIG --share DIR.

A run with the same size and interpolation maps the packed images into memory; every image equals the decoded one bit for bit.
The packs are in DIR/packs. A pack of other images, of another size or interpolation, or of another version of the decoder is
not used, and the run prints the reason.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from reidx.cli.data.progress import progress_bar
from reidx.cli.data.source import add_source_arguments
from reidx.errors import excerpt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder that the runs share")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="height and width in pixels (default: the config's, or 256x128)"
    )
    parser.add_argument(
        "--interpolation", choices=("bilinear", "bicubic"), help="filter of the resizing (default: the config's, or bicubic)"
    )


def run(arguments: argparse.Namespace) -> int:
    from reidx.data.packs import SPLITS, write_pack
    from reidx.doctor.sources import data_sets_of, image_settings

    found = data_sets_of(arguments.config, arguments.name, arguments.overrides)
    size, interpolation = image_settings(arguments.config, arguments.overrides)
    size, interpolation = arguments.size or size, arguments.interpolation or interpolation
    for domain, data in found.items():
        with progress_bar(f"packing {domain}") as progress:
            folder = write_pack(data, arguments.out / "packs", domain, size, interpolation, progress)
        counts = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in SPLITS if len(getattr(data, split)))
        taken = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
        print(f"{folder}: {counts} images of {size[0]}x{size[1]}, {taken:.2f} GB")
    print(f"use them with: reidx train CONFIG --share {arguments.out}")
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{excerpt(repr(text), 40)} is not a height and a width, such as 256x128")
    return int(match[1]), int(match[2])
