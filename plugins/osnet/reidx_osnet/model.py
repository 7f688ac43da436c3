"""OSNet: a small backbone with several scales per block (Zhou et al., ICCV 2019; TPAMI 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.models.key_maps import LoadReport
from reidx.models.weights import load_state, weights_for
from reidx.registry.constructor import FilePath

#: Output channels of the stem and of the three stages at width 1.0; the last is also that of ``conv5``.
CHANNELS = (64, 256, 384, 512)
WIDTHS = (1.0, 0.75, 0.5, 0.25)


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm and, unless ``relu=False``, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class LiteConv(nn.Module):
    """The paper's "Lite 3x3": a linear 1x1 convolution, then a depthwise 3x3, BatchNorm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv2(self.conv1(x))))


class AggregationGate(nn.Module):
    """Sum of the streams, with channel weights computed from each stream (the paper's unified aggregation gate).

    All streams share one two-layer network, so their pooled vectors pass through it in one batch.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, streams: list[Tensor]) -> Tensor:
        pooled = torch.cat([stream.mean((2, 3), keepdim=True) for stream in streams])
        gates = torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled)))).unflatten(0, (len(streams), -1))
        total = streams[0] * gates[0]
        for i in range(1, len(streams)):
            total = total + streams[i] * gates[i]
        return total


class OSBlock(nn.Module):
    """Omni-scale residual block: four streams of one to four Lite 3x3, i.e. receptive fields 3, 5, 7 and 9."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        mid = c_out // 4
        self.conv1 = ConvBN(c_in, mid)
        self.conv2a = LiteConv(mid)
        self.conv2b = nn.Sequential(*[LiteConv(mid) for _ in range(2)])
        self.conv2c = nn.Sequential(*[LiteConv(mid) for _ in range(3)])
        self.conv2d = nn.Sequential(*[LiteConv(mid) for _ in range(4)])
        self.gate = AggregationGate(mid)
        self.conv3 = ConvBN(mid, c_out, relu=False)
        self.downsample = ConvBN(c_in, c_out, relu=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        streams = [stream(reduced) for stream in (self.conv2a, self.conv2b, self.conv2c, self.conv2d)]
        return torch.relu(self.conv3(self.gate(streams)) + self.downsample(x))


def _stage(c_in: int, c_out: int, shrink: bool) -> nn.Sequential:
    blocks: list[nn.Module] = [OSBlock(c_in, c_out), OSBlock(c_out, c_out)]
    if shrink:
        blocks.append(nn.Sequential(ConvBN(c_out, c_out), nn.AvgPool2d(2)))
    return nn.Sequential(*blocks)


class OSNet(nn.Module):
    """OSNet, a light network designed for person re-ID.

    Returns the feature map (B, 512 * width, H / 16, W / 16) of RGB images (B, 3, H, W) normalised by ``mean`` and ``std``.

    It is the map of the last convolution (``conv5``, after its ReLU). The published networks apply a linear layer after the
    pooling: use the fusion ``osnet.Embedding`` for it, or ``with_embedding`` for heads that pool parts of the map.

    Args:
        width: channel multiplier, one of 1.0, 0.75, 0.5 and 0.25.
        weights: a weights file with torchreid's key names. Its classifier is not loaded; its linear layer is loaded only
            with ``with_embedding``.
        with_embedding: apply the linear layer, its BatchNorm and ReLU at each position of the map, which then has 512
            channels. The map's mean is close to the published vector but not equal to it (ReLU precedes the pooling).
        image_size: (height, width) of the images. It only sets ``map_size``; the network accepts any size.

    Raises:
        ConfigError: the width is none of the four.
        CheckpointError: the file is missing or unreadable, or not an OSNet of this width.

    Source: K. Zhou, Y. Yang, A. Cavallaro, T. Xiang, "Omni-Scale Feature Learning for Person Re-Identification",
    ICCV 2019, table 1.
    """

    nonnegative = True
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        width: float = 1.0,
        *,
        weights: FilePath | None = None,
        with_embedding: bool = False,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        if width not in WIDTHS:
            raise ConfigError(
                f"OSNet: width {width!r} does not exist; choose one of {', '.join(map(str, WIDTHS))}."
            )
        stem, second, third, last = (int(c * width) for c in CHANNELS)
        self._third = third
        self.conv1 = ConvBN(3, stem, 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(stem, second, shrink=True)
        self.conv3 = _stage(second, third, shrink=True)
        self.conv4: nn.Module = _stage(third, last, shrink=False)
        self.conv5: nn.Module = ConvBN(last, last)
        self.fc: nn.Module = nn.Identity()
        self.out_channels = last
        if with_embedding:
            self.out_channels = CHANNELS[-1]
            self.fc = nn.Sequential(nn.Conv2d(last, self.out_channels, 1), nn.BatchNorm2d(self.out_channels), nn.ReLU())
        height, breadth = (((side + 1) // 2 + 1) // 2 // 2 // 2 for side in image_size)
        self.map_size = (height, breadth)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.weights_report: LoadReport | None = None
        if weights is not None:
            trunk, self.weights_report = weights_for(weights, dict(self.named_parameters()), self, self.state_dict())
            if with_embedding and "fc.0.weight" in trunk:
                trunk["fc.0.weight"] = trunk["fc.0.weight"][..., None, None]
            load_state(self, trunk, weights)

    def notes(self) -> list[str]:
        """The tensors taken from the file of weights, and those left out."""
        return [] if self.weights_report is None else [str(self.weights_report)]

    def cut(self) -> nn.Module:
        """Remove and return the last stage (``conv4`` and all later layers), with ``out_channels``; the map ends before it."""
        tail: nn.Module = nn.Sequential(self.conv4, self.conv5, self.fc)
        tail.out_channels = self.out_channels  # type: ignore[assignment]
        self.out_channels = self._third
        self.conv4, self.conv5, self.fc = nn.Identity(), nn.Identity(), nn.Identity()
        return tail

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(images))
        return self.fc(self.conv5(self.conv4(self.conv3(self.conv2(x)))))
