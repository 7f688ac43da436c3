"""Feature maps of timm models: extraction, diagnosis of failures, and image pixels outside the receptive field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reidx.contracts import argument_names
from reidx.errors import ConfigError
from reidx.models.positions import Size
from reidx.models.timm_models import create, error_text, pretrained_source


class NoMap(ValueError):
    """Error for a model without a map at any image size; the message gives the reason."""


def raw_map(model: Any, images: Tensor, tokens: bool) -> Tensor:
    """Compute the map of ``images`` before the pooling, and before a norm that follows the pooling.

    For token models the map is (B,C,h,w), after the final norm; other models keep their own order of dimensions.

    Raises :class:`NoMap` for a model that gives something else.
    """
    if not tokens:
        maps = model.forward_features(images)
        if not isinstance(maps, Tensor):
            raise NoMap(f"it gives a {type(maps).__name__} of {len(maps)} feature tensors, not a single map")
        if maps.ndim != 4:
            raise NoMap(f"its features have {maps.ndim} dimensions, and no rows and columns")
        return maps
    if not hasattr(model, "forward_intermediates"):
        raise NoMap("it gives a row of tokens, and has no `forward_intermediates` that would lay them out as a map")
    try:
        return model.forward_intermediates(images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[0]
    except AssertionError as error:
        if "norm" in str(error):
            raise NoMap("its `forward_intermediates` lays its tokens out as a map before the final norm only") from error
        raise


def map_and_tokens(model: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the map (B,C,h,w) of a token model, and its other tokens by name, all after the final norm."""
    both = model.forward_intermediates(
        images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True, return_prefix_tokens=True
    )
    maps, prefix = both[0]
    tokens, first = {}, 0
    for name, count in prefix_tokens(model).items():
        tokens[name] = prefix[:, first : first + count] if name.endswith("tokens") else prefix[:, first]
        first += count
    return maps, tokens


def prefix_tokens(model: Any) -> dict[str, int]:
    """The tokens that a model gives before those of the patches, in their order: names with counts; empty for other models."""
    if "return_prefix_tokens" not in argument_names(getattr(model, "forward_intermediates", len)):
        return {}  # its forward pass does not give them
    registers = getattr(model, "reg_token", None)
    there = {
        "class_token": int(getattr(model, "cls_token", None) is not None),
        "distillation_token": int(getattr(model, "dist_token", None) is not None),
        "register_tokens": 0 if registers is None else registers.shape[1],
    }
    found = {name: count for name, count in there.items() if count}
    return found if sum(found.values()) == getattr(model, "num_prefix_tokens", 0) else {}


def head_norm_first(model: Any, features: Any) -> bool:
    """Return True if the first layer with parameters in the head of ``model`` is a norm.

    The norm can then be applied to each place of the map before pooling; only the order differs. InceptionNeXt's
    norm follows a linear layer with other channels, and cannot be applied to the map.
    """
    head = getattr(model, "head", None)
    norm = getattr(head, "norm", None)
    if not isinstance(norm, nn.Module) or not isinstance(features, Tensor):
        return False
    called: list[nn.Module] = []
    inside = set(norm.modules())
    watched = [m for m in head.modules() if m is norm or (m not in inside and next(m.parameters(False), None) is not None)]  # type: ignore[union-attr]
    hooks = [m.register_forward_pre_hook(lambda module, _: called.append(module)) for m in watched]
    try:
        model.forward_head(features)
    finally:
        for hook in hooks:
            hook.remove()
    return called[:1] == [norm]


def no_map(name: str, size: Size, error: Exception) -> ConfigError:
    """The error for a model without a map of images of ``size``, which says whether another size would work."""
    asked, own = _text(size), _text(recorded_size(name))
    if isinstance(error, NoMap):
        return ConfigError(f"Timm: {name} gives no feature map at any image size: {error}. Choose another model.")
    if asked != own:
        again = _fails_at(name, recorded_size(name))
        if again is None:
            return ConfigError(
                f"Timm: {name} gives no feature map for {asked} images ({error_text(error)}), but it does for {own} images. "
                "Choose another data.image_size, or another model."
            )
        if isinstance(again, NoMap):
            return no_map(name, size, again)
        error = again
    return ConfigError(
        f"Timm: {name} gives no feature map, not even for {own} images, the size that timm records for it "
        f"({error_text(error)}). Choose another model."
    )


def recorded_size(name: str) -> Size:
    """The image size that timm records for a model."""
    return tuple(pretrained_source(name)["input_size"][-2:])  # type: ignore[return-value]


def _fails_at(name: str, size: Size) -> Exception | None:
    """The error of computing the map of one image of ``size``; None if there is none."""
    fixed = {"img_size": size} if pretrained_source(name).get("fixed_input_size") else {}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = create(name, {"num_classes": 0, **fixed}).eval()
            images = torch.zeros(1, 3, *size)
            features = model.forward_features(images)
            raw_map(model, images, isinstance(features, Tensor) and features.ndim == 3)
    except Exception as error:
        return error
    return None


def lost_pixels(name: str, backbone: nn.Module, model: Any, size: Size) -> list[str]:
    """Sentences on the rows and columns at the image edge that do not affect the map; empty if all do.

    ``backbone`` is in evaluation mode. A NaN pixel makes every output that depends on it NaN, for any weights.
    """
    rows, columns = (_seen(backbone, size, axis) for axis in (2, 3))
    height, width = size
    lost = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((height - rows, "row"), (width - columns, "column")) if n]
    if not lost:
        return []
    sizes = [(rows, columns)]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and len(patch) == 2:
        sizes.append((rows + (patch[0] if rows < height else 0), columns + (patch[1] if columns < width else 0)))
    fit = " or ".join(f"[{h}, {w}]" for h, w in sizes)
    return [
        f"{name} does not see the last {' and '.join(lost)} of {height}x{width} images, in training and in testing: they "
        f"are less than a patch. With data.image_size: {fit} nothing is lost."
    ]


@torch.no_grad()
def _seen(backbone: nn.Module, size: Size, axis: int) -> int:
    """Number of leading rows (``axis`` 2) or columns (3) that affect the map."""
    whole = size[axis - 2]

    def matters(first: int) -> bool:
        """Return True if the map depends on any row or column from ``first`` on."""
        images = torch.zeros(1, 3, *size)
        images.narrow(axis, first, whole - first).fill_(float("nan"))
        made = backbone(images)
        return bool((made if isinstance(made, Tensor) else made["map"]).isnan().any())

    if matters(whole - 1):
        return whole
    low, high = 0, whole - 1  # the map depends on pixels from low on, but not on any from high on
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if matters(middle) else (low, middle)
    return high


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
