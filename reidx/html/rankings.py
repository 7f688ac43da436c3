"""Sections on single queries: CMC, ranked lists from the best to the worst, and the worst queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reidx.evaluation.ranked_list import pick_queries
from reidx.html.blocks import Missing, Ranking, Section, Shown, Table
from reidx.html.charts import Chart, Line
from reidx.html.measured import Measured, identity
from reidx.html.pictures import picture
from reidx.html.source import Source, measured_parts
from reidx.runs.metrics import metrics_in

ROWS, WORST = 8, 10
"""Queries of the ranked lists, and of the list of the worst."""
RANKS = (1, 5, 10, 20, 50)
CLOSE = 5e-4
"""Difference of mAP up to which two measurements count as equal; another machine rounds differently."""


def cmc(sources: Sequence[Source]) -> Section:
    """The share of queries with a match among the first k images, for k up to 50, all runs in one chart."""
    measured = [(source, source.measured) for source in sources if source.measured is not None]
    blocks: list[object] = [Missing(source.reason) for source in sources if source.measured is None]
    if measured:
        lines = [Line(source.name, [(k + 1, float(v)) for k, v in enumerate(one.evaluation.cmc)]) for source, one in measured]
        rows = [[source.name, *(f"{100 * one.evaluation.cmc[k - 1]:.2f}" for k in RANKS)] for source, one in measured]
        blocks.append(Chart("CMC", "rank", "share of queries in percent", lines, percent=True))
        blocks.append(Table("CMC in percent", ["run", *(f"rank-{k}" for k in RANKS)], rows))
        blocks += [Missing(text) for source, one in measured if (text := _other_numbers(source, one))]
    intro = "The share of queries that have a match among their first k gallery images, measured again."
    return Section("cmc", "CMC", intro, blocks)


def _other_numbers(source: Source, measured: Measured) -> str:
    """A sentence if the measurement differs from the one that the run recorded."""
    recorded, now = metrics_in(source.run.stages[-1].last or source.run.stages[-1].before), measured.evaluation.mAP
    if "mAP" not in recorded or abs(recorded["mAP"] - now) <= CLOSE:
        return ""
    return (
        f"{source.name} recorded an mAP of {100 * recorded['mAP']:.2f}, and this measurement gives {100 * now:.2f}: the data "
        "or the code have changed since. The sections below are about this measurement."
    )


def ranked_lists(sources: Sequence[Source]) -> Section:
    """Queries from the best to the worst average precision, each with its nearest gallery images."""
    blocks: list[object] = []
    for source, measured in measured_parts(sources, blocks):
        blocks += [_ranking(source, measured, query) for query in pick_queries(measured.details, ROWS)]
    intro = (
        "Queries from the best to the worst average precision (AP), evenly spaced, with their nearest gallery images. A tick "
        "marks the query's identity, a cross another one. Images that the protocol ignores are not shown."
    )
    return Section("ranked-lists", "Ranked lists", intro, blocks)


def worst_queries(sources: Sequence[Source]) -> Section:
    """The queries with the lowest average precision."""
    blocks: list[object] = []
    for source, measured in measured_parts(sources, blocks):
        details = measured.details
        chosen = worst(details.ap)
        rows = [
            [
                f"query {query}", str(identity(measured.query, query)), measured.camera(int(measured.query.cameras[query])),
                f"{100 * details.ap[query]:.1f}", str(int(details.first_match[query])),
            ]
            for query in chosen
        ]  # fmt: skip
        zero = int((details.first_match[~np.isnan(details.ap)] > 1).sum())
        note = f"{zero:,} of {int((~np.isnan(details.ap)).sum()):,} queries have another identity at rank 1."
        head = ["query", "identity", "camera", "AP in percent", "rank of the first match"]
        blocks.append(Table(f"The {len(chosen)} queries with the lowest AP", head, rows, note))
        blocks += [_ranking(source, measured, query) for query in chosen]
    return Section("worst-queries", "Worst queries", "The failures: queries with the lowest average precision.", blocks)


def worst(ap: np.ndarray, count: int = WORST) -> list[int]:
    """The queries with the lowest average precision (Q,), the lowest first; those without a match (NaN) are left out."""
    valid = np.flatnonzero(~np.isnan(ap))
    return valid[np.argsort(ap[valid], kind="stable")][:count].tolist()


def _ranking(source: Source, measured: Measured, query: int) -> Ranking:
    details, split = measured.details, measured.query
    who, first = identity(split, query), int(details.first_match[query])
    camera = measured.camera(int(split.cameras[query]))
    own = Shown(
        f"identity {who}",
        [f"camera {camera}"],
        picture=picture(split.paths[query]) if source.pictures else "",
        alt=f"Query: identity {who}, camera {camera}",
    )
    found = []
    for rank, place in enumerate(details.top[query].tolist(), start=1):
        if place >= 0:
            other = identity(measured.gallery, place)
            under = measured.camera(int(measured.gallery.cameras[place]))
            score = measured.score(query, place)
            facts = [f"identity {other}", f"camera {under}", *([] if score is None else [f"{score:.3f}"])]
            shown = picture(measured.gallery.paths[place]) if source.pictures else ""
            found.append(Shown(f"{rank}", facts, other == who, shown, f"Rank {rank}: identity {other}, camera {under}"))
    title = f"Query {query}: AP {100 * details.ap[query]:.1f} %, first match at rank {first}"
    return Ranking(title, own, found)
