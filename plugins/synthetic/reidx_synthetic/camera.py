"""Synthetic cameras: position, crops of a detector, and effects of the sensor on colour and detail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageFilter

from reidx_synthetic.appearance import Appearance
from reidx_synthetic.backdrop import Backdrop, sample_backdrop
from reidx_synthetic.canvas import RGB, Canvas, plain
from reidx_synthetic.figure import Pose
from reidx_synthetic.infrared import expose_infrared, light_backdrop
from reidx_synthetic.person import draw_person

SUPERSAMPLE = 2
YAWS = (0.0, np.pi, np.pi / 2, -np.pi / 2)
"""Yaws of the front, the back and the two sides."""


@dataclass(frozen=True)
class Camera:
    """Fixed properties of a camera; position, pose and exposure also vary from image to image."""

    backdrop: Backdrop
    yaw: float
    pitch: float
    light: tuple[float, float, float]
    cast: RGB
    exposure: float
    gamma: float
    contrast: float
    saturation: float
    haze: float
    blur: float
    resolution: float
    noise: float
    jitter: float
    occlusion: float
    quality: int
    infrared: bool = False


def sample_camera(rng: np.random.Generator, domain: str, index: int) -> Camera:
    """Draw camera `index` of a domain: sunny, warm and sharp in the source; dim or hazy, cold and soft in the target."""
    uniform = rng.uniform
    sunny = domain == "source"
    # consecutive cameras differ by a quarter of the circle of tints: colours identify the camera rather than the person
    tint = index * np.pi / 2 + (0.4 if sunny else 1.2) + uniform(-0.3, 0.3)
    warm = np.array((0.04, 0.0, -0.05)) if sunny else np.array((-0.10, -0.02, 0.12))
    turn = np.array((np.cos(tint), np.cos(tint - 2 * np.pi / 3), np.cos(tint + 2 * np.pi / 3)))
    red, green, blue = (float(gain) for gain in np.exp(0.09 * turn + warm))
    return Camera(
        backdrop=sample_backdrop(rng, domain, index),
        yaw=float(YAWS[(index + (0 if sunny else 1)) % 4] + uniform(-0.4, 0.4)),
        pitch=float(uniform(0.03, 0.2) if sunny else uniform(0.1, 0.35)),
        light=(float(uniform(-0.6, 0.6)), 0.5, 0.5) if sunny else (float(uniform(-0.2, 0.2)), 0.25, 0.75),
        cast=(red, green, blue),
        exposure=float((1.0 if index % 2 else 0.88) if sunny else (0.85 if index % 2 else 0.7)),
        gamma=float(uniform(0.9, 1.15) if sunny else uniform(0.8, 1.05)),
        contrast=float(uniform(0.95, 1.2) if sunny else uniform(0.85, 1.1)),
        saturation=float(uniform(0.85, 1.2) if sunny else uniform(0.65, 0.95)),
        haze=0.0 if sunny else float((0.16, 0.05)[index % 2] + uniform(-0.04, 0.04)),
        blur=float(uniform(0.0, 0.4) if sunny else uniform(0.4, 0.75)),
        resolution=float(uniform(0.8, 1.0) if sunny else uniform(0.55, 0.85)),
        noise=float(uniform(0.005, 0.012) if sunny else uniform(0.01, 0.025)),
        jitter=float(uniform(0.02, 0.045) if sunny else uniform(0.03, 0.055)),
        occlusion=float(uniform(0.05, 0.15) if sunny else uniform(0.1, 0.22)),
        quality=92 if sunny else 85,
    )


def in_the_dark(camera: Camera) -> Camera:
    """Return the camera with a near-infrared sensor and a lamp, at night."""
    return replace(camera, light=(0.0, 0.05, 0.3), noise=camera.noise + 0.012, blur=camera.blur + 0.25, infrared=True)


@lru_cache(maxsize=16)
def _panorama(backdrop: Backdrop, height: int) -> np.ndarray:
    """Paint the backdrop once per process; all crops of a camera are cut from it."""
    return backdrop.paint(int(height * 1.15), height * 4)


def render_person(
    appearance: Appearance | None,
    camera: Camera,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (128, 64),
    passer_by: Appearance | None = None,
) -> Image.Image:
    """Render a detector's crop of `size` (height, width) of a person under `camera`.

    Pose, box, background and occluders are drawn from `rng`. `passer_by` may walk in front of or behind the person. Without
    `appearance` the box contains no person, or part of a passer-by: a false alarm of the detector. An infrared camera expects
    people in grey levels (`infrared.in_infrared`).
    """
    height, width = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    panorama = _panorama(camera.backdrop, height)
    top = int(rng.integers(panorama.shape[0] - height + 1))
    left = int(rng.integers(panorama.shape[1] - width + 1))
    canvas = Canvas(panorama[top : top + height, left : left + width], camera.light)
    if passer_by is not None and rng.random() < 0.3:  # in the background
        _walk(
            canvas,
            passer_by,
            camera,
            rng,
            scale=float(rng.uniform(0.5, 0.7)),
            aside=float(rng.uniform(-0.6, 0.6)),
        )
    if camera.infrared:
        canvas.rgb = light_backdrop(canvas.rgb)
    if appearance is not None:
        _walk(canvas, appearance, camera, rng, scale=0.87, aside=0.0)
    if rng.random() < camera.occlusion:
        _occlude(canvas, camera, rng, passer_by)
    return _expose(canvas.rgb, camera, rng, size)


def _walk(
    canvas: Canvas, look: Appearance, camera: Camera, rng: np.random.Generator, *, scale: float, aside: float
) -> None:
    """Draw a person in a random pose, `scale` times as high as the box and `aside` widths off its middle."""
    height, width = canvas.rgb.shape[:2]
    yaw = camera.yaw + float(rng.normal(0, 0.25))
    if rng.random() < 0.35:  # walks in the opposite direction, or across
        yaw += float(rng.choice((np.pi, np.pi, np.pi / 2, -np.pi / 2)))
    pose = Pose(yaw, float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.15, 0.42)), camera.pitch)
    # the box is fitted to people of any height, but imperfectly
    unit = height * scale * float(np.exp(rng.normal(0, camera.jitter))) / (0.8 * look.height + 0.2 * 1.72)
    x = width * (0.5 + aside + float(rng.normal(0, camera.jitter)))
    y = height * (0.955 - 0.35 * (0.87 - scale) + float(rng.normal(0, camera.jitter * 0.6)))
    sun = camera.light[0]
    canvas.shadow((x - 0.25 * sun * unit, y), (0.33 * unit, 0.06 * unit), 0.9 - camera.light[2])
    draw_person(canvas, look, pose, (x, y), unit)


def _occlude(canvas: Canvas, camera: Camera, rng: np.random.Generator, passer_by: Appearance | None) -> None:
    """Occlude the person by a post, a bush, a bicycle, a car's bonnet or a passer-by."""
    height, width = canvas.rgb.shape[:2]
    kind = str(rng.choice(("post", "bush", "bicycle", "car", "person")))
    if kind == "person" and passer_by is not None:
        _walk(canvas, passer_by, camera, rng, scale=1.0, aside=float(rng.choice((-0.45, 0.45))))
    elif kind == "post":
        x = width * float(rng.uniform(0.1, 0.9))
        canvas.tube((x, -9.0), (x, height + 9.0), [0.06 * width], plain((0.34, 0.35, 0.37)))
    elif kind == "bush":
        for _ in range(14):
            spot = (width * float(rng.uniform(0, 1)), height * float(rng.uniform(0.82, 1.0)))
            leaf = plain((0.14, float(rng.uniform(0.28, 0.45)), 0.12))
            canvas.ball(spot, (0.16 * width, 0.12 * width), leaf)
    elif kind == "bicycle":
        x, y, r = width * float(rng.uniform(0.0, 1.0)), height * 0.88, 0.3 * width
        steel = plain((0.12, 0.12, 0.13))
        frame = plain((float(rng.uniform(0.1, 0.8)), 0.25, 0.3))
        for wheel in (x - 1.2 * r, x + 1.2 * r):
            rim = [
                (wheel + r * float(np.cos(a)), y + r * float(np.sin(a)))
                for a in np.linspace(0, 2 * np.pi, 17)
            ]
            for start, end in pairwise(rim):
                canvas.tube(start, end, [0.025 * width], steel)
        saddle, head = (x - 0.5 * r, y - 1.3 * r), (x + 0.8 * r, y - 1.5 * r)
        for start, end in (
            ((x - 1.2 * r, y), saddle),
            (saddle, head),
            (head, (x + 1.2 * r, y)),
            (saddle, (x, y)),
            ((x, y), head),
        ):
            canvas.tube(start, end, [0.035 * width], frame)
    else:
        tone = float(rng.uniform(0.15, 0.8))
        x = width * float(rng.choice((0.0, 1.0)))
        canvas.slab(
            (x, height * 0.93),
            (0.55 * width, 0.12 * height),
            plain((tone, tone, tone * 1.05)),
            corner=0.04 * height,
        )


def _expose(rgb: np.ndarray, camera: Camera, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Apply the effects of lens and sensor: resolution, blur, light, contrast, colour cast, noise."""
    image = Image.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8)).reduce(SUPERSAMPLE)
    share = camera.resolution * float(rng.uniform(0.85, 1.0))
    small = (max(int(size[1] * share), 8), max(int(size[0] * share), 8))
    image = image.resize(small, Image.Resampling.BOX).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * size[0] / 128))
    if camera.infrared:
        return expose_infrared(image, camera.noise, float(np.exp(rng.normal(0, 0.1))), rng)
    light = np.asarray(image, np.float32) / 255
    grey = light.mean(2, keepdims=True)
    light = grey + camera.saturation * (light - grey)
    light = light * np.asarray(camera.cast, np.float32) * camera.exposure * float(np.exp(rng.normal(0, 0.08)))
    light = light.clip(0, None) ** camera.gamma
    light = 0.45 + camera.contrast * (light - 0.45)
    light = light + camera.haze * (np.asarray((0.62, 0.66, 0.72), np.float32) - light)
    light = light + camera.noise * rng.standard_normal(light.shape).astype(np.float32)
    return Image.fromarray((light.clip(0, 1) * 255).astype(np.uint8))
