"""Protocols: the gallery images ignored for each query, trials, metrics, and their description on a result's card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from reidx.contracts import Groups, Summary, Trial, named_inputs
from reidx.errors import DataError, require
from reidx.registry.retrieval_promises import metric_names
from reidx.registry.seam import call

Known = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Identities of the queries (Q,) and of the gallery (G,), then their cameras."""

Columns = tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
"""Further columns of the queries (Q,) and of the gallery (G,), by name."""

JUNK = -1  # Market-1501's identity number for boxes that show no person well enough to count either way


@dataclass(frozen=True)
class Protocol:
    """The rule of evaluation of a ranking; a subclass overrides `ignored`, `draw_trials`, or `metrics` with `measure`.

    `version` changes with every change to the metrics of a ranking; results with different versions are not comparable.
    `settings` are the arguments that determine the numbers, such as the seed of the trials, for the card. Each method may
    have further keyword arguments ``query_NAME`` and ``gallery_NAME``, which get the column NAME of the data set.
    """

    name: str
    version: str
    camera_filter: bool
    junk: str = "gallery images of identity -1 are ignored; distractors (of identities without a query) stay as negatives"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    groups: Groups | None = None
    """Groups of images that are ranked as one; all methods then get one id, camera and column value for each group."""

    metrics: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics; `mAP`, `mINP` and `rank-1`, `-5` and `-10` replace the standard ones."""
    arrays: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays of `measure` if `summarise` computes the metrics from them; empty: they are the metrics."""
    totals: ClassVar[tuple[str, ...]] = ()
    """Names of arrays of `measure`, in any shape, that are added up over all queries for `summarise`: counts of pairs."""
    denominators: ClassVar[Mapping[str, str]] = {}
    """The queries over which a metric is the mean, by its name, for the card; by default those that its values count."""
    open_set: ClassVar[bool] = False
    """True if queries without a match are a part of the test, and not left out by mistake."""

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Bool (Q, G): gallery images that neither help nor harm the query."""
        skip = np.broadcast_to(gallery_ids == JUNK, (len(query_ids), len(gallery_ids)))
        if not self.camera_filter:
            return skip
        return skip | ((query_ids[:, None] == gallery_ids) & (query_cams[:, None] == gallery_cams))

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterable[Trial] | None:
        """The trials, whose mean is the result: positions of queries and gallery images; None for one trial of everything.

        Draws depend on the constructor's arguments alone: `np.random.default_rng(seed)`, never the global random state.
        """
        return None

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        """Each of `metrics` for some queries of a trial: fractions (B,), NaN where a query does not count.

        With `arrays`, each of these: any numbers (B,); with `totals`, each of these for these queries together. `distances`
        (B, G) float64 rank the trial's gallery, nearest first; equal ones are ordered by position. `ignored` (B, G) are the
        images that do not count for a query, including the query's own file.
        """
        return {}

    def summarise(self, values: Mapping[str, np.ndarray]) -> Summary:
        """The metrics of a trial from its arrays (Q,) and totals; here the means of arrays over the queries that count."""
        return mean_summary(self, values)


class Market1501(Protocol):
    """The usual protocol: the query's person in its own camera is ignored.

    Gallery images of the query's own identity *and* camera are ignored (Market-1501 and all that follow it).
    """

    cameras: ClassVar[str] = "required"

    def __init__(self) -> None:
        super().__init__("market1501", "1", camera_filter=True)


class NoCameraFilter(Protocol):
    """Every gallery image counts; for data sets without known cameras."""

    def __init__(self) -> None:
        super().__init__("no_camera_filter", "1", camera_filter=False)


class SingleGalleryShot(Protocol):
    """Galleries of one random image of each person, in several trials.

    The result is the mean over the trials. The classic protocol of CUHK03, and that of VIPeR. Junk is never drawn. A query
    whose person is drawn in the query's own camera (with `camera_filter`), or as the query's own file, has no match in that
    trial. With `rest`, the splits query and gallery are the same images, and those that a trial does not draw are its queries
    (VehicleID; Liu et al., CVPR 2016).
    """

    def __init__(self, trials: int = 10, seed: int = 0, camera_filter: bool = True, rest: bool = False) -> None:
        if trials < 1:
            raise ValueError(f"trials is {trials}; at least 1 is needed")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        super().__init__("single_gallery_shot", "1", camera_filter, settings={"seed": seed, "rest": rest})
        self.count, self.rest = trials, rest

    @classmethod
    def contract(cls, camera_filter: bool = True, **_: Any) -> dict[str, str]:
        """Cameras are required by the filter alone."""
        return {"cameras": "required"} if camera_filter else {}

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterator[Trial]:
        """One gallery image of each identity, drawn from its images with equal probability, and all queries or the others."""
        if self.rest and not (np.array_equal(query_ids, gallery_ids) and np.array_equal(query_cams, gallery_cams)):
            raise DataError(
                f"protocol {self.name}: with rest, query and gallery must be the same images in the same order, but their "
                "identities or cameras differ. Use a data set such as VehicleID, or set rest: false."
            )
        random = np.random.default_rng(self.settings["seed"])
        order = np.argsort(gallery_ids, kind="stable")
        people, first, images = np.unique(gallery_ids[order], return_index=True, return_counts=True)
        first, images = first[people != JUNK], images[people != JUNK]
        for _ in range(self.count):
            drawn, queries = order[first + random.integers(images)], np.arange(len(query_ids))
            yield Trial(np.setdiff1d(queries, drawn) if self.rest else queries, drawn)


def ignored(
    rule: Protocol, known: Known, queries: Any, images: Any, columns: Columns | None = None
) -> np.ndarray:
    """Bool (Q, G) of ``rule`` for some of the queries and gallery images, selected by an index.

    ``known`` are the ids of queries and gallery, then their cameras; ``columns`` are passed by name.
    """
    pairs, named = _given(rule.ignored, known, queries, images, columns)
    return call("protocol", rule, "ignored", rule.ignored, *pairs, **named)


def drawn_trials(rule: Protocol, known: Known, columns: Columns | None = None) -> list[Trial] | None:
    """The trials of ``rule``, with ascending positions, so that ties are ordered as in the gallery; None: one of everything."""
    if not hasattr(rule, "draw_trials"):
        return None
    pairs, named = _given(rule.draw_trials, known, slice(None), slice(None), columns)
    found = call("protocol", rule, "draw_trials", partial(_listed, rule.draw_trials), *pairs, **named)
    return found and [Trial(*(np.sort(positions).astype(np.int64) for positions in trial)) for trial in found]


def in_trial(
    trial: Trial, known: Known, own: np.ndarray | None, columns: Columns | None
) -> tuple[Known, np.ndarray | None, Columns | None]:
    """Ids and cameras, pairs of one image, and columns of a trial's queries and gallery images; positions are those in it."""
    queries, images = trial
    if own is not None:
        places = [np.full(len(ids), -1) for ids in known[:2]]
        for place, positions in zip(places, trial):
            place[positions] = np.arange(len(positions))
        own = np.stack([place[own[:, side]] for side, place in enumerate(places)], axis=1)
        own = own[(own >= 0).all(axis=1)]
    if columns is not None:
        by_query, by_gallery = ({name: column[rows] for name, column in of.items()} for of, rows in zip(columns, trial))
        columns = by_query, by_gallery
    return (known[0][queries], known[1][images], known[2][queries], known[3][images]), own, columns


