"""Cameras, a column of the data set and features reach every component that names them, on one process and on two."""

from __future__ import annotations

import hashlib
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
from reidx.contracts import Batch, Features, LabelSet, RefinerContext
from reidx.data.domains import Domains
from reidx.data.transforms import ReidTest
from reidx.engine.objective import Objective
from reidx.engine.step import StageModel
from reidx.evaluation import KReciprocal
from reidx.evaluation.protocols import Protocol
from reidx.fusions.global_pool import GlobalPool
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.distances.jaccard import Jaccard
from reidx.memories.classifier import LinearClassifier
from reidx.models.backbones import Timm
from reidx.models.network import Network
from reidx.runs import checkpoint as checkpoints
from reidx.testing.networks import TinyBackbone, TinyHead
from reidx.testing.tiny import tiny_domain

TRUTH: dict[str, np.ndarray] = {}
"""Columns of the training, query and gallery images by name, against which the components compare what they get."""
DATA = {"image_size": [48, 24], "interpolation": "bicubic", "workers": 0, "cache_gb": 1.0}
ALL, STEP = 144, 8
"""Training images of the domain, and images of a step over all processes."""
PLACES: dict[bytes, int] = {}
"""Position of each image of all splits, one split after the other, by its mark."""


def image_mark(image: Tensor) -> bytes:
    """The digest of a normalised image."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).digest()


def compare_columns(index: Any = slice(None), **columns: Any) -> None:
    """Raise unless the columns are those of the images at ``index``, in their order."""
    for name, column in columns.items():
        assert column is not None and column.dtype in (np.int64, torch.int64)
        assert np.array_equal(np.asarray(column), TRUTH[name][index]), name


class SeeingBackbone(Timm):
    """Backbone with cameras and clothes, and with the cameras as a token."""

    provides = frozenset({"camera_token"})
    contract = None  # not that of the base class

    def __init__(self, image_size: tuple[int, int] = (48, 24)) -> None:
        super().__init__("test_resnet", image_size=image_size)
        self.dims = {"camera_token": 1}

    def forward(self, images: Tensor, cameras: Tensor | None = None, clothes: Tensor | None = None) -> Any:  # type: ignore[override]
        maps = super().forward(images)
        if cameras is None:  # while it is built
            return maps
        assert clothes is not None
        places = np.array([PLACES[image_mark(image)] for image in images])
        compare_columns(places, of_all_cameras=cameras, of_all_clothes=clothes)
        return {"map": maps, "camera_token": cameras[:, None].float()}


class SeeingFusion(GlobalPool):
    """GlobalPool that compares the cameras with the token of the backbone."""

    def forward(self, maps: Tensor, camera_token: Tensor, cameras: Tensor, tracks: Any = None) -> Features:  # type: ignore[override]
        assert torch.equal(camera_token[:, 0], cameras.float()) and tracks is None
        return super().forward(maps)


class SeeingDistance(Jaccard):
    """Jaccard distance with the epoch, cameras and a second feature."""

    calls = 0

    def __call__(  # type: ignore[override]
        self, features: Tensor, *, pooled: Tensor, epoch: int, cameras: np.ndarray, clothes: np.ndarray, within: float = 1.0
    ) -> Any:
        compare_columns(cameras=cameras, clothes=clothes)
        assert epoch == self.calls
        self.calls += 1
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


class SeeingReranker(KReciprocal):
    """Re-ranking with cameras and clothes."""

    def __call__(  # type: ignore[override]
        self,
        query_features: Tensor,
        gallery_features: Tensor,
        *,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
        query_clothes: np.ndarray,
        gallery_clothes: np.ndarray,
    ) -> Any:
        compare_columns(query_cams=query_cams, gallery_cams=gallery_cams)
        compare_columns(query_clothes=query_clothes, gallery_clothes=gallery_clothes)
        return super().__call__(query_features, gallery_features)


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
    for kind, part in (("backbone", SeeingBackbone), ("fusion", SeeingFusion),
                       ("distance", SeeingDistance), ("clusterer", SeeingClusterer), ("refiner", Again),
                       ("memory", SeeingMemory), ("loss", SeeingLoss), ("protocol", SeeingProtocol),
                       ("reranker", SeeingReranker)):  # fmt: skip
        register(kind, part)
    table = table_with_clothes(tiny_domain(domains_root), tmp_path / "table.csv")
    config = reidx.load_config(experiment(
        data={"image_size": [48, 24], "domains": {"target": {"type": "CSV", "path": str(table), "columns": ["clothes"]}}},
        evaluate={"domain": "target", "protocol": "SeeingProtocol", "rerank": "SeeingReranker"},
        labels={
            "domain": "target",
            "distance": {"type": "SeeingDistance", "k1": 8, "k2": 2},
            "clusterer": {"type": "SeeingClusterer", "eps": 0.7, "min_samples": 2},
            "refiners": ["Again"],
        },
        memories={"rows": {"memory": "SeeingMemory"}},
        objective=[{"loss": "CrossEntropy", "memory": "rows"}, {"loss": "SeeingLoss", "weight": 0.1}],
        model={"backbone": {"type": "SeeingBackbone"}, "fusion": {"type": "SeeingFusion"}, "bn_group": 2},
        streams={"target": {"domain": "target", "labels": "main", "transform": "ReidTest",
                            "sampler": {"type": "PK", "identities": 4, "instances": 2}}},
        grad_cache_chunks=2,
        calibrate=1,
    ))  # fmt: skip
    split = Domains(config.data["data"]).split("target", "train")
    clothes = (split.ids + split.cameras) % 3  # type: ignore[operator]
    TRUTH.update(cameras=split.cameras, clothes=np.where(np.arange(ALL) % 10 == 0, -1, clothes))
    domains = Domains(config.data["data"])
    backbone = Timm("test_resnet", image_size=(48, 24))
    transform = ReidTest(backbone.mean, backbone.std)
    splits = [domains.split("target", name) for name in ("train", "query", "gallery")]
    for column in ("cameras", "clothes"):
        TRUTH[f"of_all_{column}"] = np.concatenate([each.named_columns()[column] for each in splits])
    assert np.array_equal(TRUTH["of_all_clothes"][:ALL], TRUTH["clothes"])
    PLACES.clear()
    for name in ("train", "query", "gallery"):
        store = domains.images("target", name)
        for image in transform.batch(store.batch(list(range(len(store))))):
            PLACES[image_mark(image)] = len(PLACES)
    assert len(PLACES) == len(TRUTH["of_all_cameras"])
    for side in ("query", "gallery"):
        there = domains.split("target", side)
        worn = (there.ids + there.cameras) % 3  # type: ignore[operator]
        TRUTH.update({f"{side}_cams": there.cameras, f"{side}_clothes": worn})
    assert len(split) == ALL and len(np.unique(split.cameras)) == 3
    if world == 1:
        reidx.run(config, tmp_path / "run", progress="quiet")
    else:
        arguments = (world, str(tmp_path / "meet"), config, str(tmp_path / "run"))
        multiprocessing.start_processes(work, arguments, nprocs=world, start_method="fork")
    state = checkpoints.load(tmp_path / "run/1-adapt/epoch_2.pth")["state_dict"]
    assert state["memories.rows.counts"].tolist() == [2, 6]
    assert "reranked_mAP" in (tmp_path / "run/1-adapt/log.jsonl").read_text(encoding="utf-8")


class CodedBackbone(TinyBackbone):
    """Map whose every entry is the first pixel of the image minus the image's camera."""

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:  # type: ignore[override]
        return (images[:, :1, :1, :1] - cameras.view(-1, 1, 1, 1)).expand(-1, 4, 2, 2)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("chunks", [1, 2])
def test_columns_follow_their_images_through_a_step(joint: bool, chunks: int) -> None:
    network = Network(CodedBackbone(), TinyHead(), bn_group=2)
    labels, transforms = dict.fromkeys("ab"), dict.fromkeys("ab", lambda x: x.float())
    student = {"student": network}
    model = StageModel(student, {}, {}, {}, Objective([]), transforms, labels, joint, grad_cache_chunks=chunks)
    cameras = {"a": torch.arange(4), "b": torch.arange(10, 14)}
    images = {name: its.view(-1, 1, 1, 1).expand(-1, 3, 2, 2) for name, its in cameras.items()}
    batches = {name: Batch(images[name], torch.arange(4), cameras=cameras[name]) for name in labels}
    model(batches)
    outputs, _ = model._last_step  # type: ignore[misc]
    for name in labels:
        assert torch.equal(outputs["student"][name]["pooled"], torch.zeros(4, 4))
