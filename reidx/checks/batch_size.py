"""Batch size of an optimiser step, compared with the one that the learning rate is stated for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from reidx import distributed
from reidx.config.node import KeyPath, dotted
from reidx.config.schema import IDENTITY, Stage
from reidx.data.domains import Domains
from reidx.errors import DataError
from reidx.registry.build import build
from reidx.registry.seam import call


def images_a_step(stage: Stage, domains: Domains, where: Callable[[KeyPath], str] = dotted) -> dict[str, int]:
    """Return the images of each stream in one optimiser step, over all processes.

    Reads the ``size`` of each sampler; a stream whose sampler has none is left out. The samplers are built over the domain's
    images and identities; where clusters are not known yet, each image is a separate cluster. Raises :class:`ConfigError`
    for a value that a sampler rejects.
    """
    sizes: dict[str, int] = {}
    for name, stream in stage.streams.items():
        split = domains.split(stream.domain, "train")
        labels = None
        if stream.labels is not None:
            labels = split.classes() if stream.labels == IDENTITY else np.arange(len(split))
        try:
            sampler = build(
                "sampler",
                stream.sampler,
                where=where(("streams", name, "sampler")),
                labels=labels,
                cameras=split.cameras,
                images=len(split),
                batches=stage.iters,
                world_size=distributed.count(),
            )
        except DataError:
            if stream.labels in stage.labels:  # real clusters have more than one image
                continue
            raise
        size = call("sampler", sampler, "its size", lambda sampler: getattr(sampler, "size", None), sampler)
        if size is not None:
            sizes[name] = size
    return sizes


def rate_note(stage: Stage, lr: float, images: Mapping[str, int]) -> str:
    """Report streams whose batch size differs from ``lr_batch``, with the linearly scaled ``lr``; empty if there is none.

    Streams without a term or an alignment are left out: they are not trained on.
    """
    stated = stage.optimization.lr_batch
    of = {view: name for name, stream in stage.streams.items() for view in (name, *stream.views)}
    seen = {of[name] for term in stage.objective for name in stage.streams_of_term(term)}
    seen |= {of[getattr(alignment, side)] for alignment in stage.alignment for side in ("source", "target")}
    others = {name: count for name, count in images.items() if name in seen and count != stated}
    if stated is None or not others:
        return ""
    found = ", ".join(f"{count} of stream {name}" for name, count in others.items())
    scaled = ", ".join(f"{lr * count / stated:.3g}" for count in others.values())
    return (
        f"learning rate {lr:g} is stated for {stated} images a step (optimization.lr_batch), but a step sees {found}: linear "
        f"scaling would give {scaled}. It is used unchanged."
    )
