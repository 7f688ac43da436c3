"""A person under construction: body measures, a point of view, and parts that are painted from back to front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reidx_synthetic.appearance import Appearance
from reidx_synthetic.canvas import Canvas, Point, Surface, plain

Joint = tuple[float, float, float]
"""Position in metres to the person's left, forwards and up, from the point between the feet."""


@dataclass(frozen=True)
class Pose:
    """Pose relative to the camera: `yaw` 0 shows the front, pi the back; `phase` is the phase of the walk.

    `stride` is the swing of the legs in radians, `pitch` the camera's downward angle.
    """

    yaw: float
    phase: float
    stride: float = 0.4
    pitch: float = 0.1


class Figure:
    """One person on one canvas; `feet` is the pixel between the feet, `unit` the number of pixels per metre.

    Parts are given in metres and stored with their depth (metres towards the camera), by which they are painted, so that
    near parts occlude far ones. `bias` is added to the depth, for example to draw cloth over skin; `depth` replaces it.
    """

    def __init__(self, canvas: Canvas, look: Appearance, pose: Pose, feet: Point, unit: float) -> None:
        self.canvas, self.look, self.pose, self.feet, self.unit = canvas, look, pose, feet, unit
        self.skin = plain(look.skin)
        self.leg = look.height * look.leg_share
        self.neck = look.height * (1 - 0.145 * look.head)
        bulk = 1.12 if look.upper in ("long coat", "jacket", "hoodie", "open jacket") else 1.0
        self.half = 0.185 * look.shoulders * (0.75 + 0.25 * look.girth)  # half-width of the shoulders
        self.deep = 0.115 * look.girth  # half-depth of the chest
        self.clad_half, self.clad_deep = self.half * bulk, self.deep * bulk  # the same, with clothes
        self.round = 0.5 * (self.clad_half + self.clad_deep)  # mean radius of the trunk's clothes
        self.bulk = bulk
        self._parts: list[tuple[float, Callable[[], None]]] = []

    def paint(self) -> None:
        """Paint all parts on the canvas, the farthest first."""
        for _, paint in sorted(self._parts, key=lambda part: part[0]):
            paint()

    def project(self, joint: Joint) -> tuple[Point, float]:
        """Return the pixel of a joint and its depth towards the camera in metres."""
        left, forward, up = joint
        cos, sin = np.cos(self.pose.yaw), np.sin(self.pose.yaw)
        x, depth = left * cos + forward * sin, forward * cos - left * sin
        # the head is nearer to a camera that looks down
        grow = 1 + 0.5 * self.pose.pitch * (up / self.look.height - 0.5)
        y = up * np.cos(self.pose.pitch) - depth * np.sin(self.pose.pitch)
        return (self.feet[0] + float(x * grow) * self.unit, self.feet[1] - float(y) * self.unit), float(depth)

    def limb(
        self,
        top: Joint,
        bottom: Joint,
        radii: Sequence[float],
        surface: Surface,
        *,
        bias: float = 0.0,
        depth: float | None = None,
        folds: float = 0.0,
    ) -> None:
        """Add a round part from one joint to another with evenly spaced `radii`."""
        (start, near), (end, far) = self.project(top), self.project(bottom)
        pixels, girth = [r * self.unit for r in radii], sum(radii) / len(radii)

        def paint() -> None:
            self.canvas.tube(
                start, end, pixels, surface, turn=self.pose.yaw, unit=self.unit, girth=girth, folds=folds
            )

        self._parts.append(((near + far) / 2 + bias if depth is None else depth, paint))

    def trunk(
        self,
        top: float,
        bottom: float,
        radii: Sequence[float],
        deep: float,
        surface: Surface,
        *,
        depth: float,
        spread: float = 0.0,
    ) -> None:
        """Add an upright elliptic part around the body's axis; `radii` are half-widths, `deep` is its half-depth.

        Seen from the side, the hem is wider by `spread`, like that of a skirt in mid-stride.
        """
        width, turn = self._seen(self.half, deep)
        start, end = self.project((0, 0, top))[0], self.project((0, 0, bottom))[0]
        more = spread * abs(np.sin(self.pose.yaw)) * np.linspace(0, 1, len(radii)) ** 2
        pixels = [float(r * width + extra) * self.unit for r, extra in zip(radii, more)]

        def paint() -> None:
            fit = {"turn": turn, "unit": self.unit, "girth": self.round}
            self.canvas.tube(start, end, pixels, surface, rounded=False, folds=0.04, **fit)

        self._parts.append((depth, paint))

    def ball(self, centre: Joint, half: Point, surface: Surface, *, depth: float) -> None:
        """Add an ellipsoid with the half-axes `half` across and upwards."""
        pixel, _ = self.project(centre)
        size = (half[0] * self.unit, half[1] * self.unit)
        self._parts.append((depth, lambda: self.canvas.ball(pixel, size, surface, turn=self.pose.yaw)))

    def slab(self, centre: Joint, half: Joint, surface: Surface, *, bias: float) -> None:
        """Add an upright box with rounded edges and half-sides `half`."""
        width, _ = self._seen(half[0], half[1])
        pixel, depth = self.project(centre)
        box = (half[0] * width * self.unit, half[2] * self.unit)
        self._parts.append(
            (depth + bias, lambda: self.canvas.slab(pixel, box, surface, corner=0.4 * min(box)))
        )

    def _seen(self, half: float, deep: float) -> tuple[float, float]:
        """Return the visible share of the half-width of an elliptic section, and the yaw of its surface.

        The point (half sin a, deep cos a) turned by the yaw is at x = width * half * sin(a + turn).
        """
        cos, sin = np.cos(self.pose.yaw), np.sin(self.pose.yaw)
        return float(np.hypot(half * cos, deep * sin)) / half, float(np.arctan2(deep * sin, half * cos))
