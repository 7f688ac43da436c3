"""Numbers for the identities, cameras and other values that the user's own names or tables give as texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reidx.data.datasets.base import parse_number
from reidx.errors import DataError


@dataclass(frozen=True)
class Numbering:
    """The ``numbers`` (N,) int64 of N texts, -1 for an empty one.

    ``names`` are the texts that were numbered, in sorted order; none if the texts are numbers themselves. ``remarks`` report
    a mixture of names and numbers.
    """

    numbers: np.ndarray
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def number_texts(texts: Sequence[str], what: str, where: Callable[[int], str]) -> Numbering:
    """Number texts: whole numbers stay as they are; if one of them is a name, all are numbered from 0 in sorted order.

    ``what`` is the meaning of the texts, and ``where(place)`` the location of one of them, for messages.

    Raises :class:`DataError` for a number that is negative or not whole, is written in two ways, or is beyond int64.
    """
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        if text:
            first.setdefault(text, place)
    others = [text for text in first if not (text.isascii() and text.isdigit())]
    if others and all(map(_is_numeric, others)):
        message = f"{what} is {others[0]!r}; it must be a whole number from 0, a name, or empty."
        raise DataError(f"{where(first[others[0]])}: {message}")
    if not others:
        values = _whole_numbers(first, what, where)
        return Numbering(np.array([values[text] if text else -1 for text in texts], np.int64), (), ())
    names = tuple(sorted(first))
    values = {name: number for number, name in enumerate(names)}
    numbers = np.array([values[text] if text else -1 for text in texts], np.int64)
    if len(others) == len(first):
        return Numbering(numbers, names, ())
    example = f"such as {others[0]!r} ({where(first[others[0]])})"
    whole = len(first) - len(others)
    mixed = f"{what} has {len(others):,} names, {example}, and {whole:,} whole numbers; all are read as names"
    return Numbering(numbers, names, (mixed,))


def _whole_numbers(first: dict[str, int], what: str, where: Callable[[int], str]) -> dict[str, int]:
    values: dict[str, int] = {}
    spelt: dict[int, str] = {}
    for text, place in first.items():
        value = values[text] = parse_number(text, what, where(place))
        if (other := spelt.setdefault(value, text)) != text:
            raise DataError(
                f"{where(place)}: {what} is {text!r}, but {where(first[other])} writes that number {other!r}. "
                "Write it in one way."
            )
    return values


def _is_numeric(text: str) -> bool:
    """Return True for a text that reads as a number of any kind."""
    try:
        float(text)
    except ValueError:
        return text.isnumeric()
    return True
