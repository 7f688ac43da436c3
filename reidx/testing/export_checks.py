"""Conformance check of backbones and fusions: export as a program for batches of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reidx.contracts import inputs_of_kind
from reidx.errors import ReidxError
from reidx.export.onnx_file import missing, onnx_model
from reidx.export.program import dynamic_program
from reidx.registry.registry import Entry
from reidx.testing.given import IMAGE_SIZE, build_component, expect, fusion_with_inputs, seeded_generator

SIZES = (1, 2, 7)


def exports_with_a_dynamic_batch(entry: Entry) -> None:
    """Check that torch exports it in evaluation mode, and that the program gives its outputs for batches of other sizes.

    The same is checked of an ONNX file, if the extra ``export`` is installed. A component that requires a column of the data
    set is exempt: an exported network gets images only.
    """
    torch.manual_seed(0)
    needed = inputs_of_kind(entry.kind, entry.load())[0]
    given: dict[str, Tensor]
    if entry.kind == "backbone":
        if needed:
            return
        module = build_component(entry, image_size=IMAGE_SIZE)
        given = {"images": torch.rand(3, 3, *IMAGE_SIZE, generator=seeded_generator())}
    else:
        module, maps, named = fusion_with_inputs(entry)
        given = {"maps": maps, **{name: named[name] for name in sorted(needed)}}
        if not all(value.is_floating_point() for value in given.values()):
            return
    module.eval()
    try:
        program = dynamic_program(module, given)
        forms: dict[str, Any] = {"a program of torch": program.module(), **({} if missing() else {"ONNX": onnx_model(program)})}
    except ReidxError as error:
        raise AssertionError(str(error)) from error
    for form, exported in forms.items():
        for size in SIZES:
            batch = {name: value.repeat(3, *[1] * (value.ndim - 1))[:size] for name, value in given.items()}
            first, *rest = batch
            with torch.no_grad():
                wanted = outputs_of(module(batch[first], **{name: batch[name] for name in rest}))
                made = exported(*batch.values())
                found = dict(zip(wanted, made, strict=True)) if form == "ONNX" else outputs_of(made)
            for name, tensor in wanted.items():
                same = found[name].shape == tensor.shape and torch.allclose(found[name], tensor, atol=1e-4)
                expect(same, f"as {form}, its {name or 'map'} differs for a batch of {size}")


def outputs_of(made: Any) -> Mapping[str, Tensor]:
    """The outputs of a backbone or fusion by name; a single tensor has no name."""
    return {"": made} if isinstance(made, Tensor) else made
