"""timm's models by name: their records and construction."""

from __future__ import annotations

import traceback
from typing import Any

import timm

from reidx.errors import ConfigError, suggest


def pretrained_source(name: str) -> dict[str, Any]:
    """timm's record of a model's weights: location, image size and normalisation, the classifier's name."""
    if not timm.is_model(name):
        hint = suggest(name.partition(".")[0], timm.list_models()) or "timm.list_models() lists them."
        raise ConfigError(f"Timm: timm {timm.__version__} has no model {name!r}. {hint}")
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the tag after the dot is wrong
        known = timm.list_pretrained(name.partition(".")[0] + ".*")
        raise ConfigError(
            f"Timm: {name.partition('.')[0]} has no weights tagged {name.partition('.')[2]!r}; "
            f"there are: {', '.join(known) or 'none'}."
        ) from error
    return (cfg or timm.models.PretrainedCfg()).to_dict()


def create(name: str, settings: dict[str, Any], **weights: Any) -> Any:
    """Build the model with timm's own arguments ``settings``; :class:`ConfigError` for those it does not accept."""
    try:
        return timm.create_model(name, **settings, **weights)
    except TypeError as error:
        if "drop_path_rate" in settings and "drop_path_rate" in str(error):
            raise ConfigError(f"Timm: {name} has no drop path; leave `drop_path` out.") from error
        raise
    except AssertionError as error:  # a family's requirement for the image size
        if "img_size" not in settings:
            raise
        height, width = settings["img_size"]
        raise ConfigError(
            f"Timm: {name} cannot be built for {height}x{width} images ({error_text(error)}). "
            "Choose another image size or model."
        ) from error


def error_text(error: Exception) -> str:
    """The text of an error; for an empty one, the line of code that raised it."""
    if str(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if frame.line and "timm" in frame.filename]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