def check_metrics(rule: Protocol) -> None:
    """Raise, as :func:`call` does, for names of metrics that no table can have, and for a `measure` without `metrics`."""
    call("protocol", rule, "its metrics", _require_metrics, rule)


def _require_metrics(rule: Protocol) -> None:
    names = getattr(rule, "metrics", ())
    own = getattr(type(rule), "measure", Protocol.measure) is not Protocol.measure
    require(bool(names) or not own, "it has `measure`, but `metrics` names none, so that nothing would be measured")
    metric_names(names)
    summarises = getattr(type(rule), "summarise", Protocol.summarise) is not Protocol.summarise
    inputs = (*getattr(rule, "arrays", ()), *getattr(rule, "totals", ()))
    require(summarises == bool(inputs), "`summarise` and `arrays` or `totals`, the names of its inputs, need each other")


def names_by_query(rule: Protocol) -> tuple[str, ...]:
    """The names of the arrays of `measure` with a value for each query."""
    arrays, totals = getattr(rule, "arrays", ()), getattr(rule, "totals", ())
    return arrays if arrays or totals else getattr(rule, "metrics", ())


def measured(
    rule: Protocol, distances: np.ndarray, skip: np.ndarray, known: Known, queries: slice, columns: Columns | None
) -> Mapping[str, np.ndarray]:
    """The metrics, or arrays (B,) and totals, of ``rule`` for a block of queries.

    Of ``distances`` (B, G) those in ``skip`` do not count.
    """
    pairs, named = _given(rule.measure, known, queries, slice(None), columns)
    return call("protocol", rule, "measure", rule.measure, distances, skip, *pairs, **named)


def summarised(rule: Protocol, values: Mapping[str, np.ndarray]) -> Summary:
    """The metrics of ``rule`` for a trial, and facts for the card, from its arrays (Q,) of all queries and its totals."""
    summarise = getattr(rule, "summarise", partial(mean_summary, rule))
    return call("protocol", rule, "summarise", summarise, values)


def mean_summary(rule: Protocol, values: Mapping[str, np.ndarray]) -> Summary:
    """The means of arrays (Q,) over the queries that are not NaN; raises :class:`DataError` if an array has none."""
    for name, array in values.items():
        if np.isnan(array).all():
            raise DataError(f"evaluate: no query counts for {name} of protocol {rule.name}: it is NaN for all {len(array)}.")
    return Summary({name: float(np.nanmean(array)) for name, array in values.items()})


def _given(
    function: Callable[..., Any], known: Known, queries: Any, images: Any, columns: Columns | None
) -> tuple[Known, dict[str, np.ndarray]]:
    """Ids and cameras of some queries and gallery images, and the columns of them that ``function`` names."""
    query_ids, gallery_ids, query_cams, gallery_cams = known
    by_query, by_gallery = ({}, {}) if columns is None else columns
    whole = {f"query_{name}": (column, queries) for name, column in by_query.items()}
    whole |= {f"gallery_{name}": (column, images) for name, column in by_gallery.items()}
    named = {name: column[rows] for name, (column, rows) in named_inputs(function, whole).items()}
    return (query_ids[queries], gallery_ids[images], query_cams[queries], gallery_cams[images]), named


def _listed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any] | None:
    """The items that ``function`` yields, so that its errors occur within the call."""
    found = function(*args, **kwargs)
    return None if found is None else list(found)
