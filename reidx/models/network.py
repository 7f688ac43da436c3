"""The network: a backbone and a fusion head, from images to named features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from reidx.contracts import Features, inputs_of_kind
from reidx.errors import Broken, ConfigError
from reidx.models.domain_norm import split_by_domain
from reidx.models.frozen import freeze_parts
from reidx.models.norm import group_batch_norm
from reidx.registry.build import build, contract
from reidx.registry.seam import call

Columns = Mapping[str, Tensor]
"""Cameras and further columns (B,) of the data set, by name."""

_NO_COLUMNS: Columns = MappingProxyType({})


class Network(nn.Module):
    """Images (B,3,H,W) → :class:`Features`, by ``backbone`` then ``fusion``.

    Both get the columns of the images that their ``forward`` names (``columns`` holds these names), the fusion also the
    tokens of the backbone, and the map of a teacher if it names ``teacher``; see :meth:`head`. ``mean`` and ``std`` are the
    normalisation that the backbone's weights expect. Modules that match ``freeze``
    (:func:`reidx.models.frozen.freeze_parts`) are not trained and always stay in evaluation mode: BatchNorms keep their
    running statistics and dropout is off. With ``domains``, each domain has its own BatchNorms
    (:mod:`reidx.models.domain_norm`). ``image_size`` is the size of the images it was built for, where known.
    """

    def __init__(
        self,
        backbone: nn.Module,
        fusion: nn.Module,
        bn_group: int | None = None,
        freeze: Sequence[str] = (),
        where: str = "model",
        domains: Sequence[str] = (),
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = image_size
        self.fusion = fusion
        self.tokens = tuple(getattr(backbone, "dims", ()))
        of_backbone, of_fusion = (
            set().union(*inputs_of_kind(kind, type(part))) for kind, part in (("backbone", backbone), ("fusion", fusion))
        )
        self.wants_teacher = "teacher" in of_fusion
        self._for_backbone = sorted(of_backbone)
        self._tokens_for_fusion = sorted(of_fusion.intersection(self.tokens))
        self._for_fusion = sorted(of_fusion.difference(self.tokens, ["teacher"]))
        self.columns = frozenset((*self._for_backbone, *self._for_fusion))
        self.mean: tuple[float, ...] = getattr(backbone, "mean", (0.485, 0.456, 0.406))
        self.std: tuple[float, ...] = getattr(backbone, "std", (0.229, 0.224, 0.225))
        if domains:
            split_by_domain(self, domains)
        self.bn_group = bn_group
        group_batch_norm(self, bn_group)
        self.frozen = freeze_parts(self, freeze, f"{where}.freeze")

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    @property
    def dims(self) -> dict[str, int]:
        """The width of each feature, by name."""
        return self.fusion.dims  # type: ignore[return-value]

    def encode(self, images: Tensor, columns: Columns = _NO_COLUMNS) -> Mapping[str, Tensor]:
        """The output of the backbone by name: ``map`` (B,C,h,w), and its tokens."""
        given = {name: columns[name] for name in self._for_backbone if name in columns}
        encoded = call("backbone", self.backbone, "forward", self.backbone, images, **given)
        return encoded if self.tokens else {"map": encoded}

    def head(
        self, encoded: Mapping[str, Tensor], teacher: Tensor | None = None, columns: Columns = _NO_COLUMNS
    ) -> Features:
        """The fusion's features of an encoded batch; ``teacher`` is the teacher's map, for a fusion that uses it."""
        given: dict[str, Any] = {name: encoded[name] for name in self._tokens_for_fusion}
        given |= {name: columns[name] for name in self._for_fusion if name in columns}
        if self.wants_teacher:
            given["teacher"] = teacher
        return call("fusion", self.fusion, "forward", self.fusion, encoded["map"], **given)

    def forward(self, images: Tensor, teacher: Tensor | None = None, columns: Columns = _NO_COLUMNS) -> Features:
        return self.head(self.encode(images, columns), teacher, columns)

    def refit(
        self, weights: Mapping[str, Tensor], trained_at: tuple[int, int] | None, where: str
    ) -> dict[str, Tensor]:
        """Adapt ``weights``, trained at image size ``trained_at`` (None: unknown), to this network.

        A backbone has a method ``refit`` of the same form if its tensors depend on the image size, or if it can start from
        the weights of another backbone. Raises :class:`CheckpointError`, which names ``where``, for weights that cannot be
        resized.
        """
        if self.image_size is None or not hasattr(self.backbone, "refit"):
            return dict(weights)
        own = {name: value for name, value in weights.items() if name.startswith("backbone.")}
        inner = {name.removeprefix("backbone."): value for name, value in own.items()}
        moved = self.backbone.refit(inner, trained_at, where)  # type: ignore[operator]
        rest = {name: value for name, value in weights.items() if name not in own}
        return {**rest, **{f"backbone.{name}": value for name, value in moved.items()}}


def build_network(
    model: Mapping[str, Any], image_size: tuple[int, int], where: str = "model", domains: Sequence[str] = ()
) -> Network:
    """The network of a ``model`` section (``backbone``, ``fusion``, ``bn_group``, ``freeze``, ``domain_bn``).

    ``domains`` are the domains of its images, which ``domain_bn`` needs.
    """
    size = (int(image_size[0]), int(image_size[1]))
    backbone = build("backbone", model["backbone"], where=f"{where}.backbone", image_size=size)
    return network_on(backbone, model, size, where, domains)


def network_on(
    backbone: nn.Module,
    model: Mapping[str, Any],
    size: tuple[int, int],
    where: str = "model",
    domains: Sequence[str] = (),
) -> Network:
    """The network of a ``model`` section on a ``backbone`` that was built from it, which becomes a part of the network."""
    context: dict[str, Any] = {}
    if requires_tail(model["fusion"]):
        context["tail"] = _cut(backbone, model, where)
    context["in_channels"] = call("backbone", backbone, "its out_channels", _channels, backbone)
    tokens = contract("backbone", model["backbone"]).provides
    context["token_dims"] = call("backbone", backbone, "its dims", _token_dims, backbone, tokens)
    fusion = build("fusion", model["fusion"], where=f"{where}.fusion", **context)
    call("fusion", fusion, "its dims", _dims, fusion, contract("fusion", model["fusion"]).provides)
    own = domains if model.get("domain_bn") else ()
    return Network(backbone, fusion, model["bn_group"], model["freeze"], where, own, size)


def _channels(backbone: nn.Module) -> int:
    channels = getattr(backbone, "out_channels", None)
    if not isinstance(channels, int) or channels < 1:
        raise Broken(f"its out_channels is {channels!r}, not the number of channels of its map")
    return channels


def _token_dims(backbone: nn.Module, provides: frozenset[str]) -> dict[str, int]:
    """The width of each token of a backbone; raises unless it states those that its contract provides."""
    dims = getattr(backbone, "dims", {})
    if not isinstance(dims, Mapping) or not all(isinstance(width, int) and width > 0 for width in dims.values()):
        raise Broken(f"its dims is {dims!r}, not a mapping of each token's name to its width")
    if set(dims) != provides:
        named, declared = (", ".join(sorted(names)) or "nothing" for names in (dims, provides))
        raise Broken(f"its dims names {named}, but `provides` {declared}")
    return dict(dims)


def _dims(fusion: nn.Module, provides: frozenset[str]) -> None:
    """Raise unless a fusion states the width of each feature that its contract provides."""
    dims = getattr(fusion, "dims", None)
    if not isinstance(dims, Mapping) or not all(isinstance(width, int) and width > 0 for width in dims.values()):
        raise Broken(f"its dims is {dims!r}, not a mapping of each feature's name to its width")
    if missing := sorted({"embed", *provides} - set(dims)):
        raise Broken(f"its dims has no {', '.join(missing)}, which `provides` declares (it has {', '.join(dims)})")


def requires_tail(fusion: Mapping[str, Any]) -> bool:
    """Return True if the fusion of a spec takes over the backbone's last stage, as its contract declares."""
    return contract("fusion", fusion).requires_tail


def _cut(backbone: nn.Module, model: Mapping[str, Any], where: str) -> nn.Module:
    if not hasattr(backbone, "cut"):
        raise ConfigError(
            f"{where}.fusion: {model['fusion']['type']} is set to take over the last stage of the backbone, and "
            f"{model['backbone']['type']} cannot be cut there. Set the fusion to work on the whole map."
        )
    try:
        return call("backbone", backbone, "cut", backbone.cut)  # type: ignore[arg-type]
    except ConfigError as error:
        named = f"{where}.fusion: {model['fusion']['type']} takes over the last stage of the backbone"
        raise ConfigError(f"{named}. {error}") from error


def channels_last(network: nn.Module) -> nn.Module:
    """Convert the 4-d weights of ``network`` to channels-last format, which speeds up convolutions."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
