"""Batches of a stream: their columns, no hidden identities, and the same images from any number of workers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidx.contracts import Batch, LabelSet
from reidx.data.datasets import Dataset as Domain
from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.data.images import ImageStore
from reidx.data.loading import LabelledView, StreamLoader, batches
from reidx.data.samplers import PK, Shuffle
from reidx.errors import ConfigError
from reidx.testing.tiny import IMAGE_SIZE, tiny_domain

SIZE = (8, 4)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Ten images, each of one grey that identifies it."""
    for i in range(10):
        Image.new("RGB", (4, 8), (20 * i,) * 3).save(tmp_path / f"{i}.png")
    return ImageStore([str(tmp_path / f"{i}.png") for i in range(10)], SIZE)


CAMERAS = np.arange(10) % 3
LABELS = np.array([0, 0, 1, 1, -1, 2, 2, 2, -1, 0])


def view_of(store: ImageStore, **columns: np.ndarray) -> LabelledView:
    return LabelledView(store, CAMERAS, LabelSet(LABELS, **columns))


def greys(batch: Batch) -> list[int]:
    return [int(v) // 20 for v in batch.images[:, 0, 0, 0]]


def test_batch_has_images_with_their_columns(store: ImageStore) -> None:
    weights = np.linspace(0, 1, 10, dtype=np.float32)
    soft = np.random.default_rng(0).random((10, 3), dtype=np.float32)
    batch = view_of(store, weights=weights, soft_targets=soft).__getitems__([7, 2, 2])
    assert batch.images.shape == (3, 3, *SIZE) and batch.images.dtype == torch.uint8
    assert greys(batch) == batch.index.tolist() == [7, 2, 2]
    assert batch.targets.tolist() == [2, 1, 1] and batch.cameras.tolist() == [1, 2, 2]
    assert np.array_equal(batch.weights, weights[[7, 2, 2]]) and np.array_equal(batch.soft_targets, soft[[7, 2, 2]])
    assert batch.targets.dtype == batch.index.dtype == torch.int64


def test_an_unlabelled_view_has_no_targets(store: ImageStore) -> None:
    batch = LabelledView(store, CAMERAS, None)[4]
    assert batch.targets is None
    assert batch.weights is None
    assert batch.soft_targets is None
    assert batch.cameras.tolist() == [1] and greys(batch) == [4]
    plain = view_of(store)[4]
    assert plain.targets.tolist() == [-1]
    assert plain.weights is None
    assert plain.soft_targets is None


def test_batch_can_switch_to_another_labelling(store: ImageStore) -> None:
    weights = np.linspace(1, 2, 10, dtype=np.float32)
    halves = LabelSet(LABELS[::-1].copy(), weights, extra={"turn": np.arange(10)})
    batch = LabelledView(store, CAMERAS, LabelSet(LABELS, extra={"turn": -np.arange(10)}), {"u": halves})[7]
    batch = batch.each(lambda column: column.repeat(2, *[1] * (column.dim() - 1)))  # applied to every column
    under = batch.with_labelling("u")
    assert batch.targets.tolist() == [2, 2]
    assert batch.weights is None
    assert batch.extra["turn"].tolist() == [-7, -7]
    assert under.targets.tolist() == [1, 1]
    assert under.extra["turn"].tolist() == [7, 7]
    assert set(under.extra) == {"turn"}
    assert np.array_equal(under.weights, weights[[7, 7]]) and under.soft_targets is None
    assert under.images is batch.images
    assert under.index is batch.index
    assert under.cameras is batch.cameras


def test_batch_has_the_columns_of_the_data_set(store: ImageStore) -> None:
    clothes = np.arange(10, dtype=np.int64) * 7
    view = LabelledView(store, CAMERAS, LabelSet(LABELS), {"u": LabelSet(LABELS[::-1].copy())}, {"clothes": clothes})
    batch = view.__getitems__([7, 2])
    assert batch.columns["clothes"].tolist() == [49, 14] and batch.extra.keys() == {"labels@u"}
    assert {name: column.tolist() for name, column in batch.named_columns().items()} == {"cameras": [1, 2], "clothes": [49, 14]}
    assert batch.with_labelling("u").columns["clothes"].tolist() == [49, 14]
    assert batch.each(lambda column: column[:1]).columns["clothes"].tolist() == [49]
    assert next(iter(batches(view, [[1, 3]], 0))).columns["clothes"].tolist() == [7, 21]
    assert view_of(store)[1].columns == {}


class Undeclared(Domain):
    """Data set with a column that its contract does not declare."""

    name, dropped, root = "undeclared", {}, ""  # type: ignore[assignment]

    def __init__(self) -> None:
        self.train = Split(["a.jpg"], None, np.zeros(1, np.int64), {"clothes": np.zeros(1, np.int64)})


class Declared(Undeclared):
    """Data set with a column that its contract declares."""

    columns = frozenset({"clothes"})


def test_columns_must_be_those_of_the_contract(register: Callable[[str, type], None]) -> None:
    register("dataset", Undeclared)
    register("dataset", Declared)
    domains = Domains({**data(Path()), "domains": {"bad": "Undeclared", "good": {"type": "Declared"}}})
    with pytest.raises(RuntimeError, match=r"Undeclared .* these further columns: clothes; its contract declares: none"):
        domains.split("bad", "train")
    assert domains.split("good", "train").columns["clothes"].tolist() == [0] and domains.columns("bad") == frozenset()


def test_column_needs_a_number_for_each_image() -> None:
    with pytest.raises(ValueError, match="clothes must be 1 int64 values"):
        Split(["a.jpg"], None, np.zeros(1, np.int64), {"clothes": np.zeros(2, np.int64)})


def reachable(thing: object) -> Iterator[np.ndarray]:
    """Yield all arrays that can be reached from an object."""
    known: set[int] = set()
    left = [thing]
    while left:
        item = left.pop()
        if id(item) in known or isinstance(item, type) or type(item).__name__ in ("module", "function"):
            continue
        known.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item.detach().numpy()
        elif isinstance(item, np.ndarray):
            yield item
        else:
            left += gc.get_referents(item)


@pytest.mark.parametrize("labels", [None, "pseudo", "identity"])
def test_identities_are_absent_unless_used_as_labels(domains_root: Path, labels: str | None) -> None:
    domains = Domains(data(domains_root))
    split = domains.split("target", "train")
    assert split.ids is not None
    identity = split.classes()
    shuffled = np.random.default_rng(0).permutation(identity)
    given = {None: None, "pseudo": LabelSet(shuffled), "identity": LabelSet(identity)}[labels]
    view = LabelledView(domains.images("target", "train"), split.cameras, given)

    def holds(thing: object) -> bool:
        return any(
            array.shape == identity.shape and (np.array_equal(array, identity) or np.array_equal(array, split.ids))
            for array in reachable(thing)
        )

    assert holds(view) == holds(batches(view, [[0, 1]], 0)) == (labels == "identity")
    assert holds(split)  # the search can find them


def drawn(store: ImageStore, workers: int, seed: int) -> list[dict[str, Batch]]:
    view, plain = view_of(store), LabelledView(store, CAMERAS, None)
    loader = StreamLoader(4)
    torch.manual_seed(seed)
    loader.use(
        {
            "labelled": batches(view, PK(LABELS, 4, CAMERAS, identities=2, instances=2), workers),
            "plain": batches(plain, Shuffle(10, 4, batch=3), workers),
        }
    )
    return list(loader)


def test_workers_change_nothing(store: ImageStore) -> None:
    here, there = drawn(store, 0, seed=5), drawn(store, 2, seed=5)
    assert len(here) == len(there) == 4
    for a, b in zip(here, there):
        for name in ("labelled", "plain"):
            for field, value in vars(a[name]).items():
                other = getattr(b[name], field)
                assert value == other if value in (None, {}) else torch.equal(value, other)
    other_seed = drawn(store, 0, seed=6)
    assert any(not torch.equal(a["plain"].index, b["plain"].index) for a, b in zip(here, other_seed))


def test_step_has_one_batch_per_stream(store: ImageStore) -> None:
    for step in drawn(store, 0, seed=1):
        assert list(step) == ["labelled", "plain"]
        assert len(step["labelled"].index) == 4 and len(step["plain"].index) == 3
        assert greys(step["labelled"]) == step["labelled"].index.tolist()
        assert torch.equal(step["labelled"].targets, torch.from_numpy(LABELS)[step["labelled"].index])
        assert (step["labelled"].targets >= 0).all() and step["plain"].targets is None


def test_a_new_labelling_is_a_new_view(store: ImageStore) -> None:
    loader = StreamLoader(2)
    seen = []
    for labels in (LABELS, np.where(LABELS < 0, -1, 2 - LABELS)):
        view = LabelledView(store, CAMERAS, LabelSet(labels))
        loader.use({"s": batches(view, PK(labels, 2, identities=2, instances=2), 0)})
        seen += [torch.equal(step["s"].targets, torch.from_numpy(labels)[step["s"].index]) for step in loader]
    assert seen == [True] * 4 and len(loader) == 2


def test_batch_moves_to_a_device_completely() -> None:
    batch = Batch(torch.zeros(2, 3, 1, 1), torch.arange(2), targets=torch.arange(2))
    moved = batch.to(torch.device("meta"))
    assert moved.images.device.type == moved.index.device.type == moved.targets.device.type == "meta"
    assert moved.cameras is None and moved.weights is None


# ---- domains


def data(root: Path, **changes: object) -> dict[str, object]:
    return {
        "domains": {"target": tiny_domain(root)}, "image_size": list(IMAGE_SIZE), "interpolation": "bilinear",
        "workers": 0, "cache_gb": 1.0, **changes,
    }  # fmt: skip


def test_one_store_per_split_follows_the_config(domains_root: Path) -> None:
    domains = Domains(data(domains_root))
    store = domains.images("target", "train")
    assert store is domains.images("target", "train") and domains["target"] is domains["target"]
    assert store is not domains.images("target", "query")
    assert store.paths == domains.split("target", "train").paths
    assert (store.size, store.interpolation) == (IMAGE_SIZE, "bilinear")


def test_the_cache_is_shared_by_all_splits(domains_root: Path) -> None:
    sizes = {s: len(Domains(data(domains_root)).split("target", s)) * 3 * 48 * 24 for s in ("train", "query", "gallery")}
    assert sizes["train"] > sizes["gallery"] > sizes["query"]
    # room for the training images, the queries and half as many again
    room = (sizes["train"] + sizes["query"] + sizes["query"] // 2) / (1 << 30)
    domains = Domains(data(domains_root, cache_gb=room))
    cached = {split: domains.images("target", split).cached_bytes for split in ("train", "gallery", "query")}
    assert cached == {"train": sizes["train"], "gallery": 0, "query": sizes["query"]}
    assert Domains(data(domains_root, cache_gb=0)).images("target", "query").cached_bytes == 0


def test_unknown_domain_error_lists_the_domains(domains_root: Path) -> None:
    with pytest.raises(ConfigError, match=r"no domain 'tagret'; data\.domains has target"):
        Domains(data(domains_root))["tagret"]
