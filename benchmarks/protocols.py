"""One network under every protocol of Market-1501: its features are extracted once, and ranked under each.

python -m benchmarks.protocols --root data --weights weights/osnet_x0_25_msmt17.pth weights/osnet_x0_25_imagenet.pth

The weights are those of an OSNet x0.25 of torchreid. ``--share`` names a folder with packed images (``reidx data pack``). A row
without ``gt_bbox`` is left out. The last lines are the rows of ``docs/data/results.csv``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import reidx
from benchmarks.measured import machine
from reidx.contracts import Trial
from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.evaluation import Evaluation, evaluate, rerank
from reidx.registry.build import build
from reidx.reporting.reporter import Reporter

RECIPE = "reidx::market1501/osnet_msmt17_direct.yaml"
QUERIES = {"target": "single", "multi": "multi"}
"""Domains, and the queries of each; their gallery is the same."""


class Variant(NamedTuple):
    """A row: its name, the protocol, a re-ranking, and the domain of the queries."""

    name: str
    protocol: Any = "Market1501"
    reranker: Any = None
    queries: str = "target"


VARIANTS = (
    Variant("`Market1501`"),
    Variant("`Market1501Trapezoid`", "Market1501Trapezoid"),
    Variant("`NoCameraFilter`", "NoCameraFilter"),
    Variant("`SingleGalleryShot`, 10 draws", "SingleGalleryShot"),
    Variant("`OpenSet`, half held out, 10 draws", "OpenSet"),
    Variant("`Verification`", "Verification"),
    Variant("`Grouped`, several images of a query", {"type": "Grouped", "query": "group"}, queries="multi"),
    Variant("`Market1501`, re-ranked by `KReciprocal`", reranker="KReciprocal"),
    Variant("`Market1501`, re-ranked by `ca_jaccard.CameraAwareKReciprocal`", reranker="ca_jaccard.CameraAwareKReciprocal"),
    Variant("`Market1501`, re-ranked by `AverageQueryExpansion`", reranker="AverageQueryExpansion"),
    Variant("`Market1501`, re-ranked by `AlphaQueryExpansion`", reranker="AlphaQueryExpansion"),
)


class Side(NamedTuple):
    """Features of the images of a split, and the split."""

    features: Tensor
    split: Split


def extracted(root: str, weights: Path, share: Path | None, size: Sequence[int]) -> Iterator[tuple[str, Side]]:
    """Yield the sides ``target``, ``gallery`` and, where ``gt_bbox`` is not missing, ``multi``."""
    from reidx.engine.precision import choose_precision
    from reidx.engine.stage import StageRun

    specs = {name: {"type": "Market1501", "root": root, "queries": queries} for name, queries in QUERIES.items()}
    parts = [f"model.{part}.weights={weights}" for part in ("backbone", "fusion")]
    config = reidx.load_config(RECIPE, [*parts, f"data.domains.target.root={root}", f"data.image_size={list(size)}"])
    data = {**config.data["data"], "domains": specs}
    reporter = Reporter()
    domains = Domains(data, reporter.counted, reporter.message, None if share is None else share / "packs")
    (stage,) = choose_precision(config.experiment.stages).apply(config.experiment.stages)
    run = StageRun(stage, 0, config.experiment.seed, domains, Path("."), Path, reporter)

    def side(domain: str, split: str) -> Side:
        what = f"{split} of {domain}"
        features = run.extractor.features(domain, split, "student", {"embed"}, False, what)["embed"]
        return Side(features, domains.split(domain, split))

    yield "target", side("target", "query")
    yield "gallery", side("target", "gallery")
    if (Path(domains["target"].root) / "gt_bbox").is_dir():  # type: ignore[attr-defined]
        yield "multi", side("multi", "query")


def measured(sides: dict[str, Side]) -> Iterator[tuple[Variant, Evaluation]]:
    """Yield the result of each variant whose queries there are."""
    for variant in VARIANTS:
        if variant.queries in sides:
            query, gallery = sides[variant.queries], sides["gallery"]
            features = query.features, gallery.features
            cameras = query.split.cameras, gallery.split.cameras
            columns = query.split.columns, gallery.split.columns
            protocol, reranking = build("protocol", variant.protocol), None
            if variant.reranker is not None:
                part = build("reranker", variant.reranker)
                how = partial(rerank, part, *features, "cosine", cameras=cameras, columns=columns, protocol=protocol)
                reranking = lambda *places, how=how: how(trial=Trial(*places))  # noqa: E731
            people = query.split.ids, gallery.split.ids
            found = evaluate(*features, *people, *cameras, protocol, "cosine", columns=columns, reranking=reranking)
            yield variant, found


def main() -> None:
    """Print a table for each file of weights, then the rows for the file of results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="data", help="folder of Market-1501")
    options.add_argument("--weights", type=Path, nargs="+", required=True)
    options.add_argument("--share", type=Path, help="folder with packs")
    options.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    chosen = options.parse_args()
    print(f"reidx, {machine()}")
    rows = []
    for weights in chosen.weights:
        print(f"\n{weights.name}", flush=True)
        for variant, found in measured(dict(extracted(chosen.root, weights, chosen.share, chosen.size))):
            metrics = {name: f"{100 * value:.2f}" for name, value in found.metrics.items()}
            print(f"{variant.name}: {', '.join(f'{name} {value}' for name, value in metrics.items())}", flush=True)
            standard = [metrics[name] for name in ("mAP", "rank-1", "rank-5", "rank-10", "mINP")]
            further = {name: value for name, value in metrics.items() if name in found.card["protocol_metrics"]}
            rows.append([weights.stem, variant.name, *standard, ", ".join(f"{name} {v}" for name, v in further.items())])
    print()
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
