"""Any timm model as a backbone: an NCHW feature map at any image size, whatever the family."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from reidx.errors import CheckpointError, ConfigError
from reidx.models.weights import read_weights


class Timm(nn.Module):
    """Feature map (B, ``out_channels``, h, w) of images (B, 3, H, W), from the timm model ``name``.

    The map is what the model's own pooling would see, behind its final norm: position tokens without class and
    distillation tokens, laid out as the grid they stand for; channels-last families are turned to NCHW. Classifier and
    whatever else comes behind the pooling is removed, so every parameter that learns serves the map.

    Args:
        name: a model of timm, with or without a tag of its weights (``vit_small_patch16_224.augreg_in1k``).
        pretrained: load timm's weights from its hub (or from the hub's cache on this machine).
        weights: load this file instead (``.safetensors``, or ``.pth`` read with ``weights_only=True``); position
            embeddings are resized to ``image_size`` and the classifier's weights left out.
        last_stride: stride of a ResNet's last stage. 1 doubles the height and width of the map without dilation ("last
            stride 1", Luo et al., "Bag of Tricks", CVPRW 2019, section 3.5); 2 leaves timm's; ``None`` means 1 for
            ResNets (also ResNeXt, SE-ResNet, ResNet-D, ResNeSt, …) and no change for other families.
        drop_path: rate of stochastic depth in training.
        image_size: (height, width) of the images; models with position embeddings take no other afterwards.

    Attributes:
        out_channels: channels of the map.
        map_size: (h, w) of the map at ``image_size``.
        nonnegative: whether the map ends in a ReLU, so that no entry is below 0. Known of ResNets; else ``False``.
        mean, std: what the weights expect of normalised images; many ViTs are trained with 0.5, not ImageNet's.

    Raises:
        ConfigError: no such model (the nearest names are given), a setting the model has no notion of, or pretrained
            weights that cannot be had.
        CheckpointError: the file ``weights`` is missing, unreadable, or not of this model.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        last_stride: int | None = None,
        drop_path: float = 0.0,
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
        source = _pretrained_source(name)
        settings: dict[str, Any] = {"num_classes": 0}
        if source.get("fixed_input_size"):
            settings["img_size"] = tuple(image_size)
        if drop_path > 0:
            settings["drop_path_rate"] = drop_path
        if weights is not None:
            self.model = _from_file(name, weights, source, settings)
        elif pretrained:
            self.model = _from_hub(name, source, settings)
        else:
            self.model = _create(name, settings)

        is_resnet = isinstance(self.model, ResNet)
        if last_stride == 1 and not is_resnet:
            raise ConfigError(
                f"Timm {name}: last_stride is a notion of ResNets, and {type(self.model).__name__} is none. "
                "Leave it out."
            )
        if is_resnet and last_stride != 2:
            _undo_last_stride(self.model.layer4[0])
        self.nonnegative = is_resnet and _ends_in_relu(self.model.layer4[-1])
        self.mean: tuple[float, ...] = tuple(source["mean"])
        self.std: tuple[float, ...] = tuple(source["std"])
        self._image_size = tuple(image_size)
        self._channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        try:
            self.out_channels, self.map_size = self._probe(image_size)
        except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Timm: {name} gives no feature map of {image_size[0]}x{image_size[1]} images ({error}). "
                "Choose another image size, or a model that has timm's `forward_intermediates` with `norm=True`."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        if self._tokens:
            maps = self.model.forward_intermediates(
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )[0]
            norm = getattr(
                self.model, "fc_norm", None
            )  # models that average their tokens norm behind the pooling
            return maps if norm is None else norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maps = self.model.forward_features(images)
        norm = getattr(getattr(self.model, "head", None), "norm", None)  # as do ConvNeXt and its kin
        if norm is not None:
            maps = norm(maps)
        return maps.permute(0, 3, 1, 2) if self._channels_last else maps

    @property
    def layered(self) -> nn.Module:
        """The timm model, whose ``group_matcher`` tells its layers apart."""
        return self.model

    def cut(self) -> nn.Module:
        """Take the last stage of a ResNet out: ``layer4``, with its weights and its ``out_channels``; the map ends before it.

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

    def _probe(self, image_size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        """Channels and size of the map, from one image; parameters that the map does not hang on are removed."""
        was_training = self.model.training
        self.model.eval()  # BatchNorm statistics must not see this image
        images = torch.zeros(1, 3, *image_size)
        self._tokens = self.model.forward_features(images).ndim == 3
        maps = self(images)
        parameters = list(self.model.parameters())
        gradients = torch.autograd.grad(maps.sum(), parameters, allow_unused=True)
        _drop_unused(self.model, {p for p, gradient in zip(parameters, gradients) if gradient is not None})
        self.model.train(was_training)
        return maps.shape[1], (maps.shape[2], maps.shape[3])


def _pretrained_source(name: str) -> dict[str, Any]:
    """timm's record of a model's weights: where they are, their normalisation, the classifier's name."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=4, cutoff=0.5)
        hint = f"Did you mean {', '.join(close)}?" if close else "timm.list_models() lists them."
        raise ConfigError(f"Timm: timm {timm.__version__} has no model {name!r}. {hint}")
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the tag behind the dot is wrong
        known = timm.list_pretrained(name.partition(".")[0] + ".*")
        raise ConfigError(
            f"Timm: {name.partition('.')[0]} has no weights tagged {name.partition('.')[2]!r}; "
            f"there are: {', '.join(known) or 'none'}."
        ) from error
    return (cfg or timm.models.PretrainedCfg()).to_dict()


