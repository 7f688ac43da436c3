"""What every component of a kind must do, as checks that a plugin's tests run over the plugin's own components.

    from reidx.testing import conformance

    @pytest.mark.parametrize(("entry", "check"), conformance.cases("lf2"), ids=conformance.label)
    def test_contract(entry, check):
        check(entry)

A check builds the component from its ``example`` and raises :class:`AssertionError` that says what it did wrong. What a
component is called with, and what it returns, is said in the table of ``docs/design.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from reidx.builder import build, fill_defaults
from reidx.contracts import Contract, Features, LabelSet, contract_of
from reidx.engine.objective import INPUTS, inputs_of
from reidx.errors import ConfigError
from reidx.labels.pipeline import Labelling
from reidx.labels.pipeline import check as check_labels
from reidx.memory import Memory
from reidx.plugins import registry
from reidx.registry import KINDS, Entry

Check = Callable[[Entry], None]

IMAGE_SIZE = (64, 32)
DIM = 16
GROUPS, MEMBERS = 64, 8
"""The bank of features that distances, clusterers and memories are given: so many groups of so many alike."""


def checks_for(kind: str) -> list[Check]:
    """The checks of a kind: those of all components first, then what is asked of this kind."""
    return [loads, is_documented, example_is_complete, declares_a_contract, *_OF_KIND.get(kind, [])]


def cases(namespace: str | None = None) -> list[tuple[Entry, Check]]:
    """Every registered component of a plugin (of the core for ``""``, of all for None) with each check it must pass."""
    entries = [e for e in registry().entries() if namespace is None or e.namespace == namespace]
    return [(entry, check) for entry in entries for check in checks_for(entry.kind)]


def label(value: Entry | Check) -> str:
    """A short name for a test's id."""
    return f"{value.kind}:{value.name}" if isinstance(value, Entry) else value.__name__


# ---- all kinds


def loads(entry: Entry) -> None:
    """The module is importable and has the class."""
    _expect(isinstance(entry.load(), type), "what the registry names is no class")


def is_documented(entry: Entry) -> None:
    """The class's own docstring starts with a line that says what comes out."""
    text = vars(entry.load()).get("__doc__") or ""
    _expect(bool(text.strip()), "the class has no docstring")
    _expect(bool(text.split("\n")[0].strip()), "the docstring must start on its first line, with the result")


def example_is_complete(entry: Entry) -> None:
    """The example is a spec that is accepted, and still is with the defaults written out."""
    context = KINDS[entry.kind].context
    filled = fill_defaults(entry.kind, _spec(entry), context)
    _expect(fill_defaults(entry.kind, filled, context) == filled, "its defaults are not accepted as values")


def declares_a_contract(entry: Entry) -> None:
    """Requires, provides, cameras, outliers and needs are of the right types and values."""
    contract = _contract(entry)
    names = contract.requires | contract.provides
    _expect(all(isinstance(name, str) for name in names), "requires and provides are names of features")
    if entry.kind == "clusterer":
        _expect(contract.needs in ("graph", "features"), f"needs is {contract.needs!r}; it must be graph or features")
        _expect(
            contract.outliers in ("emits", "never"), f"outliers is {contract.outliers!r}; it must be emits or never"
        )
    if entry.kind == "memory":
        _expect(contract.outliers in ("keep", "drop"), f"outliers is {contract.outliers!r}; it must be keep or drop")


# ---- transform, sampler, backbone, fusion


