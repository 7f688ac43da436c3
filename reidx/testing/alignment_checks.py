"""Conformance checks of alignments: values and gradients, precision, and restoring from a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reidx.contracts import Features
from reidx.registry.registry import Entry
from reidx.testing.given import (
    DIM,
    build_component,
    contract_of_example,
    expect,
    expect_finite,
    feature_views,
    seeded_generator,
    sorted_names,
)

SIZES = [(6, 8), (8, 6), (5, 5)]
STEPS = 10
SIDES = ("source", "target")
BYSTANDER = "bystander"
"""Name of a feature that no alignment requires."""

Pair = tuple[Features, Features]


def aligns_two_domains(entry: Entry) -> None:
    """Check for finite scalars at all batch sizes, and gradients of the required features of both sides within some steps.

    A class may name in ``detached`` the side (``source``, ``target``) that receives no gradient.
    """
    detached: frozenset[str] = getattr(entry.load(), "detached", frozenset())
    alignment = alignment_after_begin(entry)
    reached: set[str] = set()
    for sizes in SIZES:
        pair = batches(entry, sizes)
        gradients = backward(alignment, pair)
        reached |= {side for side, found in gradients.items() if any(bool(g.any()) for g in found.values())}
    for side in SIDES:
        if side in detached:
            expect(side not in reached, f"it declares that the {side} is detached, but a gradient reaches it")
        else:
            expect(side in reached, f"no gradient reaches the {side}'s features")


def ignores_other_features(entry: Entry) -> None:
    """Check that features it does not require do not affect its value, including ``embed``, which is always present."""
    alignment, pair = alignment_after_begin(entry), batches(entry, SIZES[0])
    required = contract_of_example(entry).requires
    for _ in range(3):
        for side, found in backward(alignment, pair).items():
            touched = {name for name, gradient in found.items() if name not in required and bool(gradient.any())}
            expect(not touched, f"it is trained by the {side}'s {sorted_names(touched)}, which it does not require")


def is_finite_for_equal_domains(entry: Entry) -> None:
    """Check for finite values and gradients when both domains share a batch, and when all images are the same."""
    for alike in (False, True):
        alignment = alignment_after_begin(entry)
        for _ in range(3):
            pair = batches(entry, (6, 6), same=True, alike=alike)
            what = "one image over and over" if alike else "equal batches"
            for found in backward(alignment, pair, what).values():
                for name, gradient in found.items():
                    expect_finite(gradient, f"gradient of {name} for {what}")


def aligns_in_fp32(entry: Entry) -> None:
    """Check that bf16 features under autocast are compared as accurately as the same numbers in float32."""
    sides = batches(entry, SIZES[0])
    coarse, fine = (
        tuple(Features({name: t.detach().bfloat16().to(dtype) for name, t in side.items()}) for side in sides)
        for dtype in (torch.bfloat16, torch.float32)
    )
    expected = [value.detach() for value in values(alignment_after_begin(entry)(*fine))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values(alignment_after_begin(entry)(*coarse))
    for wanted, value in zip(expected, (value.detach() for value in found)):
        expect(value.dtype == torch.float32, f"it gives {value.dtype} for features in bf16")
        expect(
            torch.allclose(wanted, value, rtol=1e-3, atol=1e-5),
            f"bf16 features give {float(value):.5f}, the same in float32 {float(wanted):.5f}",
        )


def resumes_from_a_checkpoint(entry: Entry) -> None:
    """Check that a restored state continues with the same values and gradients, without another ``begin``."""
    saved = alignment_after_begin(entry)
    for sizes in SIZES:
        step(saved, batches(entry, sizes))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    fresh = build_alignment(entry, seed=1)
    try:
        fresh.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:
        raise AssertionError(f"its state cannot be loaded into a new one: {error}") from error
    for _ in range(3):
        one, other = (step(alignment, batches(entry, SIZES[0])) for alignment in (saved, fresh))
        expect(all(map(torch.equal, one, other)), "with the state of a checkpoint it does not continue as before")


# ---- helpers of the checks


def build_alignment(entry: Entry, seed: int = 0) -> Any:
    """Build the alignment, in training mode, for a stage of 10 steps."""
    names = {"embed", BYSTANDER, *contract_of_example(entry).requires}
    torch.manual_seed(seed)
    return build_component(entry, dims=dict.fromkeys(names, DIM), steps=STEPS).train()


def alignment_after_begin(entry: Entry) -> Any:
    """Return the alignment at a stage's first epoch: after ``begin``, if any, with the features of all training images."""
    alignment = build_alignment(entry)
    if hasattr(alignment, "begin") and getattr(alignment, "needs_features", True):
        features = feature_views(contract_of_example(entry).requires)
        alignment.begin(features, {name: tensor.flip(-1)[:200] for name, tensor in features.items()})
    return alignment


def batches(entry: Entry, sizes: tuple[int, int], same: bool = False, alike: bool = False) -> Pair:
    """Return features of both sides: equal in both if ``same``, for all images if ``alike``; of parts (B,3,16)."""
    names = sorted({"embed", BYSTANDER, *contract_of_example(entry).requires})

    def side(size: int, seed: int) -> Features:
        def rows(name: str) -> Tensor:
            shape = (1 if alike else size, *([3] if name in ("parts", "patch") else []), DIM)
            given = torch.randn(shape, generator=seeded_generator(seed + names.index(name)))
            return given.expand(size, *shape[1:]).clone().requires_grad_()

        return Features({name: rows(name) for name in names})

    return side(sizes[0], 10), side(sizes[1], 10 if same else 40)


def values(given: Tensor | dict[str, Tensor]) -> list[Tensor]:
    """Return the scalars whose sum is the loss."""
    found = list(given.values()) if isinstance(given, dict) else [given]
    expect(bool(found), "it returned no value at all")
    for value in found:
        expect(isinstance(value, Tensor) and value.ndim == 0, "it returned something that is no scalar tensor")
    return found


def backward(alignment: nn.Module, pair: Pair, what: str = "a batch") -> dict[str, dict[str, Tensor]]:
    """Return the gradient of each feature by side and name, 0 where there is none."""
    found = values(alignment(*pair))
    for value in found:
        expect_finite(value, f"value for {what}")
    total = torch.stack(found).sum()
    expect(total.requires_grad, "no gradient: it does not depend on its inputs")
    gradients = iter(torch.autograd.grad(total, list(_all(pair)), allow_unused=True))
    return {
        side: {n: torch.zeros_like(t) if (g := next(gradients)) is None else g for n, t in features.items()}
        for side, features in zip(SIDES, pair)
    }


def step(alignment: nn.Module, pair: Pair) -> list[Tensor]:
    """Run a step, which updates the alignment's own parameters; return its values and gradients."""
    found = values(alignment(*pair))
    own = [parameter for parameter in alignment.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(torch.stack(found).sum(), [*own, *_all(pair)], allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(own, gradients):
            if gradient is not None:
                parameter.sub_(0.1 * gradient)
    return [*(value.detach() for value in found), *(g for g in gradients if g is not None)]


def _all(pair: Pair) -> Iterable[Tensor]:
    return (tensor for features in pair for tensor in features.values())
