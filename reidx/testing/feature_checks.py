"""Conformance checks of all components, and of transforms, samplers, backbones and fusions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidx.contracts import OUTLIERS_OF, RESERVED, Features
from reidx.errors import ConfigError
from reidx.registry.build import fill_defaults
from reidx.registry.registry import KINDS, Entry
from reidx.testing.given import (
    IMAGE_SIZE,
    backbone_columns,
    build_component,
    contract_of_example,
    expect,
    expect_finite,
    fusion_with_inputs,
    known_labels,
    seeded_generator,
    sorted_names,
    spec_of,
)

# ---- all kinds


def loads(entry: Entry) -> None:
    """Check that the module is importable and has the class."""
    expect(isinstance(entry.load(), type), "the registered object is not a class")


def is_documented(entry: Entry) -> None:
    """Check that the class has its own docstring, whose first line describes the result."""
    text = vars(entry.load()).get("__doc__") or ""
    expect(bool(text.strip()), "the class has no docstring")
    expect(bool(text.split("\n")[0].strip()), "the docstring must start on its first line, with the result")


def example_is_complete(entry: Entry) -> None:
    """Check that the example is a valid spec, also with the defaults written out."""
    context = KINDS[entry.kind].context
    filled = fill_defaults(entry.kind, spec_of(entry), context)
    expect(fill_defaults(entry.kind, filled, context) == filled, "its defaults are not accepted as values")


def declares_a_contract(entry: Entry) -> None:
    """Check that requires, provides, cameras, outliers and clusterer_input have valid types and values, and an effect."""
    contract = contract_of_example(entry)
    names = contract.requires | contract.provides
    expect(all(isinstance(name, str) for name in names), "requires and provides are names of features")
    if entry.kind == "clusterer":
        expect(
            contract.clusterer_input in ("graph", "features"),
            f"clusterer_input is {contract.clusterer_input!r}; it must be graph or features",
        )
    if entry.kind in ("clusterer", "memory"):
        words = OUTLIERS_OF[entry.kind]
        expect(contract.outliers in words, f"outliers is {contract.outliers!r}; it must be {' or '.join(words)}")


# ---- transform, sampler, backbone, fusion


def makes_network_input(entry: Entry) -> None:
    """Check that uint8 (B,3,H,W) become float32 of the same shape, reproducibly, with the input unchanged."""
    transform = build_component(entry, image_size=IMAGE_SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    images = torch.randint(0, 256, (4, 3, *IMAGE_SIZE), dtype=torch.uint8, generator=seeded_generator())
    given = images.clone()

    def transformed() -> Tensor:
        torch.manual_seed(3)
        return transform.batch(given)

    out = transformed()
    expect(torch.equal(given, images), "it changed the images that it was given")
    expect(
        out.dtype == torch.float32 and out.shape == images.shape, f"it gave {out.dtype} {tuple(out.shape)}"
    )
    expect_finite(out, "images")
    expect(torch.equal(out, transformed()), "the same seed gave other images; draw only from torch's generator")


def fills_every_batch(entry: Entry) -> None:
    """Check for the requested number of batches, all of one size, of valid positions, and the same for the same seed."""
    labels = known_labels()
    labels[::9] = -1
    given = {"labels": labels, "cameras": np.arange(len(labels)) % 3, "images": len(labels), "batches": 7}

    def drawn(rank: int = 0, world_size: int = 1, seed: int = 0) -> list[list[int]]:
        sampler = build_component(entry, **given, rank=rank, world_size=world_size)
        expect(len(sampler) == 7, f"its length is {len(sampler)}, not the 7 batches that were requested")
        torch.manual_seed(seed)
        return [list(batch) for batch in sampler]

    batches = drawn()
    sizes = {len(batch) for batch in batches}
    expect(len(batches) == 7, f"it gave {len(batches)} batches, not the 7 that were requested")
    expect(len(sizes) == 1 and 0 not in sizes, f"its batches are of different sizes: {sorted(sizes)}")
    positions = {position for batch in batches for position in batch}
    expect(positions <= set(range(len(labels))), "it gave positions that do not exist")
    expect(batches == drawn(), "the same seed gave other batches; draw only from torch's generator")
    expect(batches != drawn(seed=1), "another seed gave the same batches")
    try:
        halves = [drawn(rank, 2) for rank in (0, 1)]
    except ConfigError:
        return  # two processes cannot share the batches of the example, and the sampler raises an error
    joined = [a + b for a, b in zip(*halves)]
    expect(
        [sorted(b) for b in joined] == [sorted(b) for b in batches],
        "the batches of two processes together are not those of one",
    )


def gives_a_map(entry: Entry) -> None:
    """Check for a map (B,C,h,w) with C as declared, which in evaluation mode treats each image independently."""
    torch.manual_seed(0)
    backbone = build_component(entry, image_size=IMAGE_SIZE).eval()
    images = torch.randn(3, 3, *IMAGE_SIZE, generator=seeded_generator())
    columns = backbone_columns(backbone, 3)
    with torch.no_grad():
        together = backbone(images, **columns)
        one = backbone(images[:1], **{name: column[:1] for name, column in columns.items()})
    tokens = {} if isinstance(together, Tensor) else dict(together)
    for name, tensor in (tokens or {"the map": together}).items():
        expect(len(tensor) < 2 or not torch.equal(tensor[0], tensor[1]), f"{name} is the same for different images")
    expect(not tokens or "map" in tokens, f"it gave {sorted_names(tokens)}, and no map")
    maps, alone = (together, one) if not tokens else (tokens.pop("map"), one["map"])
    declared, dims = contract_of_example(entry).provides, getattr(backbone, "dims", {})
    expect(set(tokens) == declared, f"provides is {sorted_names(declared)}, not {sorted_names(tokens)}")
    expect(set(dims) == declared, f"dims names {sorted_names(dims)}, not {sorted_names(declared)}")
    for name, tensor in tokens.items():
        axes = 3 if name.endswith("tokens") else 2
        rule = "(B,T,D), as a name that ends in tokens" if axes == 3 else "(B,D), as a name that does not end in tokens"
        right = tensor.ndim == axes and len(tensor) == 3 and tensor.shape[-1] == dims[name]
        expect(right, f"{name} is {tuple(tensor.shape)}, not {rule}, with D = dims[{name!r}] = {dims[name]}")
        expect_finite(tensor, name)
        expect(torch.allclose(tensor[:1], one[name], atol=1e-3), f"{name} of an image depends on the rest of its batch")
    expect(maps.ndim == 4 and len(maps) == 3, f"it gave {tuple(maps.shape)}, not (B,C,h,w)")
    expect(
        maps.shape[1] == backbone.out_channels,
        f"out_channels is {backbone.out_channels}, not {maps.shape[1]}",
    )
    expect_finite(maps, "map")
    expect(
        torch.allclose(maps[:1], alone, atol=1e-3),
        "in evaluation mode an image depends on the rest of its batch",
    )
    expect(isinstance(backbone.nonnegative, bool), "nonnegative must be True or False: whether no entry is below 0")
    expect(
        not backbone.nonnegative or bool((maps >= 0).all()),
        "it declares nonnegative, but its map has entries below 0",
    )
    for name in ("mean", "std"):
        given = getattr(backbone, name, None)
        expect(given is None or len(given) == 3, f"{name} is {given}; it must be one number per channel")


def trains_every_parameter(entry: Entry) -> None:
    """Check that each trainable parameter of a backbone receives a gradient."""
    torch.manual_seed(0)
    backbone = build_component(entry, image_size=IMAGE_SIZE).train()
    made = backbone(torch.randn(4, 3, *IMAGE_SIZE, generator=seeded_generator()), **backbone_columns(backbone, 4))
    named = {"the map": made} if isinstance(made, Tensor) else dict(made)
    if any(parameter.requires_grad for parameter in backbone.parameters()):
        detached = [name for name, output in named.items() if not output.requires_grad]
        expect(not detached, f"no gradient flows through {', '.join(detached)}")
    outputs = list(named.values())
    sum((output * torch.randn(output.shape, generator=seeded_generator())).sum() for output in outputs).backward()  # type: ignore[union-attr]
    idle = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    expect(not idle, f"parameters that its output does not depend on: {', '.join(idle[:5])}")


def gives_the_features_it_declares(entry: Entry) -> None:
    """Check for features named as in ``provides`` with widths ``dims``, including ``embed`` (B,D), in fp32 and bf16."""
    fusion, maps, named = fusion_with_inputs(entry)
    contract = contract_of_example(entry)
    for mode in (True, False):
        features = fusion.train(mode)(maps, **named)
        expect(isinstance(features, Features), f"it returned {type(features).__name__}, not Features")
        expect(
            set(features) == contract.provides,
            f"provides is {sorted_names(contract.provides)}, not {sorted_names(features)}",
        )
        expect(
            set(fusion.dims) == set(features),
            f"dims names {sorted_names(fusion.dims)}, not {sorted_names(features)}",
        )
        for name, tensor in features.items():
            expect(
                tensor.shape[-1] == fusion.dims[name],
                f"dims[{name!r}] is {fusion.dims[name]}, not {tensor.shape[-1]}",
            )
            expect(len(tensor) == len(maps), f"{name!r} is of {len(tensor)} images")
            expect_finite(tensor, name)
            declaration = "in part_features" if name in contract.part_features else "of parts, and not in part_features"
            expect((tensor.ndim == 3) == (name in contract.part_features), f"{name!r} is {tuple(tensor.shape)}, {declaration}")
        for name in getattr(fusion, "figures", ()):
            expect(fusion.dims.get(name) == 1, f"figures names {name!r}, which is not a feature of one number per image")
        expect(features["embed"].ndim == 2, f"embed is {tuple(features['embed'].shape)}, not (B,D)")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in named.items()}
        for name, tensor in fusion(maps.bfloat16(), **half).items():
            expect_finite(tensor, f"{name} in bf16")


def features_are_independent_of_the_batch(entry: Entry) -> None:
    """Check that evaluation features are independent of the batch, and that in training a gradient reaches the backbone."""
    fusion, maps, named = fusion_with_inputs(entry)
    fusion.train()(maps, **named)  # makes the running statistics differ from those of a new BatchNorm
    together = fusion.eval()(maps, **named)
    alone = fusion(maps[:1], **{name: value[:1] for name, value in named.items()})
    for name, tensor in together.items():
        expect(
            torch.allclose(tensor[:1], alone[name], atol=1e-4),
            f"{name!r} of an image depends on the rest of its batch",
        )
    tokens = {name: value for name, value in named.items() if name not in RESERVED and value.is_floating_point()}
    inputs = {name: value.clone().requires_grad_() for name, value in {"": maps, **tokens}.items()}
    maps = inputs.pop("")
    embed = fusion.train()(maps, **{**named, **inputs})["embed"]
    (embed * torch.randn(embed.shape, generator=seeded_generator())).sum().backward()
    reached = any(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in (maps, *inputs.values()))
    expect(reached, f"no gradient reaches {' or '.join(['the map', *inputs])} from embed")