def makes_network_input(entry: Entry) -> None:
    """uint8 (B,3,H,W) become float32 of the same shape, the same for the same seed, and stay as they were."""
    transform = _build(entry, image_size=IMAGE_SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    images = torch.randint(0, 256, (4, 3, *IMAGE_SIZE), dtype=torch.uint8, generator=_seeded())
    given = images.clone()

    def once() -> Tensor:
        torch.manual_seed(3)
        return transform.batch(given)

    out = once()
    _expect(torch.equal(given, images), "it changed the images that it was given")
    _expect(out.dtype == torch.float32 and out.shape == images.shape, f"it gave {out.dtype} {tuple(out.shape)}")
    _finite(out, "images")
    _expect(torch.equal(out, once()), "the same seed gave other images; draw from torch's generator alone")


def fills_every_batch(entry: Entry) -> None:
    """As many batches as asked for, all of one size, of positions there are, the same for the same seed."""
    labels = _labels()
    labels[::9] = -1
    given = {"labels": labels, "cameras": np.arange(len(labels)) % 3, "images": len(labels), "batches": 7}

    def drawn(rank: int = 0, world_size: int = 1, seed: int = 0) -> list[list[int]]:
        sampler = _build(entry, **given, rank=rank, world_size=world_size)
        _expect(len(sampler) == 7, f"its length is {len(sampler)}; it was asked for 7 batches")
        torch.manual_seed(seed)
        return [list(batch) for batch in sampler]

    batches = drawn()
    sizes = {len(batch) for batch in batches}
    _expect(len(batches) == 7, f"it gave {len(batches)} batches; it was asked for 7")
    _expect(len(sizes) == 1 and 0 not in sizes, f"its batches are of different sizes: {sorted(sizes)}")
    positions = {position for batch in batches for position in batch}
    _expect(positions <= set(range(len(labels))), "it gave positions that do not exist")
    _expect(batches == drawn(), "the same seed gave other batches; draw from torch's generator alone")
    _expect(batches != drawn(seed=1), "another seed gave the same batches")
    try:
        halves = [drawn(rank, 2) for rank in (0, 1)]
    except ConfigError:
        return  # the example cannot be shared by two processes, and it says so
    joined = [a + b for a, b in zip(*halves)]
    _expect([sorted(b) for b in joined] == [sorted(b) for b in batches], "two processes do not share what one draws")


def gives_a_map(entry: Entry) -> None:
    """Images (B,3,H,W) become a map (B,C,h,w) with C as declared; image by image alike in evaluation mode."""
    torch.manual_seed(0)
    backbone = _build(entry, image_size=IMAGE_SIZE).eval()
    images = torch.randn(3, 3, *IMAGE_SIZE, generator=_seeded())
    with torch.no_grad():
        maps = backbone(images)
        alone = backbone(images[:1])
    _expect(maps.ndim == 4 and len(maps) == 3, f"it gave {tuple(maps.shape)}, not (B,C,h,w)")
    _expect(maps.shape[1] == backbone.out_channels, f"out_channels is {backbone.out_channels}, not {maps.shape[1]}")
    _finite(maps, "map")
    _expect(torch.allclose(maps[:1], alone, atol=1e-3), "in evaluation mode an image hangs on the rest of its batch")
    _expect(isinstance(backbone.nonnegative, bool), "nonnegative must say whether no entry is below 0")
    _expect(not backbone.nonnegative or bool((maps >= 0).all()), "it says nonnegative, but its map has entries below 0")
    for name in ("mean", "std"):
        given = getattr(backbone, name, None)
        _expect(given is None or len(given) == 3, f"{name} is {given}; one number a channel is wanted")


def trains_every_parameter(entry: Entry) -> None:
    """A gradient reaches each trainable parameter of a backbone."""
    torch.manual_seed(0)
    backbone = _build(entry, image_size=IMAGE_SIZE).train()
    maps = backbone(torch.randn(4, 3, *IMAGE_SIZE, generator=_seeded()))
    (maps * torch.randn(maps.shape, generator=_seeded())).sum().backward()
    idle = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    _expect(not idle, f"parameters that the map does not hang on: {', '.join(idle[:5])}")


def gives_the_features_it_declares(entry: Entry) -> None:
    """Features named as in ``provides``, as wide as in ``dims``, ``embed`` (B,D) among them, in float32 and bf16."""
    fusion, arguments = _fusion(entry)
    contract = _contract(entry)
    for mode in (True, False):
        features = fusion.train(mode)(*arguments)
        _expect(isinstance(features, Features), f"it returned {type(features).__name__}, not Features")
        _expect(set(features) == contract.provides, f"provides is {_in_order(contract.provides)}, not {_in_order(features)}")
        _expect(set(fusion.dims) == set(features), f"dims speaks of {_in_order(fusion.dims)}, not {_in_order(features)}")
        for name, tensor in features.items():
            _expect(tensor.shape[-1] == fusion.dims[name], f"dims[{name!r}] is {fusion.dims[name]}, not {tensor.shape[-1]}")
            _expect(len(tensor) == len(arguments[0]), f"{name!r} is of {len(tensor)} images")
            _finite(tensor, name)
        _expect(features["embed"].ndim == 2, f"embed is {tuple(features['embed'].shape)}, not (B,D)")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, tensor in fusion(*(a.bfloat16() for a in arguments)).items():
            _finite(tensor, f"{name} in bf16")


def features_are_an_images_own(entry: Entry) -> None:
    """In evaluation mode the features of an image do not hang on its batch; in training a gradient reaches the map."""
    fusion, arguments = _fusion(entry)
    fusion.train()(*arguments)  # running statistics that are not those of a new BatchNorm
    together = fusion.eval()(*arguments)
    alone = fusion(*(a[:1] for a in arguments))
    for name, tensor in together.items():
        _expect(torch.allclose(tensor[:1], alone[name], atol=1e-4), f"{name!r} of an image hangs on the rest of its batch")
    maps = arguments[0].clone().requires_grad_()
    embed = fusion.train()(maps, *arguments[1:])["embed"]
    (embed * torch.randn(embed.shape, generator=_seeded())).sum().backward()
    _expect(maps.grad is not None and bool(maps.grad.abs().sum() > 0), "no gradient reaches the map from embed")


# ---- distance, clusterer, refiner


def gives_a_graph(entry: Entry) -> None:
    """Features become a sparse graph (N,N), float, no distance below 0, the nearer ones within groups; twice the same."""
    distance = _build(entry, device="cpu")
    views = _contract(entry).requires
    bank, same = _bank(), _labels()[:, None] == _labels()
    given = _views(views) if views else bank
    graph = distance(given)
    _expect(isinstance(graph, csr_array), f"it returned {type(graph).__name__}, not a csr_array")
    _expect(graph.shape == same.shape, f"the graph is {graph.shape}, not {same.shape}")
    _expect(graph.data.dtype.kind == "f", f"distances are {graph.data.dtype}, not floats")
    _expect(bool(np.isfinite(graph.data).all() and (graph.data >= 0).all()), "distances must be finite and not negative")
    dense = np.ones(graph.shape)  # what is not stored is at distance 1
    entries = graph.tocoo()
    dense[entries.row, entries.col] = entries.data
    _expect(dense[same].mean() < dense[~same].mean(), "images that are alike are not nearer than others")
    again = distance(given)
    _expect(np.array_equal(again.toarray(), graph.toarray()), "the same features gave another graph")


def gives_labels(entry: Entry) -> None:
    """Labels (N,) int64, −1 or 0..K−1 without gaps, the same for the same input; no −1 unless declared."""
    contract = _contract(entry)
    given = _graph() if contract.needs == "graph" else _bank()

    def once() -> np.ndarray:
        return _build(entry, seed=1)(given)

    labels = once()
    _labelling(LabelSet(labels), len(_labels()))
    _expect(contract.outliers == "emits" or labels.min() >= 0, "it says outliers: never, and there is a -1")
    _expect(np.array_equal(labels, once()), "the same input and seed gave other labels")


def refines_labels(entry: Entry) -> None:
    """A LabelSet becomes a LabelSet that keeps the contract, with and without a history; the given one stays."""
    refiner = _build(entry)
    truth = _labels()
    bank = _views({"embed", *_contract(entry).requires})
    for previous in (None, np.roll(truth, 3)):
        labels = truth.copy()
        labels[:5] = -1
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64) - 1
        before = labels.copy()
        context = Labelling(bank, "embed", _graph(), _clustered_anew, 0, previous, np.arange(len(labels)) % 3)
        refined = refiner(LabelSet(labels), context)
        _expect(isinstance(refined, LabelSet), f"it returned {type(refined).__name__}, not a LabelSet")
        _labelling(refined, len(labels))
        _expect(np.array_equal(labels, before), "it changed the labels that it was given")
        for name in ("weights", "soft_targets"):
            extra = getattr(refined, name)
            _expect(extra is None or bool(np.isfinite(extra).all()), f"{name} are not finite")


