"""Conditions on the images that a search may return: cameras, and a span of time."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from reidx.errors import DataError
from reidx.index.rows import Rows
from reidx.index.times import parse_time, show_time

_LISTED = 20
"""Maximum number of cameras that a message lists."""


@dataclass(frozen=True)
class Filter:
    """Images of one of the ``cameras`` (none given: of all), taken at ``after`` or later and earlier than ``before``."""

    cameras: Collection[int] = ()
    after: float = -math.inf
    before: float = math.inf

    @property
    def by_time(self) -> bool:
        """True if the time of an image matters; then an image without a time is left out."""
        return self.after > -math.inf or self.before < math.inf

    def allowed(self, rows: Rows) -> np.ndarray | None:
        """Return the mask (N,) of the rows that pass, or None if all do.

        Raises :class:`DataError`, which lists what there is, if the index has no such column or no row passes.
        """
        if not self.cameras and not self.by_time:
            return None
        mask = np.ones(len(rows), np.bool_)
        if self.cameras:
            if rows.cameras is None:
                raise DataError("The index knows no cameras, so images cannot be chosen by camera.")
            mask &= np.isin(rows.cameras, sorted(self.cameras))
            if not mask.any():
                wanted = ", ".join(map(str, sorted(self.cameras)))
                raise DataError(f"No image of the index is from camera {wanted}. It has {_cameras(rows)}.")
        if self.by_time:
            if rows.times is None:
                raise DataError("The index knows no times, so images cannot be chosen by time.")
            mask &= (rows.times >= self.after) & (rows.times < self.before)
            if not mask.any():
                raise DataError(f"No image {'of that camera ' if self.cameras else ''}is from that time. {_span(rows)}")
        return mask


def _cameras(rows: Rows) -> str:
    found = np.unique(rows.cameras).tolist() if rows.cameras is not None else []
    names = [str(camera) for camera in found if camera >= 0]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"cameras {', '.join(names[:_LISTED])}{more}" if names else "no known camera"


def _span(rows: Rows) -> str:
    times = np.zeros(0) if rows.times is None else rows.times[~np.isnan(rows.times)]
    if not len(times):
        return "No image has a time."
    return f"Those of the index are from {show_time(times.min(), rows.time_form)} to {show_time(times.max(), rows.time_form)}."


def filter_of(rows: Rows, cameras: Collection[int], after: str | None, before: str | None) -> Filter:
    """Return the filter of cameras and of times given as text; raises :class:`DataError` for times of another form."""
    ends = []
    for text, none in ((after, -math.inf), (before, math.inf)):
        if not text:
            ends.append(none)
            continue
        time, form = parse_time(text)
        if rows.times is not None and form != rows.time_form:
            raise DataError(f"{text} is one of the {form}, but the times of the index are {rows.time_form}.")
        ends.append(time)
    return Filter(cameras, *ends)
