"""The appearance of a synthetic person: body, clothes, hair and bags, drawn from a wardrobe of few colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reidx_synthetic.canvas import RGB

PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "logo", "band")


@dataclass(frozen=True)
class Fabric:
    """Fabric of two colours with a pattern of `PATTERNS` and its pitch in metres; a `canvas.Surface`."""

    colour: RGB
    accent: RGB
    pattern: str = "plain"
    pitch: float = 0.1

    def __call__(self, around: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the colour (..., 3) of the fabric `around` metres from its front line and `along` metres from its top."""
        base, accent = np.asarray(self.colour, np.float32), np.asarray(self.accent, np.float32)
        if self.pattern == "plain":
            return np.broadcast_to(base, (*around.shape, 3))
        weight: np.ndarray
        hoop, stripe = along / self.pitch % 1.0, around / self.pitch % 1.0
        if self.pattern == "hoops":
            weight = (hoop < 0.5) * 1.0
        elif self.pattern == "stripes":
            weight = (stripe < 0.45) * 1.0
        elif self.pattern == "checks":
            weight = 0.5 * (hoop < 0.5) + 0.5 * (stripe < 0.5)
        elif self.pattern == "dots":
            odd = np.floor(along / self.pitch) % 2 * 0.5
            weight = (np.hypot(hoop - 0.5, (stripe + odd) % 1.0 - 0.5) < 0.3) * 1.0
        elif self.pattern == "logo":  # a print on the chest, invisible from behind
            weight = (np.abs(around) < 0.8 * self.pitch) & (np.abs(along - 0.2) < 0.7 * self.pitch)
        else:  # "band": one broad hoop round the chest
            weight = np.abs(along - 0.24) < 0.6 * self.pitch
        return base + np.asarray(weight, np.float32)[..., None] * (accent - base)


@dataclass(frozen=True)
class Appearance:
    """Constant features of a person; lengths in metres, colours in [0, 1]."""

    height: float
    girth: float
    shoulders: float
    leg_share: float
    head: float
    skin: RGB
    hair: str
    hair_colour: RGB
    hat: str
    hat_colour: RGB
    beard: bool
    upper: str
    upper_fabric: Fabric
    inner_colour: RGB
    lower: str
    lower_fabric: Fabric
    shoes: RGB
    scarf: RGB | None
    bag: str
    bag_colour: RGB
    bag_side: int


@dataclass(frozen=True)
class Wardrobe:
    """Garments and colours of the people of a domain; dictionaries map names to weights."""

    upper_colours: tuple[RGB, ...]
    lower_colours: tuple[RGB, ...]
    bag_colours: tuple[RGB, ...]
    shoe_colours: tuple[RGB, ...]
    uppers: dict[str, float]
    lowers: dict[str, float]
    hats: dict[str, float]
    bags: dict[str, float]
    scarves: float


BLACK, WHITE, GREY = (0.09, 0.09, 0.10), (0.93, 0.93, 0.91), (0.50, 0.51, 0.53)
RED, BLUE, YELLOW, GREEN = (0.82, 0.16, 0.17), (0.16, 0.36, 0.76), (0.94, 0.78, 0.20), (0.18, 0.58, 0.34)
DENIM, BEIGE, NAVY, CHARCOAL = (0.30, 0.42, 0.60), (0.78, 0.69, 0.53), (0.12, 0.17, 0.31), (0.22, 0.23, 0.25)
OLIVE, WINE, CAMEL, BROWN = (0.31, 0.34, 0.20), (0.42, 0.11, 0.17), (0.63, 0.48, 0.31), (0.34, 0.23, 0.16)