# ---- memory, loss, alignment


def keeps_the_memory_cycle(entry: Entry) -> None:
    """reset, forward, update, and a reset to another number of labels: scores (B,K) with a gradient for the features."""
    memory = _build(entry, dim=DIM)
    _expect(isinstance(memory, Memory), "it is no subclass of reidx.memory.Memory")
    bank, truth = _bank(), torch.from_numpy(_labels())
    for labels in (truth.clone(), truth % 5, truth % 9):
        labels[3] = -1
        memory.reset(bank if memory.needs_bank else None, labels, torch.arange(len(labels)) % 3)
        index = torch.arange(10, 22)
        features = F.normalize(bank[index] + 0.01).requires_grad_()
        scores = memory(features)
        classes = int(labels.max()) + 1
        _expect(scores.ndim == 2 and len(scores) == len(index), f"scores are {tuple(scores.shape)}, not (B,K)")
        _expect(scores.shape[1] >= classes, f"there are {scores.shape[1]} scores for {classes} labels")
        _finite(scores, "scores")
        scores.square().sum().backward()
        _expect(features.grad is not None and bool(features.grad.abs().sum() > 0), "no gradient reaches the features")
        memory.update(features.detach(), labels[index], index)
        _finite(memory(features.detach()), "scores after an update")


