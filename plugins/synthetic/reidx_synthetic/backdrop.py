"""Background of a synthetic camera: a wide picture of a wall and the ground, from which crops are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from reidx_synthetic.canvas import RGB, Canvas, plain

WALLS = ("bricks", "plaster", "windows", "hedge", "shutters", "street")
GROUNDS = ("asphalt", "tiles", "grass", "zebra")


@dataclass(frozen=True)
class Backdrop:
    """A wall above a ground; `horizon` is the share of the crop above the foot of the wall."""

    wall: str
    ground: str
    wall_colour: RGB
    ground_colour: RGB
    horizon: float
    seed: int

    def paint(self, height: int, width: int) -> np.ndarray:
        """Paint the panorama, float32 (height, width, 3) in [0, 1]; deterministic for a backdrop and size."""
        rng = np.random.default_rng(self.seed)
        foot = int(self.horizon * height)
        picture = np.empty((height, width, 3), np.float32)
        picture[:foot] = self._wall(rng, foot, width)
        picture[foot:] = self._ground(rng, height - foot, width)
        picture *= (
            1 + 0.10 * _clouds(rng, height, width, 6) + 0.06 * _clouds(rng, height, width, height // 6)
        )[..., None]
        canvas = Canvas(picture)
        self._furniture(rng, canvas, foot)
        image = Image.fromarray((canvas.rgb.clip(0, 1) * 255).astype(np.uint8))
        image = image.filter(ImageFilter.GaussianBlur(height / 200))
        return np.asarray(image, np.float32) / 255

    def _wall(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        base = np.asarray(self.wall_colour, np.float32)
        # cell sizes are shares of the crop's height, of which the wall may cover only a part
        unit = height / self.horizon
        ys, xs = np.arange(height)[:, None] / unit, np.arange(width)[None] / unit
        shade: np.ndarray = np.ones((height, width), np.float32)
        if self.wall == "bricks":
            row = np.floor(ys / 0.045)
            cell = xs / 0.12 + 0.5 * (row % 2)
            tone = rng.uniform(0.82, 1.1, (int(row.max()) + 1, int(cell.max()) + 2))
            shade = tone[row.astype(int), np.floor(cell).astype(int)]
            shade = np.where((ys / 0.045 % 1 < 0.14) | (cell % 1 < 0.06), 1.25, shade)
        elif self.wall == "windows":
            inside = (
                (np.abs(xs / 0.55 % 1 - 0.5) < 0.33)
                & (ys < 0.72 * self.horizon)
                & (np.abs(xs / 0.55 % 1 - 0.5) > 0.02)
            )
            pane = rng.uniform(0.35, 0.75, int(xs.max() / 0.55) + 1)[np.floor(xs / 0.55).astype(int)]
            shade = np.where(inside, pane + 0.25 * (ys / self.horizon - 0.3), 1.0)
        elif self.wall == "hedge":
            shade = 0.8 + 0.35 * _clouds(rng, height, width, max(height // 5, 4))
        elif self.wall == "shutters":
            shade = 0.9 + 0.12 * np.sin(2 * np.pi * ys / 0.035) + 0.0 * xs
            shade = np.where(xs / 0.9 % 1 < 0.08, 0.6, shade)
        elif self.wall == "street":  # distant buildings, each with its own tone
            edges = np.floor(xs / 0.35)
            shade = rng.uniform(0.45, 1.25, int(edges.max()) + 1)[edges.astype(int)] + 0.0 * ys
            shade = np.where((xs / 0.07 % 1 < 0.5) & (ys / 0.08 % 1 < 0.5), shade * 0.75, shade)
        return base * np.asarray(np.broadcast_to(shade, (height, width)), np.float32)[..., None]

    def _ground(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        base = np.asarray(self.ground_colour, np.float32)
        near = (np.arange(height)[:, None] + 0.35 * height) / (
            1.35 * height
        )  # 1 at the bottom of the picture
        depth, side = 1 / near, (np.arange(width)[None] - width / 2) / height / near
        shade = 0.85 + 0.2 * near + 0 * side
        if self.ground == "tiles":
            line = (depth * 3 % 1 < 0.1) | (side * 2.5 % 1 < 0.06)
            shade = np.where(
                line, shade * 0.75, shade * (1 + 0.06 * (np.floor(depth * 3) + np.floor(side * 2.5)) % 2)
            )
        elif self.ground == "grass":
            shade = shade * (1 + 0.35 * _clouds(rng, height, width, max(height // 3, 4)))
        elif self.ground == "zebra":
            shade = np.where((side * 0.9 % 1 < 0.45) & (depth < 1.7), shade * 1.5, shade)
        else:
            shade = shade * (1 + 0.08 * rng.standard_normal((height, width)))
        return base * np.asarray(shade, np.float32)[..., None]

    def _furniture(self, rng: np.random.Generator, canvas: Canvas, foot: int) -> None:
        """Paint trees, posts, signs and parked cars in front of the wall, at fixed places."""
        height, width = canvas.rgb.shape[:2]
        for x in np.arange(0.3, width / height, 0.45) * height + rng.uniform(-0.15, 0.15, 1) * height:
            kind, tone = (
                rng.choice(("tree", "post", "sign", "car", "bin")),
                0.25 + 0.5 * rng.uniform(0, 1, 1) + 0.15 * rng.standard_normal(3),
            )
            colour = plain((float(tone[0]), float(tone[1]), float(tone[2])))
            base = foot + rng.uniform(0.01, 0.12) * height
            if kind == "tree":
                canvas.tube((x, 0), (x, base), [0.025 * height, 0.035 * height], plain((0.27, 0.2, 0.14)))
                for _ in range(5):
                    spot = (x + rng.uniform(-0.12, 0.12) * height, rng.uniform(0, 0.16) * height)
                    canvas.ball(
                        spot,
                        (0.1 * height, 0.07 * height),
                        plain((0.16, float(rng.uniform(0.3, 0.42)), 0.14)),
                    )
            elif kind == "post":
                canvas.tube((x, 0), (x, base), [0.012 * height], plain((0.3, 0.31, 0.33)))
            elif kind == "sign":
                canvas.tube((x, 0.2 * height), (x, base), [0.008 * height], plain((0.5, 0.5, 0.5)))
                canvas.slab((x, 0.16 * height), (0.09 * height, 0.06 * height), colour, corner=3)
            elif kind == "car":
                canvas.shadow((x, base), (0.3 * height, 0.03 * height), 0.5)
                canvas.slab(
                    (x, base - 0.09 * height), (0.3 * height, 0.06 * height), colour, corner=0.03 * height
                )
                canvas.slab(
                    (x, base - 0.17 * height),
                    (0.17 * height, 0.06 * height),
                    plain((0.2, 0.24, 0.28)),
                    corner=0.04 * height,
                )
                for wheel in (x - 0.19 * height, x + 0.19 * height):
                    canvas.ball(
                        (wheel, base - 0.035 * height),
                        (0.045 * height, 0.045 * height),
                        plain((0.07, 0.07, 0.08)),
                    )
            else:
                canvas.slab(
                    (x, base - 0.06 * height), (0.05 * height, 0.07 * height), colour, corner=0.01 * height
                )


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Draw smooth noise with mean 0 and standard deviation about 1, `cells` cells high."""
    coarse = rng.standard_normal((cells + 1, max(cells * width // height, 1) + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def sample_backdrop(rng: np.random.Generator, domain: str, index: int) -> Backdrop:
    """Draw the backdrop of camera `index`: consecutive cameras have different kinds; those of the target are dark and cold."""
    shift = {"source": 0, "target": 3}[domain]
    if domain == "source":
        wall = ((0.78, 0.66, 0.55), (0.86, 0.83, 0.76), (0.70, 0.76, 0.82), (0.60, 0.62, 0.66))
        ground = ((0.64, 0.60, 0.54), (0.57, 0.57, 0.58), (0.60, 0.55, 0.48), (0.68, 0.63, 0.55))
    else:
        wall = ((0.34, 0.37, 0.42), (0.42, 0.36, 0.32), (0.30, 0.36, 0.38), (0.46, 0.47, 0.50))
        ground = ((0.34, 0.35, 0.38), (0.42, 0.42, 0.43), (0.29, 0.31, 0.30), (0.46, 0.45, 0.42))
    kind = WALLS[(index + shift) % len(WALLS)]
    red, green, blue = (0.30, 0.42, 0.22) if kind == "hedge" else wall[int(rng.integers(4))]
    floor = GROUNDS[(index + shift) % len(GROUNDS)]
    tone = (0.38, 0.5, 0.25) if floor == "grass" else ground[int(rng.integers(4))]
    dim = float(rng.uniform(0.85, 1.05)) * (0.75 if domain == "target" and kind == "hedge" else 1.0)
    return Backdrop(
        wall=kind,
        ground=floor,
        wall_colour=(red * dim, green * dim, blue * dim),
        ground_colour=tone,
        horizon=float(rng.uniform(0.3, 0.68)),
        seed=int(rng.integers(2**31)),
    )
