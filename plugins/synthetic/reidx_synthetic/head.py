"""Heads: face, hair and hats."""

from __future__ import annotations

import numpy as np

from reidx_synthetic.canvas import Surface, plain
from reidx_synthetic.figure import Figure, Joint


def add_head(figure: Figure) -> None:
    """Add face, hair and hat."""
    look = figure.look
    tall = 0.0725 * look.height * look.head  # half the height of the head
    centre: Joint = (0.0, 0.015, look.height - tall)
    figure.ball(centre, (0.79 * tall, tall), _face(figure), depth=0.2)
    _add_hair(figure, centre, tall)
    _add_hat(figure, centre, tall)


def _face(figure: Figure) -> Surface:
    look = figure.look
    hair, skin = np.asarray(look.hair_colour, np.float32), np.asarray(look.skin, np.float32)
    dark, lips = hair * 0.3, 0.25 * skin + 0.75 * hair * 0.3

    def surface(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
        side = np.abs(azimuth)
        bare = (
            ((side < 1.25) & (elevation < 0.55 - 0.25 * side)) | (elevation < -0.75) | (look.hair == "bald")
        )
        colour = np.where(bare[..., None], skin, hair)
        if look.beard:
            colour = np.where(((elevation < -0.35) & (side < 1.3))[..., None], hair * 0.9, colour)
        else:
            colour = np.where(((side < 0.25) & (np.abs(elevation + 0.55) < 0.06))[..., None], lips, colour)
        eyes = (np.abs(side - 0.42) < 0.15) & (np.abs(elevation - 0.08) < 0.09)
        return np.where(eyes[..., None], dark, colour)

    return surface


def _add_hair(figure: Figure, centre: Joint, tall: float) -> None:
    """Add hair: behind the head seen from the front, over it seen from the back, always under a hat."""
    look, towards = figure.look, float(np.cos(figure.pose.yaw))
    colour = plain(look.hair_colour)
    if look.hair == "long":
        top, end = (0.0, -0.45 * tall, centre[2] + 0.1 * tall), (0.0, -0.75 * tall, centre[2] - 1.9 * tall)
        radii = [0.78 * tall, 0.8 * tall, 0.62 * tall]
        figure.limb(top, end, radii, colour, depth=min(0.2 - 1.5 * tall * towards, 0.35))
    elif look.hair == "bun":
        top, end = (0.0, -0.45 * tall, centre[2] + 0.25 * tall), (0.0, -0.75 * tall, centre[2] + 0.35 * tall)
        figure.limb(top, end, [0.34 * tall, 0.36 * tall], colour, depth=min(0.2 - 4 * tall * towards, 0.35))


def _add_hat(figure: Figure, centre: Joint, tall: float) -> None:
    look, colour = figure.look, plain(figure.look.hat_colour)
    if look.hat == "none":
        return
    x, y, z = centre[0], centre[1], centre[2] + 0.5 * tall
    lift = (0.12 if look.hat == "beanie" else 0.06) * tall
    figure.limb((x, y, z), (x, y, z + lift), [0.82 * tall, 0.67 * tall], colour, depth=0.36)
    if look.hat == "cap":  # the head hides the peak when it is turned away
        facing = np.cos(figure.pose.yaw) > -0.3
        start, end = (0.0, 0.6 * tall, z - 0.05 * tall), (0.0, 1.5 * tall, z - 0.2 * tall)
        figure.limb(start, end, [0.3 * tall, 0.22 * tall], colour, depth=0.37 if facing else 0.1)
    elif look.hat == "sun hat":
        figure.ball((0.0, y, z - 0.08 * tall), (1.75 * tall, 0.3 * tall), colour, depth=0.365)
