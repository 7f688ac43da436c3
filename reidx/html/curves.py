"""Sections of numbers by epoch: losses, rates and metrics; the quality of pseudo labels."""

from __future__ import annotations

from collections.abc import Sequence

from reidx.html.blocks import Folded, Heading, Missing, Row, Section
from reidx.html.charts import Chart, Line
from reidx.html.source import Source
from reidx.runs.epoch_log import Report
from reidx.runs.metrics import DEVIATION, metric_of
from reidx.runs.result import CLUSTERS

FIRST = ("loss", "lr", "mAP", "rank-1")
"""Numbers whose charts come first."""
LEFT_OUT = ("epoch", "images", "threads")
"""Numbers without a chart: they are the same in each epoch, or on the card."""
MEANINGS = {
    "clusters": "Clusters",
    "outliers": "Outliers: images without a cluster",
    "largest": "Images of the largest cluster",
    "median_size": "Images of the median cluster",
    "stability": "Stability: agreement with the epoch before",
    "ari": "Adjusted Rand index (ARI) against the truth",
}


def curves(sources: Sequence[Source]) -> Section:
    """Loss, learning rate and metrics of each stage by epoch, then all other numbers."""
    blocks: list[object] = []
    for stage in _stages(sources):
        keys = _keys(sources, stage)
        metrics = [key for key in keys if metric_of(key) is not None and not key.endswith(DEVIATION)]
        others = [key for key in keys if metric_of(key) is None and not _of_labels(key) and key not in LEFT_OUT]
        tested = [_chart(sources, stage, key, f"{key} in percent", percent=True) for key in metrics]
        trained = [_chart(sources, stage, key, "learning rate" if key == "lr" else key.replace("_", " ")) for key in others]
        blocks += [Heading(f"Stage {stage}"), Row([*trained[:2], *tested[:2]])]
        if more := [*tested[2:], *trained[2:]]:
            blocks.append(Folded(f"Further numbers of stage {stage}", [Row(more)]))
    if not blocks:
        blocks.append(Missing("No epoch has been committed yet."))
    intro = "Epoch 0 is the evaluation before the first epoch. Times are in seconds."
    return Section("curves", "Curves", intro, blocks)


def labels(sources: Sequence[Source]) -> Section | None:
    """Number, size and stability of the clusters by epoch, and the agreement with the truth where it was monitored."""
    blocks: list[object] = []
    monitored = False
    for stage in _stages(sources):
        keys = [key for key in _keys(sources, stage) if _of_labels(key)]
        monitored |= any(key.rpartition("/")[2] == "ari" for key in keys)
        for labelling in dict.fromkeys(key.rpartition("/")[0] for key in keys):
            known = {key.rpartition("/")[2]: key for key in keys if key.rpartition("/")[0] == labelling}
            charts = [_chart(sources, stage, known[name], MEANINGS[name]) for name in CLUSTERS if name in known]
            blocks += [Heading(f"Stage {stage}{', labelling ' * bool(labelling)}{labelling}"), Row(charts)]
    if not blocks:
        return None
    truth = (
        "The truth was read for the adjusted Rand index alone (labels.monitor)."
        if monitored
        else "The truth was not read; labels.monitor: true compares the labels with it."
    )
    return Section("labels", "Pseudo labels", f"The labels that each epoch was trained with. {truth}", blocks)


def _of_labels(key: str) -> bool:
    return key.rpartition("/")[2] in CLUSTERS


def _stages(sources: Sequence[Source]) -> list[str]:
    """The stages with epochs, of all runs."""
    return list(dict.fromkeys(stage.name for source in sources for stage in source.run.stages if stage.history))


def _reports(source: Source, stage: str) -> list[Report]:
    """The reports of a stage by epoch; the evaluation before the first is epoch 0."""
    found = next((one for one in source.run.stages if one.name == stage), None)
    if found is None:
        return []
    return [*([{**found.before, "epoch": 0}] if found.before else []), *found.history]


def _keys(sources: Sequence[Source], stage: str) -> list[str]:
    """The numbers of a stage's reports: loss and learning rate first, as far as there are any."""
    reports = [report for source in sources for report in _reports(source, stage)]
    found = dict.fromkeys(key for report in reports for key, value in report.items() if isinstance(value, int | float))
    return sorted(found, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))


def _chart(sources: Sequence[Source], stage: str, key: str, title: str, percent: bool = False) -> Chart:
    """The chart of a number by epoch, with a line for each run that has it."""
    lines = []
    for source in sources:
        points = [(r["epoch"], r[key]) for r in _reports(source, stage) if isinstance(r.get(key), int | float)]
        lines += [Line(source.name, points)] if points else []
    return Chart(title, "epoch", title, lines, percent)
