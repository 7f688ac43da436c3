"""Signs of a good eps of DBSCAN that need no identities, for the labelling of a recipe's last stage.

Two networks label the images: the last two checkpoints of a stage, which differ by one epoch. "stability" is the adjusted Rand
index of the two labellings over the images that both cluster. Many clusters are a good sign: with a larger eps they merge, and
the stability falls. "ARI" is the agreement of the second labelling with the identities, to judge the signs on rendered domains.

python -m reidx train ca_jaccard::synthetic_small.yaml --work-dir runs/signs
python -m benchmarks.choose_eps ca_jaccard::synthetic_small.yaml runs/signs/1-pretrain \\
  --distance "{type: Jaccard, k1: 15, k2: 4}"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import reidx
from benchmarks.measured import machine
from reidx.config.config import Config
from reidx.contracts import named_inputs
from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.labels import DBSCAN
from reidx.labels.pipeline import label_statistics, quality
from reidx.registry.build import build
from reidx.reporting.reporter import Reporter


def features_of(config: Config, checkpoints: list[Path]) -> tuple[list[Tensor], Split]:
    """Return the features that the last stage labels, by the student of each checkpoint, and the split of the images."""
    from reidx.engine.precision import choose_precision
    from reidx.engine.stage import StageRun
    from reidx.runs.checkpoint import load_weights

    domains, number = Domains(config.data["data"]), len(config.experiment.stages) - 1
    stage = replace(config.experiment.stages[-1], init=None)
    (stage,) = choose_precision([stage]).apply([stage])
    run = StageRun(stage, number, 0, domains, Path("."), Path, Reporter("quiet"))
    labelling = next(iter(stage.labels.values()))
    found = []
    for checkpoint in checkpoints:
        load_weights(run.model.networks["student"], checkpoint, "student", whole=True)
        name, domain = labelling.feature, labelling.domain or ""
        found.append(run.extractor.features(domain, "train", "student", {name}, False, checkpoint.name)[name].float())
    return found, domains.split(labelling.domain or "", "train")


Signs = tuple[float, float, float, float, float, float]


def signs(features: list[Tensor], split: Split, distance: dict[str, Any], all_eps: Sequence[float]) -> Iterator[Signs]:
    """Yield eps, clusters, size of the largest, share of outliers, stability and ARI for each eps."""
    made = build("distance", distance)
    named = named_inputs(made, {"cameras": split.cameras, "within": max(all_eps)})
    graphs = [made(rows, **named) for rows in features]
    for eps in all_eps:
        before, labels = (DBSCAN(eps)(graph) for graph in graphs)
        found = label_statistics(labels, before)
        ari = quality(labels, split.ids)["ari"] if split.ids is not None else float("nan")
        yield eps, found["clusters"], found["largest"], found["outliers"] / len(labels), found["stability"], ari


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipe")
    options.add_argument("stage", type=Path, help="folder of a stage's checkpoints")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe")
    options.add_argument("--distance", action="append", default=[], help="another distance than the recipe's, as YAML")
    options.add_argument("--eps", type=float, nargs=3, default=(0.4, 0.72, 0.02), metavar=("FIRST", "END", "STEP"))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    config = reidx.load_config(chosen.recipe, chosen.set)
    checkpoints = sorted(chosen.stage.glob("epoch_*.pth"), key=lambda path: int(path.stem.partition("_")[2]))[-2:]
    features, split = features_of(config, checkpoints)
    own = next(iter(config.experiment.stages[-1].labels.values())).distance or {}
    print(f"{machine()}; {len(split)} images, networks {' and '.join(path.stem for path in checkpoints)}")
    for distance in [own, *map(yaml.safe_load, chosen.distance)]:
        print(f"{distance}\n{'eps':>6}{'clusters':>10}{'largest':>9}{'outliers':>10}{'stability':>11}{'ARI':>7}")
        for row in signs(features, split, distance, np.arange(*chosen.eps).tolist()):
            print("{:6.2f}{:10.0f}{:9.0f}{:10.1%}{:11.3f}{:7.3f}".format(*row))


if __name__ == "__main__":
    main()