def _create(name: str, settings: dict[str, Any], **weights: Any) -> Any:
    try:
        return timm.create_model(name, **settings, **weights)
    except TypeError as error:
        if "drop_path_rate" in settings and "drop_path_rate" in str(error):
            raise ConfigError(f"Timm: {name} has no drop path; leave `drop_path` out.") from error
        raise
    except AssertionError as error:  # a family's demand of the image size
        if "img_size" not in settings:
            raise
        height, width = settings["img_size"]
        why = f" ({error})" if str(error) else ""
        raise ConfigError(
            f"Timm: {name} cannot be built for {height}x{width} images{why}. Choose another image size or model."
        ) from error


def _from_file(name: str, path: str, source: dict[str, Any], settings: dict[str, Any]) -> Any:
    state = read_weights(path)
    classifier = source.get("classifier") or ()
    for head in (classifier,) if isinstance(classifier, str) else classifier:
        # files older than timm's own layout call "head.fc" plainly "head"
        for key in (
            f"{head}.weight",
            f"{head}.bias",
            f"{head.split('.')[0]}.weight",
            f"{head.split('.')[0]}.bias",
        ):
            state.pop(key, None)
    # without a classifier in the record timm loads strictly: what is missing is an error, not a random layer
    record = {"state_dict": state, "classifier": None, "custom_load": False}
    try:
        model = _create(name, settings, pretrained=True, pretrained_cfg_overlay=record)
    except ConfigError:
        raise
    except Exception as error:  # timm's filters trip over foreign files in many ways
        lines = str(error).replace("\t", "").splitlines() or [type(error).__name__]
        listing = "\n  ".join(line if len(line) < 400 else line[:400] + "…" for line in lines[:12])
        raise CheckpointError(f"weights: {path} does not fit timm's {name}:\n  {listing}") from error
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _from_hub(name: str, source: dict[str, Any], settings: dict[str, Any]) -> Any:
    if not any(source.get(key) for key in ("url", "file", "hf_hub_id")):
        raise ConfigError(f"Timm: timm has no pretrained weights for {name}; leave `pretrained` out.")
    try:
        with _no_retries_offline():
            return _create(name, settings, pretrained=True)
    except (OSError, RuntimeError) as error:
        origin = source.get("hf_hub_id") or source.get("url")
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Timm: the pretrained weights of {name} could not be had ({first_line}). Without a connection, copy them "
            f"from elsewhere ({origin}, model.safetensors) and give `weights: PATH` in place of `pretrained: true`."
        ) from error


@contextmanager
def _no_retries_offline() -> Iterator[None]:
    """The hub in its offline mode (cached files only) while it cannot be reached: its retries take a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before and not getproxies():
        address = urlsplit(constants.ENDPOINT)
        try:
            socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _undo_last_stride(block: nn.Module) -> None:
    for module in block.modules():
        if getattr(module, "stride", None) not in (2, (2, 2)):
            continue
        if isinstance(module, nn.AvgPool2d):
            module.stride = 1
            if module.padding == 0:
                module.kernel_size = (
                    1  # ResNet-D's shortcut: without a stride there is nothing left to average
                )
        else:
            module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1  # type: ignore[assignment]


def _ends_in_relu(block: nn.Module) -> bool:
    last = getattr(block, "act3", None) or getattr(block, "act2", None)
    return isinstance(last, nn.ReLU)


def _drop_unused(module: nn.Module, used: set[nn.Parameter]) -> None:
    """Replaces sub-modules without a used parameter by nothing, and freezes single parameters that are left.

    By the parameters themselves: a module that several blocks share (CoaT's encodings) has a name in each of them.
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
