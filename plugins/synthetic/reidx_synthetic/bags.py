"""Bags: a backpack on the back, a bag at the hip, a bag in the hand. The clothes include the straps."""

from __future__ import annotations

import numpy as np

from reidx_synthetic.canvas import Surface, plain
from reidx_synthetic.figure import Figure, Joint


def add_bag(figure: Figure, hands: tuple[Joint, Joint]) -> None:
    """Add the person's bag; `hands` are the right and the left hand."""
    look, dark = figure.look, np.asarray(figure.look.bag_colour, np.float32) * 0.55
    if look.bag == "backpack":
        middle = (0.0, -figure.clad_deep - 0.075, figure.neck - 0.3)
        figure.slab(middle, (0.165, 0.085, 0.215), _leather(figure, dark, pocket=True), bias=0.14)
    elif look.bag == "shoulder bag":
        middle = (look.bag_side * (figure.clad_half + 0.02), 0.02, figure.leg * 1.02)
        figure.slab(middle, (0.06, 0.15, 0.12), _leather(figure, dark, pocket=True), bias=0.14)
    elif look.bag == "handbag":
        x, y, z = hands[look.bag_side > 0]
        handle = plain((float(dark[0]), float(dark[1]), float(dark[2])))
        figure.limb((x, y, z - 0.03), (x, y, z - 0.12), [0.045, 0.06], handle, bias=0.11)
        figure.slab((x, y, z - 0.24), (0.06, 0.16, 0.115), _leather(figure, dark, pocket=False), bias=0.12)


def _leather(figure: Figure, dark: np.ndarray, *, pocket: bool) -> Surface:
    """Build the surface of the bag: its colour with the dark line of a pocket, or of the rim."""
    colour = np.asarray(figure.look.bag_colour, np.float32)

    def surface(around: np.ndarray, along: np.ndarray) -> np.ndarray:
        line = (np.abs(along - 0.1) < 0.07) & (np.abs(around) < 0.8) if pocket else along < -0.65
        return np.where(line[..., None], dark, colour)

    return surface
