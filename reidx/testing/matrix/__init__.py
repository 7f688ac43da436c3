"""The compatibility matrix: every pair of installed components, in few combinations, each trained for two steps.

    from reidx.testing import matrix

    @pytest.mark.parametrize("combination", matrix.combinations(involving="lf2"), ids=str)
    def test_trains_with_all_others(combination, tmp_path):
        matrix.train(combination, tmp_path)

The axes are all installed backbones (one a family), fusions, alignments, clusterers, refiners and memories; two of each pair
of axes that the contracts allow together are in one combination at least, and the rest are in :func:`refusals` with the
reason. ``python -m reidx.testing.matrix`` prints what share is allowed.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path

from reidx.engine.experiment import run
from reidx.errors import ConfigError
from reidx.runs.result import Result
from reidx.testing.given import expect
from reidx.testing.matrix.axes import Choice, axes
from reidx.testing.matrix.experiments import ORIGIN, Combination, config_of
from reidx.testing.matrix.gradients import watched
from reidx.testing.matrix.pairs import Cover, Pair, cover

__all__ = ["Choice", "Combination", "axes", "combinations", "config_of", "pairs", "refusals", "train"]


def combinations(involving: str | None = None) -> list[Combination]:
    """Combinations that the contracts allow, which together hold each pair of parts that they allow.

    With ``involving`` those pairs alone in which one part is of that plugin ("" for the core's).
    """
    values = list(axes().values())
    return [Combination(tuple(axis[i] for axis, i in zip(values, c))) for c in _covered(involving).combinations]


def refusals(involving: str | None = None) -> dict[tuple[Choice, Choice], str]:
    """The pairs of parts without an allowed combination, each with the reason of the refusal."""
    values = list(axes().values())
    return {(values[a][i], values[b][j]): why for ((a, i), (b, j)), why in _covered(involving).refused.items()}


def pairs(involving: str | None = None) -> list[tuple[Choice, Choice]]:
    """All pairs of parts of different axes."""
    values = list(axes().values())
    found = [(a, b) for i, axis in enumerate(values) for other in values[i + 1 :] for a in axis for b in other]
    return [pair for pair in found if involving is None or involving in {choice.namespace for choice in pair}]


def train(combination: Combination, folder: Path) -> Result:
    """The result of a combination's experiment, run in ``folder``: one labelling, two steps, one evaluation, on the CPU.

    Raises :class:`AssertionError` if a logged value or a gradient is not finite, if a term's gradient does not reach the
    parameters behind its features, or if the backbone receives none; and any error of the run.
    """
    config = config_of(combination, _domains())
    with watched(config.experiment.stages[0]) as seen:
        result = run(config, folder, progress="quiet")
    (epoch,) = result.stages[0].history
    for name, value in epoch.items():
        expect(math.isfinite(value), f"{name} is {value}")
    expect(epoch.get("clusters", 0) > 0, "nothing was labelled")
    expect(0.0 < result.metrics["mAP"] <= 1.0, f"mAP is {result.metrics['mAP']}")
    seen.check()
    return result


@functools.cache
def _covered(involving: str | None) -> Cover:
    values = list(axes().values())

    def wanted(pair: Pair) -> bool:
        return involving is None or involving in {values[axis][i].namespace for axis, i in pair}

    def refusal(chosen: tuple[int, ...]) -> str | None:
        try:
            config_of(Combination(tuple(axis[i] for axis, i in zip(values, chosen))))
        except ConfigError as error:
            return str(error).removeprefix(f"{ORIGIN}: ")
        return None

    return cover([len(axis) for axis in values], refusal, wanted)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="reidx-matrix-")


def _domains() -> str:
    """The folder of this process's domains, which are rendered on first use."""
    return _folder().name
