"""Drawing of one person: a walking skeleton in three dimensions, dressed, turned, projected, painted from back to front."""

from __future__ import annotations

from reidx_synthetic.appearance import Appearance
from reidx_synthetic.bags import add_bag
from reidx_synthetic.canvas import Canvas, Point
from reidx_synthetic.clothes import add_arms, add_hips, add_legs, add_torso
from reidx_synthetic.figure import Figure, Pose
from reidx_synthetic.head import add_head


def draw_person(canvas: Canvas, appearance: Appearance, pose: Pose, feet: Point, unit: float) -> None:
    """Paint the person with the point between the feet at pixel `feet` and `unit` pixels per metre."""
    figure = Figure(canvas, appearance, pose, feet, unit)
    add_legs(figure)
    add_hips(figure)
    add_torso(figure)
    hands = add_arms(figure)
    add_head(figure)
    add_bag(figure, hands)
    figure.paint()
