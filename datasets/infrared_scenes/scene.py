"""A scene: one vehicle somewhere and what stands around it, described once for both domains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .geometry import Mask, Points, Solid, View, disc, drawing_order, fill, rectangle
from .ground import Layout, draw_layout, material_heat
from .vehicles import VEHICLES, surface_heat

Rng = np.random.Generator

SUPERSAMPLING = 2  # the scene is drawn at this many pixels per detector pixel and axis
_REFERENCE_SIZE = 128  # the picture size for which the ground sample distances below are meant
_RUNNING = 0.72  # share of vehicles whose engine runs; the others are colder than the ground

# The purposes for which a scene draws random numbers, each from a stream of its own.
_DESCRIBE, _CLUTTER, _CAMERA = range(3)


@dataclass(frozen=True)
class Key:
    """What a scene is made from, and nothing else: changing the number of scenes changes none of them."""

    seed: int
    split: int
    index: int

    def rng(self, purpose: int) -> Rng:
        """The stream of random numbers for one purpose of this scene."""
        return np.random.default_rng([self.seed, self.split, self.index, purpose])

    @property
    def clutter(self) -> Rng:
        """The stream for textures and what lies about."""
        return self.rng(_CLUTTER)

    @property
    def camera(self) -> Rng:
        """The stream for optics, detector and electronics."""
        return self.rng(_CAMERA)


@dataclass(frozen=True)
class Clump:
    """A tree or bush: overlapping crowns (n, 3) of column, row and radius in drawn pixels."""

    crowns: Points
    heat: float
    shadow: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """Everything that both domains share. Temperatures are kelvin; masks are at the drawn resolution."""

    key: Key
    view: View
    layout: Layout
    air: float
    day: bool
    sun: Points
    insolation: float
    heat: dict[str, float]
    vehicle: Solid
    running: bool
    surfaces: dict[str, float]
    mask: Mask
    standing: Sequence[Solid]
    clumps: Sequence[Clump]

    @property
    def object_mask(self) -> Mask:
        """Mask (size, size) of the vehicle, 0 or 255, at the resolution of the picture."""
        n = self.view.size // SUPERSAMPLING
        coverage = self.mask.reshape(n, SUPERSAMPLING, n, SUPERSAMPLING).mean(axis=(1, 3))
        return np.where(coverage >= 0.5, 255, 0).astype(np.uint8)


def silhouette(solid: Solid, view: View) -> Mask:
    """Mask (size, size), 0 or 1, of a body."""
    mask = np.zeros((view.size, view.size), np.uint8)
    for facet in drawing_order(solid, view):
        fill(mask, view.project(facet.points), 1)
    return mask


def _place_vehicle(rng: Rng, name: str, view: View, layout: Layout) -> Solid:
    """The vehicle, turned, stretched a little and moved to where it is wholly in view."""
    size = view.size
    body = VEHICLES[name](rng).placed(0, 0, 0, float(rng.uniform(0.95, 1.06)))
    heading = layout.angle + layout.heading if rng.random() < 0.75 else float(rng.uniform(0, 2 * math.pi))
    body = body.placed(0, 0, heading)
    seen = view.project(np.concatenate(body.part_points()))
    middle = (seen.min(axis=0) + seen.max(axis=0)) / 2 - (size - 1) / 2
    room = np.maximum((size - np.ptp(seen, axis=0)) / 2 - 0.04 * size, 0.0)
    offset = np.clip(rng.normal(0, 0.13 * size, 2), -room, room) - middle
    half = (size - 1) / 2
    x, y = view.ground(half + float(offset[0]), half + float(offset[1]))
    return body.placed(x, y, 0)


def _building(rng: Rng) -> Solid:
    """A flat or ridged roof on walls, with a few things on it, off to one side."""
    solid = Solid()
    angle = float(rng.uniform(0, 2 * math.pi))
    height, x0 = float(rng.uniform(3, 7)), float(rng.uniform(5.5, 9.5))
    plan = rectangle(x0, x0 + 14, float(rng.uniform(5, 12)), float(rng.uniform(-6, 6)))
    solid.prism(plan, plan, (0, height), "wall", "top", 1)
    inner = plan + (plan.mean(axis=0) - plan) * 0.06
    solid.prism(inner, inner, (height, height + 0.05), "rim", "top", 2)
    for _ in range(int(rng.integers(0, 5))):
        x, y = x0 + float(rng.uniform(0.8, 6)), float(rng.uniform(-7, 7))
        hot = "vent" if rng.random() < 0.5 else "unit"
        plan = disc(x, y, 0.4) if rng.random() < 0.4 else rectangle(x, x + 1.4, 0.5, y)
        solid.prism(plan, plan, (height, height + 0.6), "wall", hot, 3)
    return solid.placed(0, 0, angle)


def _row(rng: Rng, layout: Layout) -> Solid:
    """A row of bollards or fence posts with their rail, along or across the layout."""
    solid = Solid()
    gap, height = float(rng.uniform(0.9, 2.0)), float(rng.uniform(0.5, 1.3))
    y, start, rail = float(rng.uniform(-8, 8)), float(rng.uniform(-10, 4)), rng.random() < 0.5
    count = int(rng.integers(4, 12))
    for i in range(count):
        post = disc(start + i * gap, y, 0.14, 6)
        solid.prism(post, post, (0, height), "prop_side", "prop")
    if rail:
        solid.box((start, start + (count - 1) * gap), 0.05, (0.8 * height, height), "prop_side", "prop", 2, y)
    return solid.placed(0, 0, layout.angle + float(rng.choice([0, math.pi / 2])))


def _things(rng: Rng) -> Solid:
    """A lamp post, or a few boxes, bins and cabinets."""
    solid = Solid()
    x, y = (float(v) for v in rng.uniform(-10, 10, 2))
    if rng.random() < 0.4:
        post, foot = disc(x, y, 0.12, 6), disc(x, y, 0.35, 8)
        solid.prism(foot, foot, (0, 0.3), "prop_side", "prop", 0)
        solid.prism(post, post, (0.3, 5.0), "prop_side", "prop", 1)
        solid.box((x, x + 1.6), 0.1, (4.8, 5.0), "prop_side", "prop", 2, y)
        return solid
    for _ in range(int(rng.integers(1, 5))):
        x, y = x + float(rng.normal(0, 1.5)), y + float(rng.normal(0, 1.5))
        plan = rectangle(x, x + float(rng.uniform(0.5, 1.8)), float(rng.uniform(0.25, 0.7)), y)
        solid.prism(plan, plan, (0, float(rng.uniform(0.4, 1.4))), "prop_side", str(rng.choice(["prop", "prop_cold"])))
    return solid.placed(0, 0, float(rng.uniform(0, 2 * math.pi)))


def _standing(rng: Rng, view: View, layout: Layout, keep_off: Mask) -> list[Solid]:
    """What stands on the ground and neither hides nor touches the vehicle."""
    wanted: list[Solid] = []
    if rng.random() < 0.25:
        wanted.append(_building(rng))
    if rng.random() < 0.25:
        wanted.append(_row(rng, layout))
    wanted.extend(_things(rng) for _ in range(int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))))
    return [solid for solid in wanted if not np.any(silhouette(solid, view) & keep_off)]


def _clumps(rng: Rng, view: View, keep_off: Mask, day: bool) -> list[Clump]:
    """Trees and bushes that do not touch the vehicle."""
    found = []
    scale = 1 / view.gsd
    for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.35, 0.25, 0.25, 0.15]))):
        centre = rng.uniform(-0.05, 1.05, 2) * view.size
        radius = float(rng.uniform(0.7, 3.2)) * scale
        n = int(rng.integers(4, 9))
        offsets = rng.normal(0, 0.55 * radius, (n, 2))
        crowns = np.column_stack([centre + offsets, radius * rng.uniform(0.4, 0.75, n)])
        length = float(rng.uniform(0.5, 2.0)) * scale
        shadow_to = (length * float(rng.uniform(-1, 1)), length * float(rng.uniform(-1, 1)))
        drawn = np.zeros_like(keep_off)
        for x, y, r in crowns:
            cv2.circle(drawn, (round(x), round(y)), round(r + 0.8 * scale), 1, -1)
        if not np.any(drawn & keep_off):
            heat = float(rng.uniform(-7, -1)) if day else float(rng.uniform(-4, 1))
            found.append(Clump(crowns, heat, shadow_to))
    return found


def describe(key: Key, vehicle: str, size: int) -> Scene:
    """The scene of a key with a vehicle of the class named, for pictures of ``size`` pixels."""
    rng = key.rng(_DESCRIBE)
    elevation = math.radians(float(rng.choice([90.0, rng.uniform(42, 90)], p=[0.2, 0.8])))
    gsd = float(rng.uniform(0.132, 0.17)) * _REFERENCE_SIZE / size / SUPERSAMPLING
    view = View(size * SUPERSAMPLING, gsd, elevation)
    layout = draw_layout(rng)
    day = bool(rng.random() < 0.5)
    height, azimuth = math.radians(float(rng.uniform(30, 70))), float(rng.uniform(0, 2 * math.pi))
    flat = math.cos(height)
    sun = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(height)])
    air = float(rng.uniform(292, 303) if day else rng.uniform(280, 290))
    heat = material_heat(rng, day)
    heat |= {
        "wall": float(rng.uniform(0, 8)),
        "top": float(rng.uniform(-6, 14) if day else rng.uniform(-9, 0)),
    }
    heat |= {name: float(rng.uniform(-6, 8)) for name in ("prop", "prop_side", "prop_cold")}
    heat |= {"rim": heat["top"] + 3.0, "vent": heat["top"] + 9.0, "unit": heat["top"] - 5.0}
    running = bool(rng.random() < _RUNNING)
    surfaces = surface_heat(rng, running)
    body = _place_vehicle(rng, vehicle, view, layout)
    mask = silhouette(body, view)
    disc_of_margin = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    margin = np.asarray(cv2.dilate(mask, disc_of_margin), dtype=np.uint8)
    insolation = float(rng.uniform(3, 8)) if day else 0.5
    return Scene(
        key, view, layout, air, day, sun, insolation, heat, body, running, surfaces, mask,
        _standing(rng, view, layout, margin), _clumps(rng, view, margin, day),
    )  # fmt: skip
