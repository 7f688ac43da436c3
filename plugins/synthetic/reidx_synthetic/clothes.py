"""The walking body and its clothes: legs, trousers or skirt, torso, sleeves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reidx_synthetic.canvas import Surface, plain
from reidx_synthetic.figure import Figure, Joint

BARE_FOREARMS = ("t-shirt", "top")
HEMS = {"top": 1.08, "long coat": 0.5, "hoodie": 0.95, "shirt": 0.93}
"""Height of the lower edge of an upper garment, in leg lengths; 1 for other garments."""


def add_legs(figure: Figure) -> None:
    """Add walking legs with trousers, shorts and shoes; the lower foot touches the ground."""
    look, pose, fabric = figure.look, figure.pose, figure.look.lower_fabric
    thick = 0.075 * look.girth
    # a skirt or long coat hides the legs, however far they swing
    hidden = -0.01 if look.lower == "skirt" or look.upper == "long coat" else None
    cloth: Surface
    legs: list[tuple[Joint, Joint, Joint, Joint]] = []
    for side in (-1, 1):
        phase = pose.phase + (0 if side > 0 else np.pi)
        swing = pose.stride * float(np.sin(phase))
        shin = swing - 1.6 * pose.stride * max(float(np.cos(phase)), 0.0)  # the knee bends on the way forward
        x, half = side * 0.085 * look.girth, figure.leg * 0.47
        knee = (x, half * np.sin(swing), figure.leg - half * np.cos(swing))
        ankle = (x * 0.9, knee[1] + half * np.sin(shin), knee[2] - half * np.cos(shin))
        toe = (x * 1.2, ankle[1] + 0.17 * np.cos(shin), ankle[2] - 0.03 + 0.17 * np.sin(shin))
        legs.append(((x, 0.0, figure.leg), knee, ankle, toe))
    ground = min(min(ankle[2], toe[2]) for _, _, ankle, toe in legs) - 0.03
    for leg in legs:
        hip, knee, ankle, toe = [(x, y, z - ground) for x, y, z in leg]
        if look.lower == "trousers":
            calf, thigh = (0.85, 0.8, 0.72), (1.2, 0.9)
            cloth, folds = fabric, 0.05
        else:
            calf, thigh = (0.72, 0.78, 0.45), (1.12, 0.8)
            cloth, folds = figure.skin, 0.0
        figure.limb(knee, ankle, [thick * r for r in calf], cloth, depth=hidden, folds=folds)
        figure.limb(hip, knee, [thick * r for r in thigh], cloth, bias=0.01, depth=hidden, folds=folds)
        if look.lower == "shorts":
            hem = (knee[0], 0.15 * hip[1] + 0.85 * knee[1], 0.15 * hip[2] + 0.85 * knee[2])
            figure.limb(hip, hem, [thick * 1.25, thick * 1.12], fabric, bias=0.05, depth=hidden, folds=0.05)
        figure.limb(ankle, toe, [0.042, 0.05, 0.036], plain(look.shoes), bias=0.015, depth=hidden)


def add_hips(figure: Figure) -> None:
    """Add the skirt, or the upper part of trousers and shorts."""
    look, leg = figure.look, figure.leg
    half = figure.half * (0.62 + 0.3 * look.girth)
    if look.lower == "skirt":
        radii, deep = [half * 0.85, half * 1.05, half * 1.25], figure.deep * 1.2
        figure.trunk(
            leg * 1.18, leg * 0.55, radii, deep, look.lower_fabric, depth=0.12, spread=_stride(figure)
        )
    else:
        radii = [half * 0.88, half]
        figure.trunk(leg * 1.18, leg * 0.95, radii, figure.deep, look.lower_fabric, depth=0.03)


def add_torso(figure: Figure) -> None:
    """Add the upper garment without its sleeves, the neck, a hood and a scarf."""
    look, neck = figure.look, figure.neck
    half, deep = figure.clad_half, figure.clad_deep
    waist = half * (0.55 + 0.3 * look.girth)
    shoulders = [half * r for r in (0.4, 0.93, 1.0, 0.98, 0.93, 0.88)]
    profile = [*shoulders, *(waist * r for r in (1.0, 1.0, 1.03, 1.07))]
    top, hem, surface = neck - 0.02, HEMS.get(look.upper, 1.0) * figure.leg, _upper_surface(figure)
    if look.upper == "long coat":
        above = max(int((top - figure.leg) / (top - hem) * 16), 6)  # knots down to the waist, of 16
        chest = np.interp(np.linspace(0, len(profile) - 1, above), range(len(profile)), profile)
        radii = [float(r) for r in (*chest, *np.linspace(waist * 1.1, waist * 1.35, 16 - above))]
        figure.trunk(top, hem, radii, deep, surface, depth=0.125, spread=_stride(figure))
    else:
        tucked = look.upper == "top"
        figure.trunk(top, hem, profile, deep, surface, depth=0.05 if tucked else 0.125)
    figure.limb((0, 0, neck - 0.05), (0, 0.01, neck + 0.06), [0.055, 0.05], figure.skin, bias=0.126)
    if look.upper == "hoodie":
        left, right = (-0.05, -0.07, neck), (0.05, -0.07, neck)
        figure.limb(left, right, [0.075, 0.085, 0.075], look.upper_fabric, bias=0.13)
    if look.scarf is not None:
        wool, x = plain(look.scarf), 0.05 * look.bag_side
        figure.limb((-0.05, 0.02, neck + 0.005), (0.05, 0.02, neck + 0.005), [0.065], wool, bias=0.17)
        figure.limb((x, deep, neck), (x, deep + 0.01, neck - 0.3), [0.04, 0.045], wool, bias=0.08)


def add_arms(figure: Figure) -> tuple[Joint, Joint]:
    """Add arms with sleeves that swing in opposition to the legs; returns the right and the left hand."""
    look, pose, fabric = figure.look, figure.pose, figure.look.upper_fabric
    thick = 0.048 * (0.7 + 0.3 * look.girth) * figure.bulk
    printed = fabric.pattern in ("logo", "band")  # only on the chest
    sleeve: Surface = replace(fabric, pattern="plain") if printed else fabric
    upper, upper_folds = (figure.skin, 0.0) if look.upper == "top" else (sleeve, 0.05)
    lower, lower_folds = (figure.skin, 0.0) if look.upper in BARE_FOREARMS else (sleeve, 0.05)
    reach = look.height * 0.17
    hands: list[Joint] = []
    for side in (-1, 1):
        holding = look.bag == "handbag" and side == look.bag_side
        swing = 0.9 * pose.stride * float(np.sin(pose.phase + (np.pi if side > 0 else 0)))
        swing, bend = (0.05, 0.15) if holding else (swing, swing + 0.35)
        x = side * (figure.clad_half - 0.035)
        shoulder = (x, 0.0, figure.neck - 0.085)
        elbow = (x + side * 0.05, reach * np.sin(swing), shoulder[2] - reach * np.cos(swing))
        down = 0.92 * reach
        hand = (x + side * 0.055, elbow[1] + down * np.sin(bend), elbow[2] - down * np.cos(bend))
        fingers = (hand[0], hand[1] + 0.02, hand[2] - 0.05)
        figure.limb(hand, fingers, [0.036, 0.032], figure.skin, bias=0.128)
        figure.limb(elbow, hand, [thick * 0.85, thick * 0.7], lower, bias=0.13, folds=lower_folds)
        figure.limb(shoulder, elbow, [thick * 1.1, thick * 0.95], upper, bias=0.135, folds=upper_folds)
        hands.append(hand)
    return hands[0], hands[1]


def _stride(figure: Figure) -> float:
    """Return the forward reach of the knees in this phase of the walk, in metres."""
    return 0.4 * figure.leg * float(np.sin(figure.pose.stride * abs(np.sin(figure.pose.phase))))


def _upper_surface(figure: Figure) -> Surface:
    """Build the surface of the upper body: fabric, neckline, open front, and the straps of a bag over it."""
    look, quarter = figure.look, np.pi / 2 * figure.round
    inner, skin = np.asarray(look.inner_colour, np.float32), np.asarray(look.skin, np.float32)
    strap = np.asarray(look.bag_colour, np.float32) * 0.8

    def surface(around: np.ndarray, along: np.ndarray) -> np.ndarray:
        colour = look.upper_fabric(around, along)
        beneath = skin if look.upper in BARE_FOREARMS else inner
        colour = np.where((np.abs(around) < 0.075 - 0.6 * along)[..., None], beneath, colour)
        if look.upper == "open jacket":
            colour = np.where((np.abs(around) < 0.065)[..., None], inner, colour)
        elif look.upper == "long coat":
            colour = np.where(
                (np.abs(around) < 0.03 * np.clip(1.2 - 3 * along, 0, 1))[..., None], inner, colour
            )
        if look.bag == "backpack":
            straps = (np.abs(np.abs(around) - 0.1) < 0.022) & (along < 0.4) & (along > 0.02)
            colour = np.where(straps[..., None], strap, colour)
        elif look.bag == "shoulder bag":  # over one shoulder to the other hip, in front and behind
            left = np.where(np.abs(around) < quarter, around, np.sign(around) * 2 * quarter - around)
            line = np.abs(along - 0.3 - 1.3 * look.bag_side * left) < 0.035
            colour = np.where(line[..., None], strap, colour)
        return colour

    return surface
