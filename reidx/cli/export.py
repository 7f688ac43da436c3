"""Export a trained network: ONNX, a program of torch, a folder that ReID.load reads, or the form of another project."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, metavar="RUN", help="the folder of a run, a checkpoint in it, or another source of ReID.load"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="FILE.onnx, FILE.pt2 (torch.export), or the name of a new folder for ReID.load"
    )
    parser.add_argument(
        "--for",
        dest="program",
        choices=("roboflow", "boxmot"),
        help="write the form of another project instead: a folder for Roboflow's `reid`, or an .onnx file for boxmot",
    )
    parser.add_argument("--normalise", action="store_true", help="the file takes RGB images in 0..1 and normalises them itself")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images for the comparison (default: generated ones)")
    parser.add_argument(
        "--checkpoint", default="last", metavar="NAME", help="a checkpoint of the run (default: last), e.g. 1-adapt/epoch_4.pth"
    )
    parser.add_argument("--licence", type=Path, metavar="FILE", help="text of the licence of the weights, copied into a folder")


def run(arguments: argparse.Namespace) -> int:
    from reidx.export.layouts import layout_for
    from reidx.export.write import export
    from reidx.inference import ReID

    layout_for(arguments.out, arguments.program)  # a wrong name is refused before the network is read
    model = ReID.load(arguments.source, checkpoint=arguments.checkpoint, device="cpu", precision="fp32")
    parity = export(
        model,
        arguments.out,
        arguments.program,
        normalise=arguments.normalise,
        images=arguments.images,
        licence=arguments.licence,
        source=arguments.source if arguments.checkpoint == "last" else Path(),  # the results are those of the last
    )
    print(f"{arguments.out}: {model.dim} numbers for an image of {'x'.join(map(str, model.image_size))}")
    print(f"Compared with the original on\n{parity}.")
    if arguments.images is None:
        print("The images were generated; --images FOLDER compares on yours.")
    return 0
