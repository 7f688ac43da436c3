"""The forward pass of a batch in parts, with the results of the whole batch and the memory of one part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from reidx.contracts import Features
from reidx.errors import ConfigError
from reidx.models.domain_norm import select_domain
from reidx.models.network import Columns, Network


def forward_in_parts(
    network: Network,
    images: Tensor,
    teacher: Tensor | None = None,
    parts: int = 1,
    domain: str | None = None,
    columns: Columns | None = None,
) -> tuple[Tensor, Features]:
    """The map and the features of ``images`` (B,3,H,W), computed in ``parts`` equal parts one after another.

    Activations are discarded after each part and recomputed during backward, so the loss is computed on the features of
    the whole batch, and terms that compare images with each other work unchanged. The cost is one more forward pass.
    Gradients are those of the undivided batch up to rounding (with dropout, up to its random draws), and running
    statistics are updated once. ``teacher`` (B,C,h,w) is the teacher's map; ``domain`` is that of the images, for a
    network with domain-specific BatchNorms; ``columns`` (B,) are those of the images. Raises :class:`ConfigError` as
    :func:`check_parts` does.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021
    (gradient caching); recomputed as in Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    def forward(part: Tensor, teachers: Tensor | None, named: Columns) -> tuple[Tensor, Features]:
        select_domain(network, domain)
        encoded = network.encode(part, named)
        return encoded["map"], network.head(encoded, teachers, named)

    columns = {} if columns is None else columns
    if parts == 1:
        return forward(images, teacher, columns)
    check_parts(network, len(images), parts)

    made: list[tuple[Tensor, Features]] = []
    teachers = [None] * parts if teacher is None else teacher.chunk(parts)
    chunks = {name: column.chunk(parts) for name, column in columns.items()}
    for number, (part, teacher_map) in enumerate(zip(images.chunk(parts), teachers, strict=True)):
        named = {name: its[number] for name, its in chunks.items()}
        if torch.is_grad_enabled():
            again = lambda: (nullcontext(), _buffers_kept(network))  # noqa: E731
            made.append(checkpoint(forward, part, teacher_map, named, use_reentrant=False, context_fn=again))
        else:
            made.append(forward(part, teacher_map, named))
    names = made[0][1]
    joined: Mapping[str, Tensor] = {name: torch.cat([features[name] for _, features in made]) for name in names}
    return torch.cat([maps for maps, _ in made]), Features(joined)


def check_parts(network: Network, images: int, parts: int, stream: str = "") -> None:
    """Raise :class:`ConfigError` unless ``images`` of one process can be cut into ``parts`` that each hold whole
    BatchNorm groups."""
    of = f" of stream {stream}" if stream else ""
    if images % parts:
        raise ConfigError(
            f"{images} images{of} (of one process) cannot be cut into {parts} equal parts. "
            f"Make the batch a multiple of {parts}."
        )
    size, group = images // parts, network.bn_group
    takes_statistics = any(isinstance(m, _BatchNorm) and m.training for m in network.modules())
    if not takes_statistics or (group is not None and size % group == 0):
        return
    groups = "the whole batch (model.bn_group: null)" if group is None else f"groups of {group} (model.bn_group)"
    raise ConfigError(
        f"a part has {size} of {images} images{of} (of one process), but BatchNorm takes its statistics from {groups}. "
        f"Use fewer chunks, or set bn_group to {size} or to a divisor of it."
    )


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Restore running statistics and all other buffers on exit."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # through .data, to hide the change from autograd: backward does not read buffers
