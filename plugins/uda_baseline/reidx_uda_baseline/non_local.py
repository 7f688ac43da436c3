"""A ResNet with non-local blocks after the last residual blocks of its stages."""

from __future__ import annotations

from collections import OrderedDict

from timm.models.resnet import ResNet
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.models.backbones import Timm
from reidx.registry.constructor import FilePath


class NonLocal(nn.Module):
    """The map (B,C,h,w) plus BN(W y), with y_i = (1/N) Σ_j (θ_i · φ_j) g_j over its N = h·w positions.

    θ, φ and g are 1×1 convolutions to ``inner`` channels, W is a 1×1 convolution back to ``channels``. The weight of the
    BatchNorm starts at 0, so the block initially returns its input. Source: Wang et al., "Non-local Neural Networks", CVPR
    2018, dot-product form, as in UDAStrongBaseline.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, maps: Tensor) -> Tensor:
        theta, phi, g = (conv(maps).flatten(2) for conv in (self.theta, self.phi, self.g))
        # θᵀ (φ gᵀ) instead of (θᵀ φ) gᵀ avoids the N×N table of all pairs of positions
        summed = phi @ g.transpose(1, 2) / phi.shape[2]
        attended = (summed.transpose(1, 2) @ theta).unflatten(2, maps.shape[2:])
        return maps + self.norm(self.out(attended))


class NonLocalResNet(Timm):
    """A ResNet with non-local blocks, as in UDAStrongBaseline.

    Returns the map (B, ``out_channels``, h, w) of a timm ResNet with non-local blocks; initially equal to the plain ResNet's.

    Args:
        name, pretrained, weights, last_stride, image_size: as for :class:`Timm`; weights are those of the plain network.
        blocks: the number of last residual blocks of each of the four stages that are followed by a :class:`NonLocal`.
        inner: channels in which positions are compared; ``None`` is half the stage's channels, as in the paper of the blocks.
            The effective value in the released code of UDAStrongBaseline is 1.

    Raises :class:`ConfigError` for a model that is not a ResNet, and for more blocks than a stage has.
    """

    def __init__(
        self,
        name: str,
        *,
        blocks: tuple[int, int, int, int] = (0, 2, 3, 0),
        inner: int | None = None,
        pretrained: bool = False,
        weights: FilePath | None = None,
        last_stride: int | None = None,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__(
            name, pretrained=pretrained, weights=weights, last_stride=last_stride, image_size=image_size
        )
        if not isinstance(self.model, ResNet):
            raise ConfigError(
                f"uda_baseline.NonLocalResNet: {name} is not a ResNet ({type(self.model).__name__}). Use one, or backbone Timm."
            )
        if inner is not None and inner < 1:
            raise ConfigError(f"uda_baseline.NonLocalResNet: inner is {inner}; it must be 1 or more, or null for half.")
        channels: dict[str, int] = {info["module"]: info["num_chs"] for info in self.model.feature_info}  # type: ignore[misc]
        for stage, count in zip(("layer1", "layer2", "layer3", "layer4"), blocks, strict=True):
            residual = getattr(self.model, stage)
            if not 0 <= count <= len(residual):
                raise ConfigError(
                    f"uda_baseline.NonLocalResNet: blocks gives {count} for {stage} of {name}, which has {len(residual)} "
                    "residual blocks."
                )
            width = channels[stage]
            setattr(self.model, stage, _followed(residual, count, width, inner or width // 2))
        self.nonnegative = self.nonnegative and not blocks[3]


def _followed(residual: nn.Sequential, count: int, channels: int, inner: int) -> nn.Sequential:
    """Return the stage's blocks under their old names, with a non-local block after each of the last ``count``."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for place, block in enumerate(residual):
        modules[str(place)] = block
        if place >= len(residual) - count:
            modules[f"non_local{place}"] = NonLocal(channels, inner)
    return nn.Sequential(modules)
