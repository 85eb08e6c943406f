"""Backgrounds: layouts of materials on the ground, drawn alike for both domains and for every class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .geometry import Float, View

Rng = np.random.Generator


@dataclass(frozen=True)
class Material:
    """Apparent temperature relative to the air by day and by night (low, high), kelvin, and its texture.

    ``rough`` is the deviation of the measured texture in kelvin, ``texture`` its name in the noise bank.
    """

    day: tuple[float, float]
    night: tuple[float, float]
    rough: float
    texture: str


MATERIALS: Mapping[str, Material] = {
    "asphalt": Material((6.0, 12.0), (3.0, 6.0), 0.8, "cloud"),
    "concrete": Material((3.0, 9.0), (1.0, 4.0), 0.9, "cloud"),
    "dirt": Material((4.0, 9.0), (-1.0, 2.0), 0.6, "natural"),
    "grass": Material((-3.0, 3.0), (-5.0, -2.0), 0.75, "natural"),
    "verge": Material((-1.0, 6.0), (-3.0, 1.0), 0.7, "natural"),
    "paint": Material((2.0, 5.0), (1.0, 3.0), 0.4, "cloud"),
    "kerb": Material((6.0, 14.0), (3.0, 7.0), 0.5, "cloud"),
    "rut": Material((6.0, 11.0), (0.0, 3.0), 0.7, "natural"),
    "water": Material((-6.0, -3.0), (0.0, 3.0), 0.5, "cloud"),
}


@dataclass(frozen=True)
class Region:
    """A material's share (size, size) of every pixel, laid over the regions before it."""

    share: Float
    material: str


@dataclass(frozen=True)
class Layout:
    """A kind of place: where things lie is decided once (the parameters), then drawn as often as needed.

    ``heading`` is the direction in which a vehicle would stand there, radians; ``base`` the material all over,
    ``fray`` how far in metres the edges wander in reality.
    """

    base: str
    heading: float
    angle: float
    draw: Callable[[Float, Float, float], list[Region]]
    fray: float

    def regions(self, view: View, wander: Float | None = None) -> list[Region]:
        """The regions as seen; ``wander`` (size, size), unit deviation, frays the edges of natural ones."""
        x, y = view.ground_grid()
        c, s = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        along, across = x * c + y * s, y * c - x * s
        sharp = 0.5 * view.gsd
        if wander is None:
            return self.draw(along, across, sharp)
        amount = np.float32(self.fray)
        return self.draw(along + amount * wander, across + amount * wander, 1.5 * sharp)


def _above(value: Float, edge: float, soft: float) -> Float:
    ramp = np.clip((value - np.float32(edge)) / np.float32(2 * soft) + np.float32(0.5), 0, 1)
    return np.asarray(ramp, dtype=np.float32)


def _band(value: Float, low: float, high: float, soft: float) -> Float:
    return _above(value, low, soft) * (1 - _above(value, high, soft))


def _stripes(value: Float, period: float, width: float, soft: float) -> Float:
    phase = np.mod(value, np.float32(period))
    return _band(phase, soft, width + soft, soft)


def road(rng: Rng) -> Layout:
    """A straight or gently bent road with markings between verges."""
    half = float(rng.uniform(3.4, 7.5))
    centre = float(rng.uniform(-0.55, 0.55)) * half
    bend = float(rng.normal(0, 0.004))
    paved = str(rng.choice(["asphalt", "asphalt", "concrete"]))
    verge, kerb = float(rng.uniform(0.0, 2.5)), rng.random() < 0.4
    lines, dash = rng.random() < 0.6, float(rng.uniform(3, 6))
    phase = float(rng.uniform(0, 10))

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        w = v - centre + np.float32(bend) * u * u
        found = [Region(_band(w, -half - verge, half + verge, 2 * soft), "verge")] if verge > 0.4 else []
        if kerb:
            found.append(Region(_band(w, -half - 0.25, half + 0.25, soft), "kerb"))
        found.append(Region(_band(w, -half, half, soft), paved))
        if lines:
            dashed = _stripes(u + np.float32(phase), 2 * dash, dash, soft)
            found.append(Region(_band(w, -0.11, 0.11, soft) * dashed, "paint"))
            found.append(Region(_band(np.abs(w), half - 0.6, half - 0.42, soft), "paint"))
        return found

    heading = 0.0 if rng.random() < 0.5 else math.pi
    return Layout("grass", heading + float(rng.normal(0, 0.12)), float(rng.uniform(0, 2 * math.pi)), draw, 0.07)


