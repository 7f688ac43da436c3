"""The column ``clothes``: one number for each outfit of each person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reidx.data.datasets.base import Split


def with_clothes(splits: Sequence[Split], outfits: Sequence[Sequence[int]]) -> list[Split]:
    """The splits with a column ``clothes``, numbered from 0 over all splits, in the order of (person, outfit).

    ``outfits`` numbers each image's outfit among those of its person, so that two people never share a number.
    """
    people = np.concatenate([split.ids for split in splits if split.ids is not None])
    pairs = np.stack([people, np.concatenate([np.asarray(worn, np.int64) for worn in outfits])], axis=1)
    numbers = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    return [replace(split, columns={"clothes": part}) for split, part in zip(splits, np.split(numbers, ends), strict=True)]