def comes_back_from_a_checkpoint(entry: Entry) -> None:
    """A new memory that is restored from another's state scores alike, whatever size it had, and can be updated."""
    bank, labels = _bank(), torch.from_numpy(_labels())
    saved, fresh = _build(entry, dim=DIM), _build(entry, dim=DIM)
    saved.reset(bank if saved.needs_bank else None, labels, torch.arange(len(labels)) % 3)
    fresh.restore(saved.state_dict())
    _expect(torch.equal(saved(bank[:9]), fresh(bank[:9])), "the restored memory gives other scores")
    fresh.update(bank[:9], labels[:9], torch.arange(9))
    _finite(fresh(bank[:9]), "scores after an update")


def is_a_scalar_with_a_gradient(entry: Entry) -> None:
    """A loss of the inputs that its forward names: one finite number, with a finite gradient, with the optional ones too."""
    loss = _build(entry)
    needed, optional = inputs_of(type(loss))
    unknown = (needed | optional) - set(INPUTS)
    _expect(not unknown, f"its forward asks for {_in_order(unknown)}; a loss may ask for {', '.join(INPUTS)}")
    for names in (needed, needed | optional):
        for alike in (False, True):
            given = {name: value for name, value in _inputs(alike).items() if name in names}
            value = loss(**given)
            _expect(isinstance(value, Tensor) and value.ndim == 0, "it returned no scalar tensor")
            _finite(value, "loss")
            trained = [given[name] for name in ("features", "scores") if name in given]
            _expect(bool(trained), "its forward asks for neither features nor scores, so it cannot train anything")
            _gradients(value, trained, "all images alike" if alike else "a batch")


def aligns_two_domains(entry: Entry) -> None:
    """An alignment of two domains' features, of different batch sizes: one finite number with a finite gradient."""
    names = sorted({"embed", *_contract(entry).requires})
    alignment = _build(entry, dims=dict.fromkeys(names, DIM))
    given = [
        Features({name: torch.randn(size, DIM, generator=_seeded(seed)).requires_grad_() for name in names})
        for seed, size in ((1, 6), (2, 8))
    ]
    value = alignment(*given)
    _expect(isinstance(value, Tensor) and value.ndim == 0, "it returned no scalar tensor")
    _finite(value, "alignment")
    _gradients(value, [tensor for features in given for tensor in features.values()], "a batch")


# ---- protocol


def ignores_row_by_row(entry: Entry) -> None:
    """Bool (Q,G), each query's row the same whatever the other queries are; somebody's match is left."""
    protocol = _build(entry)
    random = np.random.default_rng(0)
    query_ids, gallery_ids = random.integers(0, 6, 20), random.integers(-1, 6, 50)
    query_cameras, gallery_cameras = random.integers(0, 3, 20), random.integers(0, 3, 50)
    skip = protocol.ignored(query_ids, gallery_ids, query_cameras, gallery_cameras)
    _expect(skip.shape == (20, 50) and skip.dtype == np.bool_, f"it gave {skip.dtype} {skip.shape}, not bool (Q,G)")
    rows = protocol.ignored(query_ids[7:9], gallery_ids, query_cameras[7:9], gallery_cameras)
    _expect(np.array_equal(rows, skip[7:9]), "what a query ignores hangs on the other queries")
    matches = query_ids[:, None] == gallery_ids
    _expect(bool((matches & ~skip).any()), "it ignores every match")
    for name in ("name", "version", "camera_filter", "junk"):
        _expect(hasattr(protocol, name), f"it has no {name}, which the card of a result says")