def junction(rng: Rng) -> Layout:
    """Two roads that meet, with a crossing."""
    half, other = float(rng.uniform(3.5, 6)), float(rng.uniform(2.5, 5))
    centre, at = float(rng.uniform(-2, 2)), float(rng.choice([-1, 1])) * float(rng.uniform(4.5, 11))
    whole = rng.random() < 0.5
    zebra = rng.random() < 0.6

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        w = v - centre
        side = _band(u, at - other, at + other, soft)
        if not whole:
            side = side * _above(w, 0.0, soft)
        share = np.maximum(_band(w, -half, half, soft), side)
        found = [Region(np.asarray(share, dtype=np.float32), "asphalt")]
        if zebra:
            edge = at - math.copysign(other + 1.5, at)
            bars = _band(u, edge - 1.2, edge + 1.2, soft) * _stripes(w, 1.1, 0.5, soft)
            found.append(Region(bars * _band(w, -half + 0.4, half - 0.4, soft), "paint"))
        return found

    return Layout(
        str(rng.choice(["grass", "concrete", "verge"])),
        float(rng.choice([0, math.pi / 2, math.pi, -math.pi / 2])) + float(rng.normal(0, 0.3)),
        float(rng.uniform(0, 2 * math.pi)),
        draw,
        0.06,
    )


def lot(rng: Rng) -> Layout:
    """Paved ground with stalls on one side and a strip of something else beyond."""
    depth, stall = float(rng.uniform(5.0, 6.5)), float(rng.uniform(3.2, 4.2))
    shift, paved = float(rng.uniform(0, stall)), str(rng.choice(["asphalt", "concrete"]))
    front = float(rng.uniform(-4.5, -1.5))
    beyond = str(rng.choice(["grass", "verge", "concrete"]))

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        lines = _stripes(u + np.float32(shift), stall, 0.18, soft) * _band(v, front, front + depth, soft)
        edge = front + depth
        return [
            Region(lines, "paint"),
            Region(_band(v, edge, edge + 0.35, soft), "kerb"),
            Region(_above(v, edge + 0.35, soft), beyond),
        ]

    heading = math.pi / 2 * float(rng.choice([-1, 1])) + float(rng.normal(0, 0.15))
    return Layout(paved, heading, float(rng.uniform(0, 2 * math.pi)), draw, 0.03)


def lane(rng: Rng) -> Layout:
    """A dirt lane with two ruts across open ground."""
    half, centre = float(rng.uniform(1.9, 3.2)), float(rng.uniform(-1.5, 1.5))
    bend, gauge = float(rng.normal(0, 0.012)), float(rng.uniform(0.9, 1.3))

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        w = v - centre + np.float32(bend) * u * u
        return [
            Region(_band(w, -half, half, 4 * soft), "dirt"),
            Region(_band(np.abs(w), gauge - 0.3, gauge + 0.3, 3 * soft), "rut"),
        ]

    return Layout("grass", float(rng.normal(0, 0.25)), float(rng.uniform(0, 2 * math.pi)), draw, 0.3)


def field(rng: Rng) -> Layout:
    """Open ground, furrowed or bare, with a border between two kinds of it."""
    base, other = rng.permutation(["grass", "dirt", "verge"])[:2]
    edge, slope = float(rng.uniform(-9, 9)), float(rng.normal(0, 0.02))
    furrows, period = rng.random() < 0.45, float(rng.uniform(1.2, 2.6))

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        w = v + np.float32(slope) * u * u
        share = _above(w, edge, 3 * soft)
        found = [Region(share, str(other))]
        if furrows:
            found.append(Region(share * _stripes(w, period, 0.45 * period, 3 * soft) * np.float32(0.5), "rut"))
        return found

    return Layout(str(base), float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi)), draw, 0.4)


def yard(rng: Rng) -> Layout:
    """Slabs with joints, and a basin or a flower bed."""
    slab, shift = float(rng.uniform(3.5, 6)), rng.uniform(0, 6, 2)
    strip, wide = float(rng.choice([-1, 1]) * rng.uniform(6, 10)), float(rng.uniform(1.5, 3.5))
    filling = str(rng.choice(["grass", "verge", "water", "dirt"]))

    def draw(u: Float, v: Float, soft: float) -> list[Region]:
        joints = np.maximum(
            _stripes(u + np.float32(shift[0]), slab, 0.12, soft),
            _stripes(v + np.float32(shift[1]), slab, 0.12, soft),
        )
        return [
            Region(np.asarray(joints, dtype=np.float32), "kerb"),
            Region(_band(v, strip - wide - 0.3, strip + wide + 0.3, soft), "paint"),
            Region(_band(v, strip - wide, strip + wide, soft), filling),
        ]

    return Layout("concrete", float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0, 2 * math.pi)), draw, 0.03)


LAYOUTS: tuple[Callable[[Rng], Layout], ...] = (road, road, junction, lot, lane, field, yard)


def draw_layout(rng: Rng) -> Layout:
    """One of the layouts, at random."""
    return LAYOUTS[int(rng.integers(len(LAYOUTS)))](rng)


def material_heat(rng: Rng, day: bool) -> dict[str, float]:
    """Kelvin relative to the air for every material of one scene."""
    return {name: float(rng.uniform(*(m.day if day else m.night))) for name, m in MATERIALS.items()}