WARDROBES = {
    "source": Wardrobe(
        upper_colours=(WHITE, RED, BLUE, YELLOW, GREEN),
        lower_colours=(DENIM, BEIGE, BLACK, WHITE),
        bag_colours=(BLACK, RED, BROWN, BLUE),
        shoe_colours=(BLACK, WHITE, BROWN, RED),
        uppers={"t-shirt": 5, "shirt": 2, "top": 2, "open jacket": 1.5},
        lowers={"trousers": 4, "shorts": 4, "skirt": 2.5},
        hats={"none": 7, "cap": 2.5, "sun hat": 1},
        bags={"none": 3, "backpack": 3, "handbag": 2, "shoulder bag": 2.5},
        scarves=0.0,
    ),
    "target": Wardrobe(
        upper_colours=(CHARCOAL, NAVY, OLIVE, WINE, CAMEL),
        lower_colours=(BLACK, NAVY, GREY, BROWN),
        bag_colours=(BLACK, WINE, CAMEL, GREY),
        shoe_colours=(BLACK, BLACK, BROWN, GREY),
        uppers={"long coat": 3, "jacket": 3, "open jacket": 3, "hoodie": 2.5},
        lowers={"trousers": 7, "skirt": 2},
        hats={"none": 5, "beanie": 3, "cap": 1},
        bags={"none": 3, "backpack": 3, "handbag": 2, "shoulder bag": 2.5},
        scarves=0.35,
    ),
}
"""Wardrobe of each domain: summer colours for the source, winter colours for the target."""

SKINS: tuple[RGB, ...] = ((0.95, 0.78, 0.67), (0.86, 0.66, 0.52), (0.70, 0.49, 0.35), (0.45, 0.30, 0.21))
HAIRS: tuple[RGB, ...] = (
    (0.08, 0.07, 0.07),
    (0.26, 0.16, 0.10),
    (0.72, 0.55, 0.30),
    (0.45, 0.20, 0.10),
    (0.66, 0.66, 0.67),
)


def sample_appearance(rng: np.random.Generator, wardrobe: Wardrobe) -> Appearance:
    """Draw a person dressed from the wardrobe, which has few colours and many cuts: colour alone does not identify people."""

    def pick(weights: dict[str, float]) -> str:
        share = np.asarray(list(weights.values()))
        return str(rng.choice(list(weights), p=share / share.sum()))

    def colour(palette: tuple[RGB, ...], spread: float = 0.02) -> RGB:
        red, green, blue = np.clip(
            palette[int(rng.integers(len(palette)))] + rng.normal(0, spread, 3), 0.03, 0.97
        )
        return float(red), float(green), float(blue)

    def fabric(palette: tuple[RGB, ...], patterns: dict[str, float]) -> Fabric:
        base, accent = rng.choice(len(palette), 2, replace=False)
        pattern, pitch = pick(patterns), float(rng.uniform(0.09, 0.17))
        return Fabric(colour((palette[base],)), colour((palette[accent],)), pattern, pitch)

    upper, lower = pick(wardrobe.uppers), pick(wardrobe.lowers)
    hair = pick({"short": 4, "long": 3, "bun": 1.5, "bald": 0.7})
    trims = (*wardrobe.upper_colours, WHITE, BLACK)
    return Appearance(
        height=float(rng.normal(1.72, 0.08)),
        girth=float(rng.uniform(0.85, 1.3)),
        shoulders=float(rng.uniform(0.9, 1.12)),
        leg_share=float(rng.uniform(0.46, 0.52)),
        head=float(rng.uniform(0.95, 1.12)),
        skin=colour(SKINS),
        hair=hair,
        hair_colour=colour(HAIRS),
        hat=pick(wardrobe.hats),
        hat_colour=colour(trims),
        beard=bool(rng.random() < 0.35) and hair == "short",
        upper=upper,
        upper_fabric=fabric(
            trims if rng.random() < 0.4 else wardrobe.upper_colours,
            {"plain": 2.5, "hoops": 2, "stripes": 1, "checks": 1.5, "dots": 1, "logo": 2, "band": 1.5},
        ),
        inner_colour=colour(trims),
        lower=lower,
        lower_fabric=fabric(wardrobe.lower_colours, {"plain": 7, "stripes": 1, "checks": 1, "dots": 0.3}),
        shoes=colour(wardrobe.shoe_colours),
        scarf=colour(trims) if rng.random() < wardrobe.scarves else None,
        bag=pick(wardrobe.bags),
        bag_colour=colour(wardrobe.bag_colours),
        bag_side=int(rng.choice((-1, 1))),
    )