_OF_KIND: dict[str, list[Check]] = {
    "transform": [makes_network_input],
    "sampler": [fills_every_batch],
    "backbone": [gives_a_map, trains_every_parameter],
    "fusion": [gives_the_features_it_declares, features_are_an_images_own],
    "distance": [gives_a_graph],
    "clusterer": [gives_labels],
    "refiner": [refines_labels],
    "memory": [keeps_the_memory_cycle, comes_back_from_a_checkpoint],
    "loss": [is_a_scalar_with_a_gradient],
    "alignment": [aligns_two_domains],
    "protocol": [ignores_row_by_row],
}


# ---- what is given


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _labelling(labels: LabelSet, images: int) -> None:
    try:
        check_labels(labels, images)
    except ValueError as error:
        raise AssertionError(str(error)) from error


def _finite(tensor: Tensor, what: str) -> None:
    _expect(bool(torch.isfinite(tensor).all()), f"{what}: not all finite")


def _in_order(names: Any) -> str:
    return ", ".join(sorted(names))


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _spec(entry: Entry) -> dict[str, Any]:
    return {"type": entry.name, **entry.component.example}


def _build(entry: Entry, **context: Any) -> Any:
    return build(entry.kind, _spec(entry), **context)


def _contract(entry: Entry) -> Contract:
    """The contract, for the defaults written out, as an experiment reads it."""
    filled = fill_defaults(entry.kind, _spec(entry), KINDS[entry.kind].context)
    return contract_of(entry.load(), {key: value for key, value in filled.items() if key != "type"})


def _fusion(entry: Entry) -> tuple[Any, list[Tensor]]:
    """The fusion, and what it is called with: the maps, and a teacher's where it asks for them."""
    torch.manual_seed(0)
    fusion = _build(entry, in_channels=64)
    asks = set().union(*inputs_of(type(fusion)))
    maps = [torch.rand(5, 64, 8, 4, generator=_seeded(seed)) for seed in range(2 if "teacher" in asks else 1)]
    return fusion, maps


def _labels() -> np.ndarray:
    return np.repeat(np.arange(GROUPS), MEMBERS).astype(np.int64)


def _clustered_anew(*_: object) -> np.ndarray:
    """What other settings of the clusterer would find: pairs of groups as one cluster."""
    return _labels() // 2


def _bank() -> Tensor:
    """Unit features (N, 16), those of a group close together."""
    middle = torch.randn(GROUPS, DIM, generator=_seeded(5))[torch.from_numpy(_labels())]
    return F.normalize(middle + 0.1 * torch.randn(middle.shape, generator=_seeded(6)))


def _views(names: Iterable[str]) -> dict[str, Tensor]:
    """The bank under each name; ``parts`` (N,3,16), as three times that."""
    return {name: _bank()[:, None].repeat(1, 3, 1) if name == "parts" else _bank() for name in sorted(names)}


def _graph() -> csr_array:
    """Cosine distances of the bank below 0.5, symmetric, diagonal stored."""
    bank = _bank().double().numpy()
    dense = np.maximum(1.0 - bank @ bank.T, 0.0)
    rows, columns = np.nonzero(dense < 0.5)
    return csr_array((dense[rows, columns].astype(np.float32), (rows, columns)), shape=dense.shape)


def _inputs(alike: bool) -> Mapping[str, Tensor]:
    """All that a loss can ask for, of 8 images of 4 labels; ``alike``: of 8 times the same image."""

    def rows(width: int, seed: int) -> Tensor:
        return torch.randn(1 if alike else 8, width, generator=_seeded(seed)).expand(8, width)

    targets = torch.arange(8) // 2
    return {
        "features": F.normalize(rows(DIM, 1)).detach().clone().requires_grad_(),
        "targets": targets,
        "scores": rows(4, 2).detach().clone().requires_grad_(),
        "weights": torch.linspace(0.0, 1.0, 8),
        "soft_targets": torch.softmax(rows(4, 3), 1),
        "teacher": F.normalize(rows(DIM, 4)),
        "teacher_scores": rows(4, 5).clone(),
        "cameras": torch.arange(8) % 2,
        "index": torch.arange(8),
    }


def _gradients(value: Tensor, trained: list[Tensor], when: str) -> None:
    _expect(value.requires_grad, "it carries no gradient")
    gradients = [g for g in torch.autograd.grad(value, trained, allow_unused=True) if g is not None]
    _expect(bool(gradients), "no gradient reaches what it was given")
    for gradient in gradients:
        _finite(gradient, f"gradient for {when}")
