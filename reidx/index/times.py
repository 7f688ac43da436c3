"""Times of images: numbers (frames, seconds), or dates and times of day, which are kept as seconds since 1970 in UTC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np

from reidx.errors import DataError

NUMBERS, DATES = "numbers", "dates"


def parse_time(text: str) -> tuple[float, str]:
    """Return a time and its form, :data:`NUMBERS` or :data:`DATES`; a date without a zone is in UTC.

    Raises :class:`DataError` for anything but a finite number or an ISO 8601 date (``2026-05-01``, ``2026-05-01T10:30:00Z``).
    """
    given = text.strip()
    try:
        number = float(given)
    except ValueError:
        pass
    else:
        if math.isfinite(number):
            return number, NUMBERS
    try:
        found = datetime.fromisoformat(given.replace("Z", "+00:00").replace("z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp(), DATES
    except (ValueError, OverflowError):
        raise DataError(f"{given[:60]!r} is no time: give a number, or a date such as 2026-05-01T10:30.") from None


def parse_times(texts: Sequence[str], where: str) -> tuple[np.ndarray, str]:
    """Return times (N,) float64, NaN for empty texts, and their form; raises :class:`DataError` where both forms are mixed."""
    times, forms = np.full(len(texts), np.nan), set()
    for place, text in enumerate(texts):
        if text.strip():
            times[place], form = parse_time(text)
            forms.add(form)
    if len(forms) > 1:
        raise DataError(f"{where}: some times are numbers and others are dates. Write all of them in one form.")
    return times, forms.pop() if forms else NUMBERS


def show_time(time: float, form: str) -> str:
    """Return a time as text; empty if it is unknown."""
    if math.isnan(time):
        return ""
    if form == NUMBERS:
        return f"{time:.15g}"
    return datetime.fromtimestamp(time, timezone.utc).replace(tzinfo=None).isoformat(timespec="seconds")
