"""Compatibility matrix: every pair of installed components, in few combinations, each trained for two steps.

    from reidx.testing import matrix

    @pytest.mark.parametrize("combination", matrix.combinations(involving="lf2"), ids=str)
    def test_trains_with_all_others(combination, tmp_path):
        matrix.train(combination, tmp_path)

The axes are the installed backbones (one per family), fusions, alignments, clusterers, refiners and memories. Each pair of
components of different axes is in at least one combination if the contracts allow it, otherwise in :func:`refusals` with
the reason. ``python -m reidx.testing.matrix`` prints the allowed share.
"""

from __future__ import annotations

import functools
import math
import re
import tempfile
from pathlib import Path

from reidx.engine.experiment import run
from reidx.errors import ConfigError
from reidx.runs.result import Result
from reidx.testing.colours import draw_domains
from reidx.testing.given import expect
from reidx.testing.matrix.axes import Choice, axes
from reidx.testing.matrix.experiments import ORIGIN, Combination, config_of
from reidx.testing.matrix.gradients import watch_gradients
from reidx.testing.matrix.pairs import Cover, Pair, cover

__all__ = ["Choice", "Combination", "axes", "combinations", "config_of", "pairs", "refusals", "train"]


def combinations(involving: str | None = None) -> list[Combination]:
    """Return allowed combinations that together contain each allowed pair of components.

    With ``involving``, only pairs with a component of that plugin count ("" for the core).
    """
    values = list(axes().values())
    return [Combination(tuple(axis[i] for axis, i in zip(values, c))) for c in _cover(involving).combinations]


def refusals(involving: str | None = None) -> dict[tuple[Choice, Choice], str]:
    """Return the pairs of components without an allowed combination, each with the reason."""
    values = list(axes().values())
    return {(values[a][i], values[b][j]): why for ((a, i), (b, j)), why in _cover(involving).refused.items()}


def pairs(involving: str | None = None) -> list[tuple[Choice, Choice]]:
    """Return all pairs of components of different axes."""
    values = list(axes().values())
    found = [(a, b) for i, axis in enumerate(values) for other in values[i + 1 :] for a in axis for b in other]
    return [pair for pair in found if involving is None or involving in {choice.namespace for choice in pair}]


def train(combination: Combination, folder: Path) -> Result:
    """Run the experiment of a combination in ``folder``: one labelling, two steps and one evaluation, on the CPU.

    Raises :class:`AssertionError` if a logged value or a gradient is not finite, if a term's gradient does not reach the
    parameters that its features depend on, or if the backbone receives no gradient; and any error of the run.
    """
    config = config_of(combination, _domains())
    with watch_gradients(config.experiment.stages[0]) as seen:
        result = run(config, folder, progress="quiet")
    (epoch,) = result.stages[0].history
    for name, value in epoch.items():
        expect(math.isfinite(value), f"{name} is {value}")
    expect(epoch.get("clusters", 0) > 0, "nothing was labelled")
    expect(0.0 < result.metrics["mAP"] <= 1.0, f"mAP is {result.metrics['mAP']}")
    seen.check()
    return result


_CODE_LINE = re.compile(r", [^ ,]+\.py:\d+(?=\))")
"""The line of code in an error, which differs between installations."""


@functools.cache
def _cover(involving: str | None) -> Cover:
    values = list(axes().values())

    def wanted(pair: Pair) -> bool:
        return involving is None or involving in {values[axis][i].namespace for axis, i in pair}

    def refusal(chosen: tuple[int, ...]) -> str | None:
        try:
            config_of(Combination(tuple(axis[i] for axis, i in zip(values, chosen))))
        except ConfigError as error:
            return _CODE_LINE.sub("", str(error).removeprefix(f"{ORIGIN}: "))
        return None

    return cover([len(axis) for axis in values], refusal, wanted)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="reidx-matrix-")
    draw_domains(folder.name, identities=(8, 4), images_per_camera=3)
    return folder


def _domains() -> str:
    """Return the folder of this process's domains."""
    return _folder().name
