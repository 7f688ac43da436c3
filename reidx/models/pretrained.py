"""Weights of timm models from a file or from the hub, for images of any size."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor

from reidx.errors import CheckpointError, ConfigError
from reidx.models.key_maps import LoadReport
from reidx.models.positions import Positions, Size, infer_grid
from reidx.models.timm_models import create, pretrained_source
from reidx.models.weights import weights_for

SAY = "weights_image_size: [HEIGHT, WIDTH]"
"""The config line that states the image size of weights, for messages."""


def with_weights(
    name: str, settings: dict[str, Any], image_size: Size, path: str | None, trained_at: Size | None
) -> tuple[Any, list[str], LoadReport | None]:
    """Build the model ``name`` for images of ``image_size``, with weights from the file ``path`` (None: timm's hub).

    Also returns the assumptions made about the weights, and the report on the tensors of a file. Position embeddings and bias
    tables are resized from the image size of the weights: ``trained_at`` if given, else that of timm's record for the hub, or
    the conclusion of :func:`_trained_at` for a file.

    Raises :class:`ConfigError` for unavailable weights, :class:`CheckpointError` for a file that is unreadable, belongs to
    another model, or has an unknown image size.
    """
    source = pretrained_source(name)
    state: dict[str, Tensor] | None = None
    report = None
    if path is not None:
        parameters, names = _names(name)
        state, report = weights_for(path, parameters, known=names)
        if not set(parameters) <= set(report.taken):
            layouts = (*report.layouts, "the filter of timm")  # which reads further layouts of the model
            state, report = _without_classifier(state, source), LoadReport(path, layouts, names, remarks=report.remarks)
    recorded: Size = tuple(source["input_size"][-2:])

    def load(size: Size, of: Size) -> Any:
        at = {**settings, "img_size": size} if source.get("fixed_input_size") else settings
        if state is None:
            return _from_hub(name, source, at)
        return _from_file(name, str(path), state, {"input_size": (source["input_size"][0], *of)}, at)

    positions = positions_of(name, image_size, trained_at)
    if not positions.names:
        if trained_at is not None:
            raise ConfigError(f"Timm: no weights of {name} follow the image size; leave `weights_image_size` out.")
        return load(image_size, recorded), [], report
    said: list[str] = []
    if trained_at is None and state is not None:
        trained_at, said = _trained_at(positions, state, recorded, image_size, f"weights: {path}", name)
    elif trained_at is not None and state is not None and not positions.fits(state, trained_at):
        raise CheckpointError(_misfit(positions, state, trained_at, f"weights: {path}", name))
    trained = trained_at or recorded
    if positions.same_layouts(trained, image_size):
        return _exact(load(image_size, trained), state, positions), said, report
    with torch.random.fork_rng(devices=[]):  # random numbers are drawn as by one model
        given = _exact(load(trained, trained), state, positions)
    weights, stuck = positions.resized(given.state_dict(), trained, image_size)
    if stuck and trained[0] == trained[1] and image_size[0] == image_size[1]:
        return load(image_size, trained), said, report  # some families resize their own square tables
    if stuck:
        raise CheckpointError(cannot_move(f"{path or 'the pretrained weights'}", stuck, trained, image_size, name))
    model = create(name, {**settings, "img_size": image_size})
    model.load_state_dict(weights)
    return model, said, report


@functools.lru_cache(maxsize=8)
def _names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the parameters of the model ``name``, in its order, and of all its stored tensors."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = create(name, {"num_classes": 0})
    return tuple(parameter for parameter, _ in model.named_parameters()), tuple(model.state_dict())


@functools.lru_cache(maxsize=8)
def positions_of(name: str, image_size: Size, trained_at: Size | None = None) -> Positions:
    """The tensors of the model ``name`` that follow the image size, with their layouts at the relevant sizes."""
    source = pretrained_source(name)
    recorded: Size = tuple(source["input_size"][-2:])
    if not source.get("fixed_input_size"):
        return Positions(lambda size: None, [])

    def skeleton(size: Size) -> Any:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return create(name, {"num_classes": 0, "img_size": size})

    # doubled, as two sizes may agree in shapes by chance
    double = (2 * recorded[0], 2 * recorded[1]), (2 * image_size[0], image_size[1])
    return Positions(skeleton, [image_size, recorded, *([trained_at] if trained_at else []), *double])


def _trained_at(
    positions: Positions, state: Mapping[str, Tensor], recorded: Size, image_size: Size, where: str, name: str
) -> tuple[Size, list[str]]:
    """Infer the image size of the weights ``state``; also returns a sentence on the assumptions made.

    If the shapes fit, it is the size that timm records for the model, unless the values of the position embeddings show
    another grid; otherwise it is the size that they show. Raises :class:`CheckpointError` if the size remains unclear.
    """
    shown = _size_from_values(positions, state, image_size)
    assumed = None
    if not positions.names & state.keys():  # an older layout, which timm's filter may know, or another model's file
        assumed, why = recorded, f"the size that timm records for {name}"
    elif shown is not None and positions.fits(state, shown):
        assumed, why = shown, "as the values of its position embeddings show"
    elif positions.fits(state, recorded) and (
        not positions.fits(state, image_size) or positions.same_layouts(recorded, image_size)
    ):
        assumed, why = recorded, f"the size that timm records for {name}"
    if assumed is None:
        raise CheckpointError(_misfit(positions, state, None, where, name, image_size))
    if assumed == image_size == recorded:
        return assumed, []
    height, width = assumed
    return assumed, [
        f"{where} has no record of the image size it was trained on: {height}x{width} is assumed, {why}. "
        f"If that is wrong, set {SAY}."
    ]


def _size_from_values(positions: Positions, state: Mapping[str, Tensor], image_size: Size) -> Size | None:
    """The image size of weights by the values of their position embeddings; None where these show nothing."""
    name = positions.grid(state)
    if name is None or state[name].ndim != 3:
        return None
    own = positions.layouts(image_size)[name].size
    prefix = positions.shapes(image_size)[name][1] - own[0] * own[1]
    grid = infer_grid(state[name][0, prefix:])
    return None if grid is None else (grid[0] * (image_size[0] // own[0]), grid[1] * (image_size[1] // own[1]))


def _misfit(
    positions: Positions,
    state: Mapping[str, Tensor],
    trained_at: Size | None,
    where: str,
    name: str,
    image_size: Size | None = None,
) -> str:
    """The error for weights whose image size is unknown, or differs from the one given."""
    size = trained_at or image_size
    assert size is not None
    shapes, layouts = positions.shapes(size), positions.layouts(size)
    there = sorted(positions.names & state.keys())
    other = [n for n in there if tuple(state[n].shape) != shapes.get(n)]
    first = (other or there or sorted(positions.names))[0]
    has = f"{first} {tuple(state[first].shape)}" if first in state else f"no {first}"
    wants = f"{shapes.get(first)}, a {layouts[first].kind} of {layouts[first]}, for {size[0]}x{size[1]} images"
    if trained_at is not None:
        return (
            f"{where} has {has}, but {name} would have {wants}. weights_image_size must be the image size that the "
            "weights were trained on."
        )
    asked = size
    shown = _size_from_values(positions, state, asked)
    looks = f" (by its values those of {shown[0]}x{shown[1]} images)" if shown else ""
    return (
        f"{where} has {has}{looks}, and no record of the image size; {name} has {wants}. The same number of places may have "
        f"other rows and columns. State the image size that the weights were trained on: {SAY} in model.backbone."
    )


def cannot_move(what: str, stuck: list[str], old: Size, new: Size, name: str) -> str:
    """The message for tensors ``stuck`` that cannot be resized between two image sizes."""
    more = f" and {len(stuck) - 1} more" if len(stuck) > 1 else ""
    return (
        f"{what}: {stuck[0]}{more} of {name} were trained for images of {old[0]}x{old[1]} and cannot be moved to "
        f"{new[0]}x{new[1]}. Set data.image_size to [{old[0]}, {old[1]}], or choose another model."
    )


def _exact(model: Any, state: Mapping[str, Tensor] | None, positions: Positions) -> Any:
    """Copy these tensors unchanged from the file to ``model`` where the shapes agree.

    Some of timm's file filters mistake a table of 7 x 63 for one of 21 x 21.
    """
    own = model.state_dict()
    for name in positions.names & (state or {}).keys() & own.keys():
        if state is not None and state[name].shape == own[name].shape:
            own[name].copy_(state[name])  # shares its memory with the model
    return model


def _without_classifier(state: dict[str, Tensor], source: Mapping[str, Any]) -> dict[str, Tensor]:
    classifier = source.get("classifier") or ()
    for head in (classifier,) if isinstance(classifier, str) else classifier:
        # older files name "head.fc" simply "head"
        for key in (
            f"{head}.weight",
            f"{head}.bias",
            f"{head.split('.')[0]}.weight",
            f"{head.split('.')[0]}.bias",
        ):
            state.pop(key, None)
    return state


def _from_file(
    name: str, path: str, state: Mapping[str, Tensor], record: Mapping[str, Any], settings: dict[str, Any]
) -> Any:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        own = create(name, settings).state_dict()
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    alike = all(
        key in own and value.shape == own[key].shape and value.is_floating_point() == own[key].is_floating_point()
        for key, value in state.items()
    )
    if alike and needed <= state.keys():  # some of timm's filters rename these names, too (Swin without its head)
        plain = create(name, settings)
        plain.load_state_dict(state, strict=False)
        return plain
    # without a classifier in the record timm loads strictly: what is missing is an error, not a random layer
    overlay = {**record, "state_dict": dict(state), "classifier": None, "custom_load": False}
    try:
        model = create(name, settings, pretrained=True, pretrained_cfg_overlay=overlay)
    except ConfigError:
        raise
    except Exception as error:  # timm's filters fail on foreign files in many ways
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
            return create(name, settings, pretrained=True)
    except (OSError, RuntimeError) as error:
        origin = source.get("hf_hub_id") or source.get("url")
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"Timm: the pretrained weights of {name} could not be downloaded ({first_line}). Without a connection, copy them "
            f"from elsewhere ({origin}, model.safetensors) and give `weights: PATH` in place of `pretrained: true`."
        ) from error


@contextmanager
def _no_retries_offline() -> Iterator[None]:
    """Switch the hub to offline mode (cached files only) if it is unreachable, since its retries take a minute."""
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
