"""Cameras, a column of the data set and features reach every component that names them, on one process and on two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

import reidx
from reidx.config.config import Config
from reidx.contracts import LabelSet, RefinerContext
from reidx.data.domains import Domains
from reidx.evaluation.protocols import Protocol
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.distances.jaccard import Jaccard
from reidx.memories.classifier import LinearClassifier
from reidx.runs import checkpoint as checkpoints
from reidx.testing.tiny import tiny_domain

TRUTH: dict[str, np.ndarray] = {}
"""Columns of the training images by name, against which the components compare what they get."""
DATA = {"image_size": [48, 24], "interpolation": "bicubic", "workers": 0, "cache_gb": 1.0}
ALL, STEP = 144, 8
"""Images of the domain, and images of a step over all processes."""


def compare_columns(index: Any = slice(None), **columns: Any) -> None:
    """Raise unless the columns are those of the images at ``index``, in their order."""
    for name, column in columns.items():
        assert column is not None and column.dtype in (np.int64, torch.int64)
        assert np.array_equal(np.asarray(column), TRUTH[name][index]), name


class SeeingDistance(Jaccard):
    """Jaccard distance with cameras and a second feature."""

    def __call__(  # type: ignore[override]
        self, features: Tensor, *, pooled: Tensor, cameras: np.ndarray, clothes: np.ndarray, within: float = 1.0
    ) -> Any:
        compare_columns(cameras=cameras, clothes=clothes)
        assert pooled.shape == features.shape and not torch.equal(pooled, features)
        return super().__call__(features, within=within)


class SeeingClusterer(DBSCAN):
    """DBSCAN with cameras."""

    def __call__(self, graph: Any, cameras: np.ndarray, clothes: np.ndarray) -> np.ndarray:  # type: ignore[override]
        compare_columns(cameras=cameras, clothes=clothes)
        return super().__call__(graph)


class Again:
    """Refiner that clusters again, and at another setting, and keeps the first labels."""

    def variations(self, clusterer: Any) -> list[dict[str, Any]]:
        return [{"eps": 0.65}]

    def __call__(
        self,
        labels: LabelSet,
        context: RefinerContext,
        *,
        cameras: np.ndarray,
        clothes: np.ndarray,
        pooled: Tensor,
        parts: Any = None,
        embed: Any = None,
    ) -> LabelSet:
        compare_columns(cameras=cameras, clothes=clothes)
        assert cameras is context.cameras and clothes is context.columns["clothes"] and list(context.columns) == ["clothes"]
        assert pooled is context.features["pooled"] and embed is context.features["embed"] and parts is None
        assert np.array_equal(context.cluster(), labels.labels)
        context.cluster(eps=0.65)
        return labels


class SeeingMemory(LinearClassifier):
    """Classifier that counts its calls with cameras."""

    counts: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, rows="centroid", normalize=True, scale=10.0)
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))

    def reset(
        self, features: Tensor | None, labels: Tensor, cameras: Tensor | None = None, clothes: Tensor | None = None
    ) -> None:
        assert len(labels) == ALL
        compare_columns(cameras=cameras, clothes=clothes)
        super().reset(features, labels)
        self.counts[0] += 1

    def update(
        self,
        features: Tensor,
        targets: Tensor,
        index: Tensor,
        cameras: Tensor | None = None,
        clothes: Tensor | None = None,
    ) -> None:
        assert len(features) == len(targets) == len(index) == STEP
        compare_columns(index.numpy(), cameras=cameras, clothes=clothes)
        self.counts[1] += 1


class SeeingLoss(nn.Module):
    """Loss with cameras and clothes."""

    def forward(self, features: Tensor, index: Tensor, cameras: Tensor, clothes: Tensor, tracks: Any = None) -> Tensor:
        assert len(features) == STEP and tracks is None
        compare_columns(index.numpy(), cameras=cameras, clothes=clothes)
        return features.square().mean()


class SeeingProtocol(Protocol):
    """Protocol that ignores images of the query's person in the query's clothes."""

    def __init__(self) -> None:
        super().__init__("clothes", "1", camera_filter=False)

    def ignored(  # type: ignore[override]
        self,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
        *,
        query_clothes: np.ndarray,
        gallery_clothes: np.ndarray,
    ) -> np.ndarray:
        assert np.array_equal(query_clothes, (query_ids + query_cams) % 3)  # as written into the table
        assert np.array_equal(gallery_clothes, (gallery_ids + gallery_cams) % 3)
        return (query_ids[:, None] == gallery_ids) & (query_clothes[:, None] == gallery_clothes)


def table_with_clothes(spec: dict[str, Any], table: Path) -> Path:
    """Write a table of a data set's images, with clothes named blue, red or white; some training images have none."""
    domains = Domains({**DATA, "domains": {"target": spec}})
    rows = ["path,pid,camid,split,clothes"]
    for name in ("train", "query", "gallery"):
        split = domains.split("target", name)
        for place, (path, who, camera) in enumerate(zip(split.paths, split.ids, split.cameras, strict=True)):
            worn = "" if name == "train" and place % 10 == 0 else ("blue", "red", "white")[(who + camera) % 3]
            rows.append(f"{path},{who},{camera},{name},{worn}")
    table.write_text("\n".join(rows), encoding="utf-8")
    return table


def work(rank: int, world: int, meet: str, config: Config, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    reidx.run(config, folder, progress="quiet")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2])
def test_components_get_the_columns_that_they_name(
    world: int, experiment: Callable[..., Path], register: Callable[[str, type], None], domains_root: Path, tmp_path: Path
) -> None:
    for kind, part in (("distance", SeeingDistance), ("clusterer", SeeingClusterer), ("refiner", Again),
                       ("memory", SeeingMemory), ("loss", SeeingLoss), ("protocol", SeeingProtocol)):  # fmt: skip
        register(kind, part)
    table = table_with_clothes(tiny_domain(domains_root), tmp_path / "table.csv")
    config = reidx.load_config(experiment(
        data={"image_size": [48, 24], "domains": {"target": {"type": "CSV", "path": str(table), "columns": ["clothes"]}}},
        evaluate={"domain": "target", "protocol": "SeeingProtocol"},
        labels={
            "domain": "target",
            "distance": {"type": "SeeingDistance", "k1": 8, "k2": 2},
            "clusterer": {"type": "SeeingClusterer", "eps": 0.7, "min_samples": 2},
            "refiners": ["Again"],
        },
        memories={"rows": {"memory": "SeeingMemory"}},
        objective=[{"loss": "CrossEntropy", "memory": "rows"}, {"loss": "SeeingLoss", "weight": 0.1}],
        model={"backbone": {"type": "Timm", "name": "test_resnet"}, "fusion": {"type": "GlobalPool"}, "bn_group": 2},
        grad_cache_chunks=2,
    ))  # fmt: skip
    split = Domains(config.data["data"]).split("target", "train")
    clothes = (split.ids + split.cameras) % 3  # type: ignore[operator]
    TRUTH.update(cameras=split.cameras, clothes=np.where(np.arange(ALL) % 10 == 0, -1, clothes))
    assert len(split) == ALL and len(np.unique(split.cameras)) == 3
    if world == 1:
        reidx.run(config, tmp_path / "run", progress="quiet")
    else:
        arguments = (world, str(tmp_path / "meet"), config, str(tmp_path / "run"))
        multiprocessing.start_processes(work, arguments, nprocs=world, start_method="fork")
    state = checkpoints.load(tmp_path / "run/1-adapt/epoch_2.pth")["state_dict"]
    assert state["memories.rows.counts"].tolist() == [2, 6]
