"""Each data set reads its miniature: counts of images, identities and cameras, decoded pixels, and its protocols."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reidx.data.decode import decode
from reidx.evaluation import evaluate
from reidx.registry.build import build
from reidx.testing.miniatures import MINIATURES

BY_NAME = pytest.mark.parametrize("miniature", MINIATURES, ids=[miniature.name for miniature in MINIATURES])


@BY_NAME
def test_data_set_reads_its_miniature(miniature, tmp_path):
    data = build("dataset", miniature.at(tmp_path / "data"))
    found = {split: tuple(getattr(data, split).counts().values()) for split in ("train", "query", "gallery")}
    assert found == dict(miniature.counts)


@BY_NAME
def test_every_image_of_a_miniature_decodes(miniature, tmp_path):
    data = build("dataset", miniature.at(tmp_path / "data"))
    paths = {path for split in (data.train, data.query, data.gallery) for path in split.paths}
    assert paths and all(np.asarray(decode(path)).std() > 5 for path in paths)


@BY_NAME
def test_protocols_rank_a_miniature(miniature, tmp_path):
    data = build("dataset", miniature.at(tmp_path / "data"))
    for spec in miniature.protocols:
        known = data.query.ids, data.gallery.ids
        people = np.unique(np.concatenate(known))
        perfect = [torch.from_numpy((ids[:, None] == people).astype(np.float32)) for ids in known]
        cameras, columns = (data.query.cameras, data.gallery.cameras), (data.query.columns, data.gallery.columns)
        found = evaluate(*perfect, *known, *cameras, build("protocol", dict(spec)), columns=columns)
        assert found.metrics["rank-1"] == 1.0
