"""Convert a weight file to safetensors, and show its layout.

Names and values stay; `weights: OUT` in a config then works as `weights: FILE` would. Files that hold other Python objects
besides tensors, such as the options of the training, need --trust, because reading them runs the code that they name.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="weight file: .pth, .pth.tar, .bin, .pt, .safetensors")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="new file")
    parser.add_argument("--trust", action="store_true", help="run the code in FILE, in a separate process, to read its objects")
    parser.add_argument("--full", action="store_true", help="list all tensors that the layout takes and leaves out")


def run(arguments: argparse.Namespace) -> int:
    import yaml

    from reidx.errors import CheckpointError
    from reidx.models.convert import convert
    from reidx.models.key_maps import suggest_model, translate
    from reidx.models.key_maps.report import LoadReport

    source, out = arguments.file.expanduser(), arguments.out.expanduser()
    tensors = convert(source, out, arguments.trust)
    done = translate(tensors)
    taken, used = tuple(done.tensors), set(done.origins.values())
    report = LoadReport(str(out), tuple(done.maps), taken, tuple(name for name in tensors if name not in used))
    print(f"{source}: {len(tensors)} tensors, written to {out}")
    if not done.maps:
        print("No layout of `reidx list weights` recognises them; a network with the same names can load them.")
        return 0
    print(f"layout: {', '.join(done.maps)}")
    if arguments.full:
        print(report.full())
    try:
        print(yaml.safe_dump({"model": suggest_model(tensors, str(out))}, sort_keys=False, width=10_000), end="")
    except CheckpointError:
        print("Its network has no config here: state the backbone in `model`.")
    return 0
