"""The eps with the most clusters, found without identities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from reidx.errors import DataError
from reidx.labels import DBSCAN, Jaccard
from reidx.labels.most_clusters import most_clusters
from reidx.labels.pipeline import quality

CHAIN = [0.1, 0.1, 0.5, 0.1, 0.1]
"""Distances of consecutive images: two groups of three, 0.5 apart."""


def chain(steps: list[float]) -> csr_array:
    """Return the graph of images on a line, of which only neighbours are stored."""
    n = len(steps) + 1
    dense = np.zeros((n, n), np.float32)
    for i, step in enumerate(steps):
        dense[i, i + 1] = dense[i + 1, i] = step
    return csr_array(dense)


def test_eps_between_outliers_and_merged_clusters_is_chosen() -> None:
    found = most_clusters(chain(CHAIN), [0.05, 0.2, 0.4, 0.6], min_samples=3)
    assert found.tried == [(0.05, 0, 6), (0.2, 2, 0), (0.4, 2, 0), (0.6, 1, 0)]
    assert found.eps == 0.4, "the largest of those with the most clusters"
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1] == DBSCAN(0.4, 3)(chain(CHAIN)).tolist()


def test_images_without_clusters_are_refused() -> None:
    with pytest.raises(DataError, match="No 4 of 6 images are alike"):
        most_clusters(chain(CHAIN), [0.05, 0.2])


def test_choice_agrees_with_the_identities_of_separate_people() -> None:
    random = torch.Generator().manual_seed(0)
    people = torch.arange(30).repeat_interleave(10)
    centres = torch.nn.functional.normalize(torch.randn(30, 64, generator=random), dim=1)
    features = torch.nn.functional.normalize(centres[people] + 0.18 * torch.randn(300, 64, generator=random), dim=1)
    graph = Jaccard(k1=20, k2=6)(features)
    found = most_clusters(graph)
    ari = {eps: quality(DBSCAN(eps)(graph), people.numpy())["ari"] for eps, *_ in found.tried}
    assert ari[found.eps] > max(ari.values()) - 0.05 and min(ari.values()) < 0.5
