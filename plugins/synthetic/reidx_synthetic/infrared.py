"""Near-infrared at night: reflectances of materials, the light of a lamp at the camera, and a sensor of one channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from reidx_synthetic.appearance import Appearance, Fabric
from reidx_synthetic.canvas import RGB

OPAQUE = 0.65
"""Share of the dyes that are opaque in near-infrared."""


def in_infrared(look: Appearance, rng: np.random.Generator) -> Appearance:
    """Return the person with grey levels, the near-infrared reflectances, in place of colours.

    A dye is opaque in near-infrared, with probability :data:`OPAQUE`, and keeps its brightness; or it is transparent and
    shows the textile, which is bright. Skin and hair are bright. The same `rng` gives the same levels, so that clothes look
    the same in all pictures.
    """

    def cloth(colour: RGB) -> RGB:
        textile, opaque = float(rng.uniform(0.5, 0.85)), rng.random() < OPAQUE
        return _grey(sum(colour) / 3 if opaque else textile)

    def fabric(visible: Fabric) -> Fabric:
        return replace(visible, colour=cloth(visible.colour), accent=cloth(visible.accent))

    return replace(
        look,
        skin=_grey(float(rng.uniform(0.82, 0.92))),
        hair_colour=_grey(float(rng.uniform(0.5, 0.75))),
        upper_fabric=fabric(look.upper_fabric),
        lower_fabric=fabric(look.lower_fabric),
        inner_colour=cloth(look.inner_colour),
        hat_colour=cloth(look.hat_colour),
        shoes=cloth(look.shoes),
        bag_colour=cloth(look.bag_colour),
        scarf=None if look.scarf is None else cloth(look.scarf),
    )


def _grey(level: float) -> RGB:
    return level, level, level


def light_backdrop(rgb: np.ndarray) -> np.ndarray:
    """Return the backdrop (H, W, 3) as the lamp shows it: foliage bright, the rest by its brightness, dark with distance."""
    height, width = rgb.shape[:2]
    foliage = np.clip(rgb[..., 1] - np.maximum(rgb[..., 0], rgb[..., 2]), 0, None)
    level = (rgb.mean(2) + 3.0 * foliage).clip(0, 1)
    down, aside = np.linspace(0, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    near = 0.3 + 0.8 * np.clip(down - 0.5, 0, None)  # the ground comes towards the camera
    spot = np.exp(-1.2 * aside**2 - 2.5 * (down - 0.5) ** 2)
    return np.repeat((level * near * (0.35 + 0.65 * spot))[..., None], 3, axis=2).astype(np.float32)


def expose_infrared(image: Image.Image, noise: float, gain: float, rng: np.random.Generator) -> Image.Image:
    """Apply vignette, glow of bright parts and noise to a picture; return three equal channels."""
    level = np.asarray(image.convert("L"), np.float32) / 255
    height, width = level.shape
    down, aside = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    level = gain * level * (1 - 0.22 * aside**2 - 0.18 * down**2)
    bright = Image.fromarray((np.clip(level - 0.55, 0, 1) * 255).astype(np.uint8))
    glow = np.asarray(bright.filter(ImageFilter.GaussianBlur(height / 24)), np.float32) / 255
    level = 0.03 + level + 0.7 * glow
    level = level + noise * rng.standard_normal(level.shape).astype(np.float32) * (1 + 0.5 * (1 - level))
    return Image.fromarray((level.clip(0, 1) * 255).astype(np.uint8)).convert("RGB")
