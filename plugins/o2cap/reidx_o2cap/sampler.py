"""Batches that are balanced over camera proxies."""

from __future__ import annotations

import numpy as np

from reidx.data.samplers import PK
from reidx.errors import ConfigError


class ProxyPK(PK):
    """Batches of camera proxies with several images each.

    Batches of exactly ``proxies`` times ``instances`` images, proxy after proxy; a proxy is the images of a cluster under one
    camera.

    ``labels`` (N,) are clusters, ``cameras`` (N,) the cameras of the images; an outlier (label -1) is never drawn. Images
    of unknown cameras are refused before training. All proxies appear once, in random order, before any appears again,
    as the identities of :class:`reidx.data.samplers.PK` do. Source: CAP (Wang et al., AAAI 2021), proxy-balanced sampling.

    Raises :class:`ConfigError` when ``proxies`` is no multiple of ``world_size``, :class:`reidx.errors.DataError` when every
    label is -1.
    """

    cameras = "required"

    def __init__(
        self,
        labels: np.ndarray,
        cameras: np.ndarray,
        batches: int,
        proxies: int = 8,
        instances: int = 4,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if proxies % world_size:
            raise ConfigError(
                f"ProxyPK: {proxies} proxies a batch cannot be shared evenly by {world_size} processes; "
                f"make proxies a multiple of {world_size}."
            )
        numbers = proxies_of(np.asarray(labels), np.asarray(cameras))
        super().__init__(numbers, batches, identities=proxies, instances=instances, rank=rank, world_size=world_size)

    @classmethod
    def contract(cls, **params: object) -> dict[str, str]:
        return {"cameras": cls.cameras}


def proxies_of(labels: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Return the number (N,) of each image's proxy, by cluster and then by camera; -1 for an outlier."""
    kept = labels >= 0
    numbers = np.full(len(labels), -1, np.int64)
    if kept.any():
        numbers[kept] = np.unique(np.stack([labels[kept], cameras[kept]]), axis=1, return_inverse=True)[1].ravel()
    return numbers
