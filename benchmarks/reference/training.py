"""The training loop of the field's code bases, written from its description, for comparison with a step of `reidx`.

DataLoader workers decode and augment each image separately (Pillow and torchvision). The network runs in fp32 and torch's
default memory format. The loss is cross-entropy against a table of centroids, and ``backward`` updates the table with one
instance after another. On a GPU, cuDNN selects its algorithms by trial.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Erase:
    """Random erasing of one normalised image, with repeated tries until a rectangle fits."""

    def __call__(self, image: Tensor) -> Tensor:
        if random.random() > 0.5:
            return image
        _, height, width = image.shape
        for _ in range(100):
            area, aspect = random.uniform(0.02, 0.4) * height * width, random.uniform(0.3, 1 / 0.3)
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                top, left = random.randint(0, height - tall), random.randint(0, width - wide)
                for channel, value in enumerate(MEAN):
                    image[channel, top : top + tall, left : left + wide] = value
                break
        return image


class Images(Dataset[Any]):
    """Image files with their labels, augmented on access."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int], size: tuple[int, int]) -> None:
        self.paths, self.labels = paths, labels
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.Pad(10),
                transforms.RandomCrop(size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                Erase(),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), self.labels[index], index


class Similarities(torch.autograd.Function):
    """Products f·C of features and centroids; ``backward`` also updates the centroids image by image."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, targets: Tensor, table: Tensor, momentum: float) -> Tensor:
        ctx.table, ctx.momentum = table, momentum
        ctx.save_for_backward(features, targets)
        return features @ table.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        features, targets = ctx.saved_tensors
        back = gradient @ ctx.table
        for feature, y in zip(features, targets.tolist()):
            ctx.table[y] = ctx.momentum * ctx.table[y] + (1 - ctx.momentum) * feature
            ctx.table[y] /= ctx.table[y].norm()
        return back, None, None, None


class Loop:
    """Training of ``network`` (images to unit features) on image files.

    Each call of :meth:`steps` continues the training. ``order`` yields the batches (positions) of the whole training.
    """

    def __init__(
        self,
        network: nn.Module,
        table: Tensor,
        paths: Sequence[str],
        labels: Sequence[int],
        size: tuple[int, int],
        order: Iterable[list[int]],
        device: torch.device,
        workers: int,
    ) -> None:
        torch.backends.cudnn.benchmark = True
        self.network, self.table, self.device = network.to(device).train(), table.to(device), device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=3.5e-4, weight_decay=5e-4)
        loader = DataLoader(
            Images(paths, labels, size),
            batch_sampler=order,  # type: ignore[arg-type]
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        self.batches = iter(loader)

    def steps(self, count: int) -> float:
        """Return the seconds of ``count`` steps, after one extra step that starts the workers."""
        self._step()
        self._wait()
        start = time.perf_counter()
        for _ in range(count):
            self._step()
        self._wait()
        return time.perf_counter() - start

    def _step(self) -> None:
        images, targets, _ = next(self.batches)
        images, targets = images.to(self.device), targets.to(self.device)
        scores = Similarities.apply(self.network(images), targets, self.table, 0.1)
        loss = F.cross_entropy(scores / 0.05, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seen = loss.item()  # the field's code reads the loss in each step

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
