"""Timm models as backbones: an NCHW feature map at any image size, for every model family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from reidx.errors import CheckpointError, ConfigError
from reidx.models.key_maps import LoadReport
from reidx.models.positions import Size
from reidx.models.pretrained import SAY, cannot_move, positions_of, with_weights
from reidx.models.timm_maps import (
    head_norm_first,
    lost_pixels,
    map_and_tokens,
    no_map,
    prefix_tokens,
    raw_map,
)
from reidx.models.timm_models import create, pretrained_source
from reidx.registry.constructor import FilePath


class Timm(nn.Module):
    """Any timm model with a feature map: ResNet, ViT, Swin and others.

    Maps images (B, 3, H, W) to a feature map (B, ``out_channels``, h, w) with the timm model ``name``.

    The map is the input of the model's own pooling, after the final norm: position tokens, without class and
    distillation tokens, arranged in their grid; the output of channels-last families is permuted to NCHW. The classifier
    and all other layers after the pooling are removed, so every trainable parameter contributes to the map. ``tokens`` adds
    other tokens of the model, after the same norm, for fusions that name them.

    Args:
        name: a timm model, with or without the tag of its weights (``vit_small_patch16_224.augreg_in1k``).
        pretrained: load timm's weights from its hub (or from the hub's cache on this machine).
        weights: load this file instead (``.safetensors``, or ``.pth`` read with ``weights_only=True``), in a layout of the kind
            ``weights`` or of timm; position embeddings are resized to ``image_size``, heads and classifiers left out.
        weights_image_size: (height, width) of the images that ``weights``, and checkpoints that record no size, were trained
            on. Required for models with position embeddings if neither the shapes nor the values in the file determine it.
        last_stride: stride of a ResNet's last stage. 1 doubles the height and width of the map without dilation ("last
            stride 1", Luo et al., "Bag of Tricks", CVPRW 2019); 2 keeps timm's; ``None`` means 1 for
            ResNets (also ResNeXt, SE-ResNet, ResNet-D, ResNeSt, …) and no change for other families.
        drop_path: rate of stochastic depth in training.
        tokens: tokens to provide with the map: ``class_token`` and ``distillation_token`` (B, C), ``register_tokens``
            (B, T, C).
        image_size: (height, width) of the images; models with position embeddings then accept no other size.

    Attributes:
        dims: width of each of ``tokens``.
        out_channels: channels of the map.
        map_size: (h, w) of the map at ``image_size``.
        weights_report: the tensors taken from the file ``weights``; None without one.
        nonnegative: whether the map ends in a ReLU, so that no entry is below 0. Known for ResNets; ``False`` otherwise.
        mean, std: normalisation that the weights expect; many ViTs are trained with 0.5, not ImageNet's.

    Raises:
        ConfigError: no such model (the nearest names are listed), a setting the model does not support, or pretrained
            weights that are unavailable.
        CheckpointError: the file ``weights`` is missing, unreadable, or not of this model.
    """

    @staticmethod
    def contract(name: str = "", tokens: Sequence[str] = (), **_: Any) -> dict[str, Any]:
        return {"provides": frozenset(tokens)}

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: FilePath | None = None,
        weights_image_size: tuple[int, int] | None = None,
        last_stride: int | None = None,
        drop_path: float = 0.0,
        tokens: Sequence[Literal["class_token", "distillation_token", "register_tokens"]] = (),
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        self.model: Any
        if pretrained and weights is not None:
            raise ConfigError(
                f"Timm {name}: give either `pretrained: true` or `weights: {weights}`, not both."
            )
        if last_stride not in (None, 1, 2):
            raise ConfigError(f"Timm {name}: last_stride is {last_stride!r}; it can be 1, 2 or left out.")
        source = pretrained_source(name)
        self._name, self._image_size = name, (int(image_size[0]), int(image_size[1]))
        if weights_image_size is not None and min(weights_image_size) < 1:
            raise ConfigError(
                f"Timm: weights_image_size is {list(weights_image_size)}; it must be two numbers of pixels, [HEIGHT, WIDTH]."
            )
        self._trained_at = None if weights_image_size is None else (weights_image_size[0], weights_image_size[1])
        settings: dict[str, Any] = {"num_classes": 0}
        if drop_path > 0:
            settings["drop_path_rate"] = drop_path
        self._assumed: list[str] = []
        self.weights_report: LoadReport | None = None
        if pretrained or weights is not None:
            self.model, self._assumed, self.weights_report = with_weights(
                name, settings, self._image_size, weights, None if pretrained else self._trained_at
            )
        else:
            fixed = {"img_size": self._image_size} if source.get("fixed_input_size") else {}
            self.model = create(name, {**settings, **fixed})

        is_resnet = isinstance(self.model, ResNet)
        if last_stride == 1 and not is_resnet:
            raise ConfigError(
                f"Timm {name}: last_stride applies only to ResNets, and {type(self.model).__name__} is none. "
                "Leave it out."
            )
        if is_resnet and last_stride != 2:
            _undo_last_stride(self.model.layer4[0])
        self.nonnegative = is_resnet and _ends_in_relu(self.model.layer4[-1])
        self.mean: tuple[float, ...] = tuple(source["mean"])
        self.std: tuple[float, ...] = tuple(source["std"])
        self._channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        self._asked = tuple(tokens)
        if missing := [token for token in self._asked if token not in prefix_tokens(self.model)]:
            known = ", ".join(prefix_tokens(self.model)) or "none"
            raise ConfigError(f"Timm {name}: the model has no {' and no '.join(missing)} (its further tokens: {known}).")
        try:
            self.out_channels, self.map_size = self._probe()
        except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
            raise no_map(name, self._image_size, error) from error

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        if self._asked:
            maps, tokens = map_and_tokens(self.model, images)
            return {"map": self._normalized(maps), **{name: self._norm(tokens[name]) for name in self._asked}}
        maps = raw_map(self.model, images, self._tokens)
        if self._tokens:
            return self._normalized(maps)
        if self._head_norm:  # as do ConvNeXt and related models
            maps = self.model.head.norm(maps)
        return maps.permute(0, 3, 1, 2) if self._channels_last else maps

    def _norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm of models that average their tokens, which normalise after the pooling."""
        norm = getattr(self.model, "fc_norm", None)
        return tokens if norm is None else norm(tokens)

    def _normalized(self, maps: Tensor) -> Tensor:
        return self._norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def notes(self) -> list[str]:
        """The tensors taken from a file, assumptions made about it, and the pixels outside the receptive field of the map."""
        taken = [] if self.weights_report is None else [str(self.weights_report)]
        return [*taken, *self._assumed, *self._lost]

    def refit(self, weights: Mapping[str, Tensor], trained_at: Size | None, where: str) -> dict[str, Tensor]:
        """Resize the position embeddings and bias tables in ``weights``, a state of this backbone, to its own image size.

        ``trained_at`` is the image size of the weights, by default ``weights_image_size``. Raises
        :class:`CheckpointError`, which names ``where``, if both are None or if the tensors cannot be resized.
        """
        size = self._image_size
        if trained_at == size:
            return dict(weights)
        positions = positions_of(self._name, size, trained_at or self._trained_at)
        state = {name.removeprefix("model."): value for name, value in weights.items()}
        if not positions.names & state.keys():
            return dict(weights)
        old = trained_at or self._trained_at
        if old is None:
            raise CheckpointError(
                f"{where} has no record of the image size it was trained on, and {min(positions.names)} of {self._name} "
                f"depends on that size. State it: {SAY} in model.backbone."
            )
        moved, stuck = positions.resized(state, old, size)
        if stuck:
            raise CheckpointError(cannot_move(where, stuck, old, size, self._name))
        return {f"model.{name}": value for name, value in moved.items()}

    @property
    def layered(self) -> nn.Module:
        """The timm model, whose ``group_matcher`` identifies its layers."""
        return self.model

    def cut(self) -> nn.Module:
        """Remove and return the last stage of a ResNet, ``layer4``, with its ``out_channels``; the map then ends before it.

        Raises :class:`ConfigError` for a model of another family.
        """
        if not isinstance(self.model, ResNet):
            raise ConfigError(
                f"Timm: {type(self.model).__name__} cannot be cut before its last stage; ResNets can. Set the fusion to work "
                "on the whole map."
            )
        resnet: Any = self.model
        tail: nn.Module = resnet.layer4
        tail.out_channels = self.out_channels  # type: ignore[assignment]
        resnet.layer4 = nn.Identity()
        self.nonnegative = _ends_in_relu(resnet.layer3[-1])
        was_training = self.training
        self.eval()
        with torch.no_grad():
            maps = self(torch.zeros(1, 3, *self._image_size))
        self.train(was_training)
        self.out_channels, self.map_size = maps.shape[1], (maps.shape[2], maps.shape[3])
        return tail

    def _probe(self) -> tuple[int, tuple[int, int]]:
        """Measure the channels and size of the map with one image, and remove parameters that do not affect the map."""
        was_training = self.model.training
        self.model.eval()  # this image must not change BatchNorm statistics
        images = torch.zeros(1, 3, *self._image_size)
        with torch.no_grad():
            features = self.model.forward_features(images)
            self._tokens = isinstance(features, Tensor) and features.ndim == 3
            self._head_norm = not self._tokens and head_norm_first(self.model, features)
        given = self(images)
        outputs = given if self._asked else {"map": given}
        maps: Tensor = outputs["map"]
        self.dims = {name: outputs[name].shape[-1] for name in self._asked}
        parameters = list(self.model.parameters())
        total = torch.stack([output.sum() for output in outputs.values()]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        _drop_unused(self.model, {p for p, gradient in zip(parameters, gradients) if gradient is not None})
        self._lost = lost_pixels(self._name, self, self.model, self._image_size)
        self.model.train(was_training)
        return maps.shape[1], (maps.shape[2], maps.shape[3])


def _undo_last_stride(block: nn.Module) -> None:
    for module in block.modules():
        if getattr(module, "stride", None) not in (2, (2, 2)):
            continue
        if isinstance(module, nn.AvgPool2d):
            module.stride = 1
            if module.padding == 0:
                module.kernel_size = (
                    1  # ResNet-D's shortcut: without a stride there is nothing to average
                )
        else:
            module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1  # type: ignore[assignment]


def _ends_in_relu(block: nn.Module) -> bool:
    last = getattr(block, "act3", None) or getattr(block, "act2", None)
    return isinstance(last, nn.ReLU)


def _drop_unused(module: nn.Module, used: set[nn.Parameter]) -> None:
    """Remove sub-modules without a used parameter, and freeze the remaining unused parameters.

    Parameters are compared by identity, because a module shared by several blocks (CoaT's encodings) has several names.
    """
    for parameter in module.parameters(recurse=False):
        if parameter not in used:
            parameter.requires_grad_(False)
    for name, child in module.named_children():
        inside = set(child.parameters())
        if inside and used.isdisjoint(inside):
            setattr(module, name, nn.Identity())
        else:
            _drop_unused(child, used)
