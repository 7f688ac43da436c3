"""Section of activation maps: the places of an image that the network's last map responds to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reidx.evaluation.ranked_list import pick_queries
from reidx.html.blocks import Heat, Section
from reidx.html.measured import identity
from reidx.html.pictures import picture
from reidx.html.source import Source, measured_parts

MAPS = 8
"""Queries with an activation map."""


def activation_maps(sources: Sequence[Source]) -> Section:
    """Activation maps of queries from the best to the worst average precision."""
    blocks: list[object] = []
    for source, measured in measured_parts(sources, blocks):
        chosen = pick_queries(measured.details, MAPS)
        for query, values in zip(chosen, measured.activations(chosen).numpy()):
            title = f"Query {query}, identity {identity(measured.query, query)}, AP {100 * measured.details.ap[query]:.0f} %"
            shown = picture(measured.query.paths[query]) if source.pictures else ""
            blocks.append(Heat(title, stretched(values).tolist(), described(values), shown))
    intro = (
        "The sum over channels of the squared last map (Zagoruyko and Komodakis, ICLR 2017), for queries from the best to "
        "the worst average precision. The colour runs from the weakest response of an image (none) to its strongest (red)."
    )
    return Section("activations", "Activation maps", intro, blocks)


def stretched(values: np.ndarray) -> np.ndarray:
    """Scale a map (h,w) so that its minimum is 0 and its maximum 1; a constant map becomes 0."""
    span = values.max() - values.min()
    return np.round((values - values.min()) / span, 3) if span > 0 else np.zeros_like(values)


def described(values: np.ndarray) -> str:
    """Describe a map (h,w): shares of its upper, middle and lower third, place of its maximum, relative minimum."""
    thirds = [float(part.sum()) for part in np.array_split(values, 3, axis=0)]
    shares = [f"{100 * part / max(sum(thirds), 1e-12):.0f} %" for part in thirds]
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    where = f"row {row + 1} of {values.shape[0]}, column {column + 1} of {values.shape[1]}"
    low = f"minimum {100 * values.min() / max(values.max(), 1e-12):.0f} % of it"
    return f"Upper third {shares[0]}, middle {shares[1]}, lower {shares[2]}; maximum at {where}, {low}"
