"""Analytic rasteriser of shaded tubes, balls and slabs on an RGB picture.

Each shape is a signed distance field over the pixels of its bounding box, which gives smooth edges with little
supersampling. Each surface point has coordinates on the body (azimuth and height), so that patterns turn with the person.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Point = tuple[float, float]
RGB = tuple[float, float, float]
Surface = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Colour (..., 3) of the surface points at two coordinates, `around` and `along`.

`around` is the distance around the body in body units, 0 at the front, positive towards the person's left; `along` is the
distance from the top of the part. For a ball both are angles in radians: azimuth and elevation.
"""


def plain(colour: RGB) -> Surface:
    """Build a surface of one colour."""
    values = np.asarray(colour, np.float32)
    return lambda around, along: np.broadcast_to(values, (*around.shape, 3))


def wrap(angle: np.ndarray) -> np.ndarray:
    """Wrap angles to [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


class Canvas:
    """RGB picture, float32 (H, W, 3) in [0, 1], with methods that paint shapes; lengths in pixels.

    `light` is the light of the scene: (from the right, from above, ambient share).
    """

    def __init__(self, rgb: np.ndarray, light: tuple[float, float, float] = (0.3, 0.5, 0.6)) -> None:
        self.rgb = np.array(rgb, np.float32)
        self.light = light

    def tube(
        self,
        start: Point,
        end: Point,
        radii: Sequence[float],
        surface: Surface,
        *,
        turn: float = 0.0,
        unit: float = 1.0,
        girth: float = 1.0,
        rounded: bool = True,
        folds: float = 0.0,
    ) -> None:
        """Paint a limb from `start` to `end` with evenly spaced half-widths `radii`.

        `turn` is the yaw of the part, `unit` the number of pixels per body unit, `girth` the radius of the surface in body
        units; `rounded` adds round ends, and `folds` is the strength of the shading of creased cloth.
        """
        (x0, y0), (x1, y1) = start, end
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-3)
        ax, ay = (x1 - x0) / length, (y1 - y0) / length
        reach = max(radii)
        grid = self._window(
            min(x0, x1) - reach, min(y0, y1) - reach, max(x0, x1) + reach, max(y0, y1) + reach
        )
        if grid is None:
            return
        where, xs, ys = grid
        along = (xs - x0) * ax + (ys - y0) * ay
        across = (xs - x0) * ay - (ys - y0) * ax
        inside = np.clip(along, 0, length)
        radius = np.interp(inside, np.linspace(0, length, len(radii)), radii).astype(np.float32)
        if rounded:
            distance = np.hypot(across, along - inside) - radius
        else:
            distance = np.maximum(np.abs(across) - radius, np.abs(along - length / 2) - length / 2)
        side = np.clip(across / np.maximum(radius, 1e-3), -1, 1)
        azimuth = wrap(np.arcsin(side) - turn)
        around, down = azimuth * girth, inside / unit
        shade = self._shade(side * ay, -side * ax, np.sqrt(1 - side * side))
        if folds:
            shade = shade * (1 + folds * np.sin(23 * down + 9 * around + 5 * np.sin(17 * down + turn)))
        self._paint(where, distance, surface(around, down), shade)

    def ball(self, centre: Point, half: Point, surface: Surface, *, turn: float = 0.0) -> None:
        """Paint an ellipsoid with half-axes `half`."""
        (cx, cy), (rx, ry) = centre, half
        grid = self._window(cx - rx, cy - ry, cx + rx, cy + ry)
        if grid is None:
            return
        where, xs, ys = grid
        nx, ny = np.broadcast_arrays((xs - cx) / rx, (ys - cy) / ry)
        radius = np.hypot(nx, ny)
        scale = np.maximum(radius, 1)
        nx, ny = nx / scale, ny / scale
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        colour = surface(wrap(np.arctan2(nx, nz) - turn), np.arcsin(-ny))
        self._paint(where, (radius - 1) * min(rx, ry), colour, self._shade(nx, ny, nz))

    def slab(
        self, centre: Point, half: Point, surface: Surface, *, corner: float = 0.0, angle: float = 0.0
    ) -> None:
        """Paint a rounded box with half-sides `half`, turned by `angle` radians; `along` is measured from its centre."""
        (cx, cy), (hx, hy) = centre, half
        reach = float(np.hypot(hx, hy))
        grid = self._window(cx - reach, cy - reach, cx + reach, cy + reach)
        if grid is None:
            return
        where, xs, ys = grid
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        u = (xs - cx) * cos + (ys - cy) * sin
        v = (ys - cy) * cos - (xs - cx) * sin
        qx, qy = np.abs(u) - hx + corner, np.abs(v) - hy + corner
        distance = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner
        lean = np.clip(u / hx, -1, 1) * 0.6
        shade = self._shade(lean, np.clip(v / hy, -1, 1) * 0.4, np.sqrt(1 - lean * lean))
        self._paint(where, distance, surface(u / hx, v / hy), shade)

    def shadow(self, centre: Point, half: Point, depth: float) -> None:
        """Darken a soft ellipse on the ground by at most `depth`."""
        (cx, cy), (rx, ry) = centre, half
        grid = self._window(cx - 2 * rx, cy - 2 * ry, cx + 2 * rx, cy + 2 * ry)
        if grid is None:
            return
        where, xs, ys = grid
        weight = np.exp(-(((xs - cx) / rx) ** 2 + ((ys - cy) / ry) ** 2))
        self.rgb[where] *= (1 - depth * weight)[..., None]

    def _window(
        self, x0: float, y0: float, x1: float, y1: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
        height, width = self.rgb.shape[:2]
        left, right = max(int(x0) - 1, 0), min(int(x1) + 2, width)
        top, bottom = max(int(y0) - 1, 0), min(int(y1) + 2, height)
        if left >= right or top >= bottom:
            return None
        xs = np.arange(left, right, dtype=np.float32)[None] + 0.5
        ys = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
        return (slice(top, bottom), slice(left, right)), xs, ys

    def _shade(self, nx: np.ndarray, ny: np.ndarray, nz: np.ndarray) -> np.ndarray:
        right, above, ambient = self.light
        return ambient + (1 - ambient) * 1.25 * np.clip(right * nx - above * ny + 0.8 * nz, 0, 1)

    def _paint(
        self, where: tuple[slice, slice], distance: np.ndarray, colour: np.ndarray, shade: np.ndarray
    ) -> None:
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        patch = self.rgb[where]
        patch += cover * (colour * shade[..., None] - patch)
