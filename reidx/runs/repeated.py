"""The mean of the results of one network on several random splits of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

from reidx.runs.metrics import DEVIATION, metric_of
from reidx.runs.result import Result, StageResult


def mean_of(results: Sequence[Result], argument: str, values: Sequence[int]) -> Result:
    """Average the tests of a network on the splits that the ``values`` of an ``argument`` of the data set choose.

    The deviation of a metric is the sample standard deviation (n − 1) over the splits; those over the trials of a protocol
    are left out. The card is that of the first split, with the number of splits and the range of the values.
    """
    reports = [result.stages[-1].before for result in results]
    names = [key for key in reports[0] if metric_of(key) is not None and not key.endswith(DEVIATION)]
    columns = {name: [report[name] for report in reports] for name in names}
    means = {name: fmean(column) for name, column in columns.items()}
    if len(results) > 1:
        means |= {f"{name}{DEVIATION}": stdev(column) for name, column in columns.items()}
    card = results[0].card
    ((stage, about),) = card["stages"].items()
    evaluation = {**about["evaluation"], "splits": len(results)}
    tested = card["data"][evaluation["domain"]]
    version = re.sub(rf"\b{argument} \d+", f"{argument} {values[0]} to {values[-1]}", tested["version"])
    data = {**card["data"], evaluation["domain"]: {**tested, "version": version}}
    stages = {stage: {**about, "evaluation": evaluation}}
    return replace(results[0], stages=[StageResult(stage, means)], card={**card, "data": data, "stages": stages})
