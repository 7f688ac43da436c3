"""A trained network for images: embeddings, and search by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from reidx.contracts import argument_names, contract_in_use
from reidx.data.transforms import ReidTest
from reidx.engine.extract import BATCH
from reidx.errors import ConfigError, DataError, out_of_memory
from reidx.inference.embedder import Embedder
from reidx.inference.embeddings import Embeddings
from reidx.inference.matches import Matches, nearest_rows
from reidx.inference.pictures import Images, Pictures
from reidx.inference.sources import Trained, load_trained
from reidx.labels.features import not_finite
from reidx.machine.devices import device_of_this_process
from reidx.models.network import Network
from reidx.optim.optimizer import autocast
from reidx.runs.checkpoint import digest_of

PIXELS = 256 * 128
"""Pixels of an image of the usual size, for which batches are chosen; of larger images a batch holds fewer."""


class ReID:
    """A trained network for images: ``embed`` them, ``stream`` a large folder, ``search`` a gallery.

    Images are decoded, resized and normalised as in evaluation, so the embeddings of a data set are the features that
    ``reidx test`` ranks, scaled to length 1.

    Attributes:
        network: images (B,3,H,W), normalised, to unit features (B,D), in evaluation mode on ``device``.
        image_size: height and width of the images in pixels.
        mean, std: normalisation of RGB in 0..1.
        interpolation: filter that resizes images.
        dim: D, the width of an embedding.
        digest: SHA-256 of the weights and of all settings that decide an embedding.
        name: the run's or the file's name.
        trained: the network as it was loaded, on the CPU, with the section ``model`` of its config.
    """

    def __init__(self, trained: Trained, device: str | torch.device | None = None, precision: str = "auto") -> None:
        if precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision is {precision!r}; it must be auto, fp32 or bf16.")
        self.trained, self.name = trained, trained.name
        self.image_size, self.interpolation = trained.image_size, trained.interpolation
        self.mean, self.std = _three(trained.network.mean), _three(trained.network.std)
        self.dim = trained.network.dims[trained.feature]
        self.precision = "bf16" if precision == "bf16" else "fp32"
        self.device = device_of_this_process() if device is None else _device(device)
        states = [network.state_dict() for network in (trained.network, trained.teacher) if network is not None]
        facts = f"{digest_of(states)} {trained.description()} {self.precision}"
        self.digest = hashlib.sha256(facts.encode()).hexdigest()
        network = Embedder(trained.network.eval(), trained.feature, trained.teacher, trained.domain)
        self.network: nn.Module = network.to(self.device).eval()
        self._embedder = network
        self._transform = ReidTest(self.mean, self.std)
        self._columns = frozenset[str]().union(*(_columns(n) for n in (trained.network, trained.teacher) if n is not None))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        model: Mapping[str, Any] | None = None,
        checkpoint: str = "last",
        device: str | torch.device | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> ReID:
        """Load the network of a run's folder, of a folder that ``reidx export`` wrote, or of a file of weights.

        From a run it is the network and the feature that its last stage evaluates, with the weights of its last checkpoint, or
        of another ``checkpoint`` in its folder (``1-adapt/epoch_4.pth``). For a file outside a run, ``model`` is the section
        of a config: ``{"backbone": {"type": "Timm", "name": "resnet50"}}``; it may be left out for a file whose tensors show
        the network, such as one of torchreid. ``device`` is by default the GPU, if there is one.
        ``precision`` ``auto`` is fp32, as in evaluation, because half precision changes some ranks.

        Raises :class:`~reidx.errors.ReidxError`, which names the file or the key that is missing.
        """
        return cls(load_trained(source, model, checkpoint), device, precision)

    def embed(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        flip: bool = False,
        cameras: Sequence[int] | np.ndarray | None = None,
    ) -> Tensor:
        """Unit features (N,D) float32 of images, on the CPU.

        ``images`` is a folder (with its sub-folders, in sorted order), paths, Pillow images, arrays uint8 (H,W,3) or
        (N,H,W,3), or a tensor (N,3,H,W) of floats in 0..1. ``flip`` averages each image and its mirror image. ``cameras``
        (N,) are needed by a network that takes them.

        Raises :class:`DataError`, which names the image, for one that cannot be read or has no finite feature.
        """
        return torch.cat([rows for _, rows in self._batches(images, batch_size, flip, cameras)])

    def stream(
        self, images: Images, *, batch_size: int | None = None, cameras: Sequence[int] | np.ndarray | None = None
    ) -> Iterator[tuple[list[str], Tensor]]:
        """Yield the names and the embeddings of one batch after another, as :meth:`embed` computes them.

        Memory holds two batches. The name of an image is its path, or ``image 3`` for one without a path.
        """
        return self._batches(images, batch_size, False, cameras)

    def search(self, queries: Images | Embeddings, gallery: Images | Embeddings, k: int = 10) -> Matches:
        """The ``k`` gallery images with the largest cosines to each query.

        Queries and gallery are images as in :meth:`embed`, or embeddings: a tensor (N,D), or :class:`Embeddings` of this
        network. Raises :class:`DataError` for ``k`` beyond the gallery, and for embeddings of another network.
        """
        return nearest_rows(self._rows(queries, "queries"), self._rows(gallery, "gallery"), k)

    def _rows(self, given: Images | Embeddings, what: str) -> Tensor:
        if isinstance(given, Embeddings):
            given.require(self.digest, what)
            return torch.from_numpy(given.features)
        if isinstance(given, Tensor | np.ndarray) and given.ndim == 2:
            rows = torch.as_tensor(given)
            if rows.shape[1] != self.dim:
                raise DataError(f"The {what} have {rows.shape[1]} numbers each, but the embeddings of {self.name} {self.dim}.")
            return rows
        return self.embed(given)

    def _batches(
        self, images: Images, batch_size: int | None, flip: bool, cameras: Sequence[int] | np.ndarray | None
    ) -> Iterator[tuple[list[str], Tensor]]:
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise ConfigError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1.")
        pictures = Pictures(images, self.image_size, self.interpolation)
        columns = self._checked_columns(cameras, len(pictures))
        for place, batch in pictures.batches(batch_size or self._usual_batch()):
            names = pictures.names[place]
            rows = self._forward(batch, {name: column[place] for name, column in columns.items()}, flip)
            self._check(rows, names)
            yield names, torch.nn.functional.normalize(rows, dim=1)

    def _usual_batch(self) -> int:
        height, width = self.image_size
        return max(1, BATCH.get(self.device.type, 64) * PIXELS // max(PIXELS, height * width))

    @torch.no_grad()
    def _forward(self, images: Tensor, columns: Mapping[str, Tensor], flip: bool) -> Tensor:
        """Raw features (B,D) of a batch on the CPU; a batch too large for the device's memory is divided."""
        try:
            with autocast(self.device, self.precision):
                given = {name: column.to(self.device) for name, column in columns.items()}
                batch = self._normalised(images.to(self.device)).contiguous(memory_format=torch.channels_last)
                rows = self._embedder.raw(batch, given)
                if flip:
                    rows = torch.stack([rows, self._embedder.raw(batch.flip(-1), given)]).mean(0)
                return rows.cpu()
        except RuntimeError as error:
            if len(images) == 1 or not out_of_memory(error):
                raise
        half = len(images) // 2
        parts = slice(None, half), slice(half, None)
        return torch.cat([self._forward(images[part], {n: c[part] for n, c in columns.items()}, flip) for part in parts])

    def _normalised(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            return self._transform.batch(images)
        return self._transform.normalise(images.float() * 255)

    def _check(self, rows: Tensor, names: Sequence[str]) -> None:
        bad = not_finite(rows) | (torch.linalg.vector_norm(rows, dim=1) < 1e-12)
        if bool(bad.any()):
            raise DataError(
                f"{names[int(bad.nonzero()[0])]}: its feature is zero, infinite or NaN. The network {self.name} is damaged or "
                "has diverged."
            )

    def _checked_columns(self, cameras: Sequence[int] | np.ndarray | None, count: int) -> dict[str, Tensor]:
        """The side inputs of the network; raises :class:`DataError` where one is missing."""
        if other := sorted(self._columns - {"cameras"}):
            raise DataError(f"The network {self.name} needs {', '.join(other)} of each image, which only `reidx test` passes.")
        if "cameras" not in self._columns:
            return {}
        if cameras is None:
            raise DataError(f"The network {self.name} needs the camera of each image: give `cameras`, a whole number for each.")
        numbers = np.asarray(cameras)
        if numbers.shape != (count,) or not np.issubdtype(numbers.dtype, np.integer):
            raise DataError(f"cameras: give {count:,} whole numbers, one for each image, not {numbers.dtype} {numbers.shape}.")
        return {"cameras": torch.from_numpy(numbers.astype(np.int64))}


def _columns(network: Network) -> frozenset[str]:
    """The columns that a network uses: without the cameras if its parts take them and declare that they ignore them."""
    parts = [part for part in (network.backbone, network.fusion) if "cameras" in argument_names(part.forward)]
    ignored = bool(parts) and all(hasattr(part, "contract") and contract_in_use(part).cameras == "unused" for part in parts)
    return network.columns - {"cameras"} if ignored else network.columns


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown; give cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch finds no GPU here. Leave out `device`, or give cpu.")
    return device
