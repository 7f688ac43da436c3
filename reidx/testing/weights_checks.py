"""Conformance checks of key maps, the layouts of weight files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reidx.registry.registry import Entry
from reidx.testing.given import build_component, expect, seeded_generator


def recognises_its_layout_alone(entry: Entry) -> None:
    """Check that the sample is recognised, also with other tensors, and that other files are not."""
    key_map = build_component(entry)
    sample = _tensors(key_map)
    expect(callable(key_map(sample)), "it does not recognise its own sample")
    expect(callable(key_map({**sample, "optimizer.state.0.exp_avg": torch.zeros(2)})), "a further tensor hides its layout")
    for other in ({}, {"weight": torch.zeros(3, 4)}, {f"x{number}": tensor for number, tensor in enumerate(sample.values())}):
        expect(key_map(other) is None, f"it takes a file with the tensors {', '.join(other) or 'none'} for its layout")


def renames_each_tensor_once(entry: Entry) -> None:
    """Check for distinct new names, finite values, at least one tensor taken, and the same result again."""
    key_map = build_component(entry)
    sample = _tensors(key_map)
    before = {name: tensor.clone() for name, tensor in sample.items()}

    def renamed() -> dict[str, Tensor]:
        rename = key_map(sample)
        results = [result for name, tensor in sample.items() if (result := rename(name, tensor)) is not None]
        expect(len(dict(results)) == len(results), "two tensors get the same name")
        return dict(results)

    first, again = renamed(), renamed()
    expect(len(first) > 0, "it takes no tensor of the sample")
    expect(all(bool(tensor.isfinite().all()) for tensor in first.values()), "it makes numbers that are not finite")
    expect(first.keys() == again.keys(), "the same tensors get other names the second time")
    expect(all(torch.equal(first[name], again[name]) for name in first), "the same tensors get other values the second time")
    expect(all(torch.equal(before[name], sample[name]) for name in sample), "it changed the tensors of the file")


def _tensors(key_map: Any) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of the sample."""
    generator = seeded_generator()
    return {name: torch.rand(*shape, generator=generator) for name, shape in key_map.sample().items()}
