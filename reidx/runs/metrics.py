"""Names of an evaluation's metrics, in the report of an epoch, together with other numbers, and in a result.

In a report a protocol's metric has the prefix ``metric_``, unless its name is a standard one; with re-ranking, each has the
prefix ``reranked_``. The standard deviation over trials has the suffix ``_sd``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reidx.evaluation.results import Evaluation

METRICS = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")
"""The standard metrics, in the order of a table."""
RERANKED, OWN, DEVIATION = "reranked_", "metric_", "_sd"


def to_report(result: Evaluation, reranked: bool = False) -> dict[str, float]:
    """Return the metrics of an evaluation, and their deviations over trials, by their names in a report."""
    values = {**result.metrics, **{f"{name}{DEVIATION}": value for name, value in result.deviations.items()}}
    return {f"{RERANKED if reranked else ''}{'' if _standard(name) else OWN}{name}": value for name, value in values.items()}


def metric_of(key: str) -> tuple[str, bool] | None:
    """Return the name of a metric or deviation in a report, and whether it is re-ranked; None for other numbers."""
    name = key.removeprefix(RERANKED)
    return (name.removeprefix(OWN), name != key) if name.startswith(OWN) or _standard(name) else None


def metrics_in(report: Mapping[str, float], reranked: bool = False) -> dict[str, float]:
    """Return the metrics in a report, with or without re-ranking, each followed by its deviation ``NAME_sd`` if it has one."""
    found = {metric_of(key): value for key, value in report.items()}
    names = [name_of[0] for name_of in found if name_of is not None and name_of[1] == reranked]
    keys = [key for name in metric_names(names) for key in (name, f"{name}{DEVIATION}")]
    return {key: found[key, reranked] for key in keys if (key, reranked) in found}


def metric_names(names: Iterable[str]) -> list[str]:
    """Return the metrics among ``names``, without deviations: the standard ones in their order, then a protocol's."""
    known = dict.fromkeys(name for name in names if not name.endswith(DEVIATION))
    return [*(name for name in METRICS if name in known), *(name for name in known if name not in METRICS)]


def percent(metrics: Mapping[str, float], name: str) -> str:
    """Format a metric in percent, ± its deviation over trials if it has one."""
    deviation = metrics.get(f"{name}{DEVIATION}")
    return f"{100 * metrics[name]:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _standard(name: str) -> bool:
    return name.removesuffix(DEVIATION) in METRICS
