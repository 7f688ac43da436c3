"""Comparison of the methods on Market-1501 with the same network, initial weights and image passes; last epoch.

Runs are kept under --folder. Run the command again to resume it; finished runs are only printed.

python -m benchmarks.methods --root data --weights weights/osnet_x0_25_msmt17.pth --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

import reidx
from benchmarks.measured import machine
from reidx.runs.metrics import METRICS
from reidx.runs.result import Result

RECIPES = {
    "direct": "cluster_contrast::market1501_small.yaml",
    "cluster_contrast": "cluster_contrast::market1501_small.yaml",
    "lp": "lp::market1501_small.yaml",
    "lp_twice": "lp::teacher_small.yaml",
    "spcl": "spcl::market1501_small.yaml",
    "pplr": "pplr::market1501_small.yaml",
    "global_patch": "global_patch::market1501_small.yaml",
    "ca_jaccard": "ca_jaccard::market1501_small.yaml",
    "o2cap": "o2cap::market1501_small.yaml",
    "cap": "o2cap::cap_market1501_small.yaml",
    "lp_ca_jaccard": "reidx::market1501/lp_ca_jaccard_small.yaml",
    "lp_o2cap": "reidx::market1501/lp_o2cap_small.yaml",
}
SECOND = 1000
"""Offset of the seed for the control that trains LP's teacher a second time."""

class Row(NamedTuple):
    """The last epoch of a stage, with the passes and seconds up to it, and the ARI of the labels at each epoch."""

    name: str
    metrics: Mapping[str, float]
    passes: float = 0
    seconds: float = 0
    ari: Sequence[float] = ()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", required=True, help="the folder of Market-1501, or one above it")
    options.add_argument("--weights", required=True, help="OSNet x0.25 as torchreid publishes it")
    options.add_argument("--seeds", nargs="+", type=int, default=[1])
    options.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    options.add_argument("--folder", default="runs/methods", help="the folder of the runs")
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to all recipes")
    chosen = options.parse_args()
    init = Path(chosen.weights).stem
    rows: dict[str, list[Row]] = {}
    for seed in chosen.seeds:
        for method in chosen.methods:
            changes = [f"data.domains.target.root={chosen.root}", f"model.backbone.weights={chosen.weights}", *chosen.set]
            changes.append(f"seed={seed + SECOND if method == 'lp_twice' else seed}")
            folder = Path(chosen.folder) / f"{method}-{init}-{seed}"
            for row in measured(method, changes, folder):
                rows.setdefault(row.name, []).append(row)
            print(machine("cuda" if torch.cuda.is_available() else "cpu"))
            print(table(rows), labels_by_epoch(rows), sep="\n\n", flush=True)


def measured(method: str, changes: Sequence[str], folder: Path) -> Iterator[Row]:
    """Run a method's recipe, or read its finished run, and yield its rows of the table."""
    config = reidx.load_config(RECIPES[method], changes)
    if method == "direct":
        yield Row("direct transfer", reidx.test(config).metrics)
        return
    result = reidx.run(config, folder, resume=(folder / "config.yaml").exists())
    passes = seconds = 0.0
    for stage in result.stages:
        passes += sum(entry["images"] for entry in stage.history)
        seconds += sum(v for entry in stage.history for k, v in entry.items() if k.startswith("seconds_"))
        if "mAP" in stage.last and stage.name != "warmup":
            ari = [entry["ari"] for entry in stage.history if "ari" in entry]
            yield Row(name_of(method, stage.name), stage.last, passes, seconds, ari)
    if method == "global_patch":
        for feature in ("global", "patch"):
            alone = reidx.load_config(RECIPES[method], [*changes, f"model.fusion.eval_feature={feature}"])
            yield Row(f"global_patch, {feature} alone", reidx.test(alone, last_checkpoint(result)).metrics, passes, seconds)


def name_of(method: str, stage: str) -> str:
    """Return the name of a row."""
    several = {name: f"{name} {stage}" for name in ("lp", "lp_ca_jaccard", "lp_o2cap")}
    return {"lp_twice": "lp, second training of the teacher", **several}.get(method, method)


def last_checkpoint(result: Result) -> Path:
    """Return the path of the last stage's final weights."""
    number, stage = len(result.stages), result.stages[-1]
    return result.work_dir / f"{number}-{stage.name}" / f"epoch_{len(stage.history)}.pth"


def table(rows: Mapping[str, Sequence[Row]]) -> str:
    """Format the rows in percent: the mean over seeds, and the standard deviation if there are several."""
    head = ["", *METRICS, "clusters", "ARI", "image passes", "minutes", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, runs in rows.items():
        cells = [spread([100 * run.metrics[m] for run in runs]) for m in METRICS]
        for key, digits in (("clusters", 0), ("ari", 3)):
            known = [run.metrics[key] for run in runs if key in run.metrics]
            cells.append(f"{statistics.mean(known):.{digits}f}" if known else "")
        minutes = statistics.mean(run.seconds for run in runs) / 60
        lines.append(f"| {name} | {' | '.join([*cells, f'{runs[0].passes:,.0f}', f'{minutes:.1f}', str(len(runs))])} |")
    return "\n".join(lines)


def labels_by_epoch(rows: Mapping[str, Sequence[Row]]) -> str:
    """Format the ARI of the labels with the identities at each epoch: the mean over seeds, ± the standard deviation."""
    known = {name: list(zip(*(run.ari for run in runs), strict=False)) for name, runs in rows.items()}
    longest = max(map(len, known.values()), default=0)
    lines = [f"| ARI of the labels, epoch | {' | '.join(map(str, range(1, longest + 1)))} |", "|---" * (longest + 1) + "|"]
    for name, epochs in known.items():
        cells = [spread(values, 3) for values in epochs]
        lines.append(f"| {name} | {' | '.join(cells + [''] * (longest - len(cells)))} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the mean, and the standard deviation of several values."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
