"""Draw pictures of a data set: a contact sheet, the images of each identity under each camera, the sizes of the images.

Each split gets a folder with sheet.png, cameras.png and sizes.png; for a config, each domain has a folder of splits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.data.source import add_source_arguments
from reidx.cli.parser import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--identities", type=whole_number(1, 200), default=10, metavar="N", help="identities on a contact sheet (default: 10)"
    )


def run(arguments: argparse.Namespace) -> int:
    from reidx.doctor.pictures import draw_pictures
    from reidx.doctor.recognition import SPLITS
    from reidx.doctor.sources import data_sets_of

    found = data_sets_of(arguments.config, arguments.name, arguments.overrides)
    for domain, data in found.items():
        folder = arguments.out / domain if len(found) > 1 else arguments.out
        for name in SPLITS:
            if len(split := getattr(data, name)):
                for path in draw_pictures(split, data.camera_name, folder / name, arguments.identities):
                    print(path)
    return 0
