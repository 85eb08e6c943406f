"""Seven classes of land vehicle: their shapes, built of prisms, and how warm each kind of surface is.

Lengths are metres, x points forward, the origin is the middle of the vehicle on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .geometry import Facet, Points, Solid, bevelled, disc, rectangle

Rng = np.random.Generator


def _wheels(solid: Solid, axles: list[float], track: float, radius: float, width: float) -> None:
    for x in axles:
        for y in (-track, track):
            solid.box((x - radius, x + radius), width / 2, (0.0, 1.7 * radius), "wheel", "wheel", 0, y)


def car(rng: Rng) -> Solid:
    """Low body, bonnet and boot, narrow glasshouse; a saloon or a hatchback."""
    s, w = Solid(), 0.92
    rear = rng.choice([-1.55, -2.0])
    _wheels(s, [-1.35, 1.4], w - 0.08, 0.32, 0.24)
    s.prism(
        bevelled(-2.2, 2.25, w, 0.35, 0.2),
        bevelled(-2.15, 2.15, w - 0.08, 0.4, 0.25),
        (0.25, 0.85),
        "body",
        "body",
    )
    bonnet = s.box((0.95, 2.0), 0.72, (0.84, 0.88), "body", "bonnet", 2)
    s.patch(bonnet[4], (0.2, 0.85), (0.2, 0.8), "engine")
    s.prism(rectangle(rear, 0.95, 0.82), rectangle(rear + 0.35, 0.2, 0.62), (0.85, 1.42), "glass", "roof", 3)
    s.box((-2.3, -2.15), 0.15, (0.25, 0.4), "exhaust", "exhaust", 0, -0.5)
    return s


def van(rng: Rng) -> Solid:
    """One tall smooth box to the windscreen, a stub of a bonnet; a plain roof, ribbed now and then."""
    s, w = Solid(), 1.0
    _wheels(s, [-1.6, 1.7], w - 0.06, 0.35, 0.25)
    s.prism(
        bevelled(1.2, 2.75, w, 0.3, 0.0),
        bevelled(1.2, 2.6, w - 0.1, 0.35, 0.0),
        (0.35, 1.15),
        "body",
        "bonnet",
    )
    side = ["body", "glass", "body", "body"]
    shell = s.prism(rectangle(-2.7, 2.1, w), rectangle(-2.62, 1.3, w - 0.14), (0.35, 2.35), side, "roof", 2)
    for right_or_left in (shell[0], shell[2]):
        span = (0.7, 0.88) if right_or_left is shell[0] else (0.12, 0.3)
        s.patch(right_or_left, span, (0.55, 0.85), "glass")
    if rng.random() < 0.5:
        for u in np.arange(0.12, 0.9, 0.16):
            s.patch(shell[4], (float(u), float(u) + 0.035), (0.1, 0.9), "rib")
    s.box((-2.8, -2.65), 0.15, (0.25, 0.4), "exhaust", "exhaust", 0, 0.6)
    s.box((2.1, 2.6), 0.6, (1.1, 1.17), "engine", "engine", 2)
    return s


def pickup(rng: Rng) -> Solid:
    """Bonnet, short cab in the middle, open bed at the rear: a dark rectangle in a rim."""
    s, w = Solid(), 0.98
    _wheels(s, [-1.75, 1.75], w - 0.02, 0.4, 0.28)
    s.prism(
        bevelled(-2.75, 2.75, w, 0.3, 0.06),
        bevelled(-2.72, 2.65, w - 0.05, 0.35, 0.06),
        (0.4, 1.05),
        "body",
        "body",
    )
    bonnet = s.box((1.1, 2.45), 0.75, (1.04, 1.1), "body", "bonnet", 2)
    s.patch(bonnet[4], (0.15, 0.85), (0.15, 0.85), "engine")
    s.prism(rectangle(-0.65, 1.15, 0.9), rectangle(-0.5, 0.55, 0.7), (1.05, 1.8), "glass", "roof", 3)
    bed = s.box((-2.72, -0.7), w - 0.03, (1.0, 1.2), "body", "rim", 2)
    s.patch(bed[4], (0.08, 0.95), (0.12, 0.88), "bed")
    if rng.random() < 0.3:
        s.patch(bed[4], (0.3, 0.6), (0.3, 0.6), "load")
    s.box((-2.85, -2.7), 0.15, (0.35, 0.5), "exhaust", "exhaust", 0, -0.6)
    return s


def truck(rng: Rng) -> Solid:
    """Cab, a gap over the hot chassis, and a cargo body: a box or a ribbed canvas."""
    s, w = Solid(), 1.2
    _wheels(s, [-2.6, -1.6, 2.75], w - 0.1, 0.48, 0.34)
    s.box((-3.7, 3.4), 0.55, (0.5, 0.95), "chassis", "chassis")
    side = ["body", "glass", "body", "body"]
    cab = s.prism(rectangle(1.95, 3.85, w - 0.05), rectangle(2.05, 3.6, w - 0.12), (0.55, 2.5), side, "cab", 2)
    s.patch(cab[4], (0.3, 0.95), (0.15, 0.85), "engine_soft")
    s.patch(cab[1], (0.08, 0.92), (0.0, 0.35), "engine")
    s.box((1.45, 1.85), 0.18, (0.6, 2.6), "exhaust", "exhaust", 2, 0.8)
    canvas = rng.random() < 0.45
    top = rectangle(-3.85, 1.3, w - 0.2) if canvas else rectangle(-3.85, 1.3, w)
    cargo = s.prism(rectangle(-3.85, 1.3, w), top, (0.95, 3.1), "cargo_side", "canvas" if canvas else "cargo", 2)
    if canvas:
        for u in np.arange(0.1, 0.95, 0.2):
            s.patch(cargo[4], (float(u), float(u) + 0.05), (0.0, 1.0), "rib")
    return s


def bus(rng: Rng) -> Solid:
    """Long box with a band of windows, units on the roof and the engine at the very rear."""
    s, w = Solid(), 1.22
    _wheels(s, [-2.7, 2.7], w - 0.08, 0.48, 0.3)
    low, high = bevelled(-4.7, 4.7, w, 0.2, 0.1), bevelled(-4.65, 4.6, w - 0.06, 0.25, 0.1)
    shell = s.prism(low, high, (0.35, 2.7), "body", "roof")
    for face in (shell[0], shell[4]):
        s.patch(face, (0.02, 0.97), (0.42, 0.84), "glass")
        for u in np.arange(0.12, 0.95, 0.14):
            s.patch(face, (float(u), float(u) + 0.03), (0.42, 0.84), "body")
    roof = s.box((-4.6, 4.5), w - 0.12, (2.7, 2.76), "roof", "roof", 2)
    s.patch(roof[4], (0.0, 0.17), (0.08, 0.92), "engine_soft")
    s.patch(roof[4], (0.02, 0.1), (0.25, 0.75), "engine")
    first = float(rng.uniform(0.28, 0.36))
    s.box((-4.6 + 9.1 * first, -4.6 + 9.1 * (first + 0.17)), 0.72, (2.76, 3.0), "unit", "unit", 3)
    if rng.random() < 0.6:
        s.box((1.6, 3.0), 0.7, (2.76, 2.96), "unit", "unit", 3)
    s.patch(roof[4], (0.62, 0.67), (0.35, 0.65), "glass")
    s.box((-4.85, -4.65), 0.2, (0.3, 0.55), "exhaust", "exhaust", 0, 0.7)
    return s.placed(0, 0, 0, 0.87)  # a midibus


def _turned(points: Points, angle: float, x: float) -> Points:
    c, s = math.cos(angle), math.sin(angle)
    return np.asarray((points - [x, 0.0]) @ np.array([[c, s], [-s, c]]) + [x, 0.0], dtype=np.float64)


def tank(rng: Rng) -> Solid:
    """Two hot tracks, a wide hull with the engine deck behind, a big turret and a long gun."""
    s = Solid()
    for y in (-1.38, 1.38):
        track = s.prism(rectangle(-3.0, 2.9, 0.34, y), rectangle(-3.3, 3.3, 0.34, y), (0.0, 0.95), "track", "skirt", 0)
        for u in np.arange(0.06, 0.95, 0.14):
            s.patch(track[0], (float(u), float(u) + 0.07), (0.1, 0.75), "wheel")
            s.patch(track[2], (float(u), float(u) + 0.07), (0.1, 0.75), "wheel")
    s.box((-3.2, 3.2), 1.04, (0.4, 0.9), "body", "body", 0)
    s.prism(rectangle(-3.2, 3.2, 1.06), rectangle(-3.2, 2.3, 1.06), (0.9, 1.25), "body", "body")
    deck = s.box((-3.15, -1.3), 1.0, (1.24, 1.3), "body", "bonnet", 2)
    s.patch(deck[4], (0.06, 0.5), (0.08, 0.92), "engine")
    s.box((-3.45, -3.15), 0.35, (0.7, 1.1), "exhaust", "exhaust", 2, 0.55)
    angle = float(rng.normal(0, 0.35)) if rng.random() < 0.8 else float(rng.uniform(-math.pi, math.pi))
    base, cap = bevelled(-1.5, 1.45, 1.2, 0.75, 0.4), bevelled(-1.35, 1.2, 1.0, 0.7, 0.4)
    pivot = 0.3
    base, cap = (_turned(plan + np.array([pivot, 0.0]), angle, pivot) for plan in (base, cap))
    s.prism(base, cap, (1.27, 2.05), "turret_side", "turret", 3)
    hatch = _turned(disc(pivot - 0.25, 0.45, 0.33), angle, pivot)
    s.prism(hatch, hatch, (2.05, 2.25), "turret_side", "hatch", 4)
    gun = _turned(rectangle(pivot + 1.2, pivot + 5.3, 0.13), angle, pivot)
    s.prism(gun, gun, (1.55, 1.8), "gun", "gun", 3)
    return s


def apc(rng: Rng) -> Solid:
    """Eight big wheels standing out of a wedge-nosed hull, engine beside the driver, a small turret behind."""
    s = Solid()
    _wheels(s, [-2.25, -0.85, 0.55, 1.95], 1.28, 0.55, 0.42)
    low = np.array([[-3.2, -1.05], [1.7, -1.05], [3.45, -0.4], [3.45, 0.4], [1.7, 1.05], [-3.2, 1.05]])
    high = np.array([[-3.1, -0.95], [1.4, -0.95], [2.5, -0.45], [2.5, 0.45], [1.4, 0.95], [-3.1, 0.95]])
    s.prism(low, high, (0.6, 1.9), "body", "deck")
    top = s.box((-3.0, 1.5), 0.9, (1.9, 1.94), "deck", "deck", 2)
    s.patch(top[4], (0.66, 0.98), (0.05, 0.48), "engine")
    s.patch(top[4], (0.82, 0.94), (0.6, 0.85), "hatch")
    for v in (0.14, 0.56):
        s.patch(top[4], (0.05, 0.24), (v, v + 0.3), "hatch")
    s.box((-0.2, 0.9), 0.1, (1.3, 1.75), "exhaust", "exhaust", 2, -1.05)
    angle = float(rng.normal(0, 0.5))
    ring = disc(-0.55, 0.0, 0.62, 8)
    s.prism(ring, disc(-0.55, 0.0, 0.5, 8), (1.94, 2.4), "turret_side", "turret", 3)
    gun = _turned(rectangle(0.0, 1.5, 0.08), angle, -0.55)
    s.prism(gun, gun, (2.1, 2.28), "gun", "gun", 3)
    return s


VEHICLES: Mapping[str, Callable[[Rng], Solid]] = {
    "car": car,
    "van": van,
    "pickup": pickup,
    "truck": truck,
    "bus": bus,
    "tank": tank,
    "apc": apc,
}

# Apparent temperature above the ground the vehicle stands on, kelvin: (running low, high, parked low, high).
# Glass and bare metal seen from above mirror the cold sky, hence their low apparent temperatures.
_HEAT: Mapping[str, tuple[float, float, float, float]] = {
    "body": (2.0, 7.0, -8.0, -3.0),
    "roof": (-1.0, 6.0, -10.0, -5.0),
    "cab": (1.0, 6.0, -9.0, -4.0),
    "deck": (1.0, 5.0, -8.0, -4.0),
    "bonnet": (7.0, 13.0, -8.0, -3.0),
    "engine": (13.0, 22.0, -5.0, -1.0),
    "engine_soft": (7.0, 13.0, -8.0, -4.0),
    "exhaust": (24.0, 48.0, -4.0, 1.0),
    "wheel": (4.0, 10.0, -4.0, 0.0),
    "track": (8.0, 15.0, -4.0, 0.0),
    "skirt": (4.0, 9.0, -7.0, -3.0),
    "chassis": (4.0, 10.0, -5.0, -2.0),
    "glass": (-7.0, -3.0, -14.0, -9.0),
    "bed": (-6.0, -2.0, -11.0, -8.0),
    "rim": (4.0, 8.0, -6.0, -2.0),
    "load": (-4.0, 6.0, -9.0, -1.0),
    "cargo": (-9.0, -3.0, -11.0, -5.0),
    "cargo_side": (0.0, 5.0, -7.0, -2.0),
    "canvas": (2.0, 7.0, -8.0, -4.0),
    "rib": (6.0, 11.0, -6.0, -2.0),
    "unit": (-7.0, 12.0, -13.0, -3.0),
    "turret": (0.0, 5.0, -9.0, -4.0),
    "turret_side": (2.0, 7.0, -7.0, -3.0),
    "hatch": (-4.0, 0.0, -12.0, -8.0),
    "gun": (5.0, 11.0, -8.0, -4.0),
}


def surface_heat(rng: Rng, running: bool) -> dict[str, float]:
    """Kelvin above the ground for every kind of surface; the vehicle's own warmth shifts them together."""
    warmth = float(rng.uniform(0, 1))
    drawn = {}
    for kind, (low, high, cold_low, cold_high) in _HEAT.items():
        a, b = (low, high) if running else (cold_low, cold_high)
        mix = 0.6 * warmth + 0.4 * float(rng.uniform(0, 1))
        drawn[kind] = a + mix * (b - a)
    return drawn


def facet_heat(facet: Facet, heat: Mapping[str, float], sun: Points, insolation: float) -> float:
    """Kelvin of one facet above the ground: its surface's heat, and the sun on it relative to flat ground."""
    return heat[facet.kind] + insolation * (max(float(facet.normal @ sun), 0.0) - float(sun[2]))
