"""Temperatures of a scene in kelvin: as a simulator draws them, and as they are out there, with clutter."""

from __future__ import annotations

import math

import cv2
import numpy as np

from .geometry import Float, Mask, Solid, cast_shadow, drawing_order, fill, outline, rectangle
from .ground import MATERIALS
from .noise import NoiseBank
from .scene import Clump, Rng, Scene
from .vehicles import facet_heat


def _ground(scene: Scene, bank: NoiseBank | None, rng: Rng) -> Float:
    """Ground in kelvin above the air: flat materials without a bank, textured and frayed ones with it."""
    view = scene.view
    wander = None
    if bank is not None:
        wander = bank.on_ground("cloud", view, rng, 16.0)
    ground = np.full((view.size, view.size), scene.heat[scene.layout.base], np.float32)
    regions = scene.layout.regions(view, wander)
    rough = np.full_like(ground, MATERIALS[scene.layout.base].rough)
    natural = np.full_like(ground, MATERIALS[scene.layout.base].texture == "natural")
    for region in regions:
        material = MATERIALS[region.material]
        ground += region.share * (np.float32(scene.heat[region.material]) - ground)
        rough += region.share * (np.float32(material.rough) - rough)
        natural += region.share * (np.float32(material.texture == "natural") - natural)
    if bank is None:
        return ground
    smooth = bank.on_ground("cloud", view, rng, 13.0)
    vegetation = bank.on_ground("natural", view, rng, 16.0)
    fine = bank.on_ground("grain", view, rng, 9.0)
    texture = smooth * (1 - natural) + natural * (0.65 * vegetation + 0.9 * smooth) + 0.05 * fine
    return np.asarray(ground + float(rng.uniform(0.7, 1.5)) * rough * texture, dtype=np.float32)


def _ghosts(scene: Scene, ground: Float, rng: Rng) -> None:
    """Where vehicles stood until lately the ground is still colder, or warmer, than around."""
    for _ in range(int(rng.integers(0, 3))):
        ghost = np.zeros_like(ground)
        x, y = (float(v) for v in rng.uniform(-9, 9, 2))
        plan = rectangle(-2.3, 2.3, 1.0) * float(rng.uniform(0.8, 1.4))
        flat = Solid()
        flat.prism(plan, plan, (0, 0.01), "", "")
        turned = flat.placed(x, y, scene.layout.angle + float(rng.choice([0, math.pi / 2])))
        fill(ghost, scene.view.project(turned.facets[-1].points), float(rng.uniform(-3.5, 1.5)))
        ground += cv2.GaussianBlur(ghost, (0, 0), float(rng.uniform(2, 6)))


def _debris(ground: Float, rng: Rng) -> None:
    """Seams and cables, litter and stones, a few hot spots."""
    size = ground.shape[0]
    for _ in range(int(rng.integers(0, 4))):
        steps = rng.normal(0, 0.1 * size, (6, 2)).cumsum(axis=0) * float(rng.choice([0.4, 1.0]))
        line = np.round((rng.uniform(0, 1, 2) * size + steps) * 16).astype(np.int32)
        seam = np.zeros_like(ground)
        cv2.polylines(seam, [line], False, float(rng.uniform(-2, 2)), 1, cv2.LINE_8, 4)
        ground += seam
    for _ in range(int(rng.integers(2, 16))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        axes = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        value = float(ground[y, x]) + float(rng.normal(0, 3))
        cv2.ellipse(ground, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, value, -1)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1]))):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        cv2.circle(ground, (x, y), int(rng.integers(1, 4)), float(ground[y, x]) + float(rng.uniform(7, 18)), -1)


def _paint_solid(canvas: Float, solid: Solid, scene: Scene, heat: dict[str, float], base: float, worn: float) -> None:
    """Draw a body in kelvin above the air; ``worn`` > 0 also draws the seams between its facets."""
    for facet in drawing_order(solid, scene.view):
        corners = scene.view.project(facet.points)
        value = base + facet_heat(facet, heat, scene.sun, scene.insolation)
        fill(canvas, corners, value)
        if worn:
            outline(canvas, corners, value + worn)


def _crown(scene: Scene, clump: Clump, drawn: Mask, bank: NoiseBank | None, rng: Rng) -> tuple[Float, Float]:
    """How much of every pixel a clump covers, and its kelvin there: a smooth dome, or leaves with a bank."""
    gsd = np.float32(scene.view.gsd)
    inside = cv2.distanceTransform(drawn, cv2.DIST_L2, 3)
    if bank is None:
        dome = clump.heat + np.minimum(inside * gsd, 1.2)
        return drawn.astype(np.float32), np.asarray(dome, dtype=np.float32)
    leaf = bank.on_ground("leaf", scene.view, rng, 18.0)
    branch = bank.on_ground("natural", scene.view, rng, 18.0)
    outside = cv2.distanceTransform(1 - drawn, cv2.DIST_L2, 3)
    depth = (inside - outside) * gsd + 0.3 * branch + 0.2 * leaf
    share = np.clip(depth / (2 * gsd) + 0.5, 0, 1)
    heat = clump.heat + 1.5 * leaf + 1.2 * branch + np.clip(depth, 0, 1.2)
    return np.asarray(share, dtype=np.float32), np.asarray(heat, dtype=np.float32)


def _vegetation(scene: Scene, canvas: Float, bank: NoiseBank | None, rng: Rng) -> None:
    """Crowns over their shadows, see :func:`_crown`."""
    for clump in scene.clumps:
        drawn, shade = np.zeros(canvas.shape, np.uint8), np.zeros(canvas.shape, np.uint8)
        for x, y, r in clump.crowns:
            cv2.circle(drawn, (round(x), round(y)), max(round(r), 1), 1, -1)
            at = (round(x + clump.shadow[0]), round(y + clump.shadow[1]))
            cv2.circle(shade, at, max(round(r), 1), 1, -1)
        if scene.day:
            canvas -= np.float32(0.7 * scene.insolation) * shade
        share, heat = _crown(scene, clump, drawn, bank, rng)
        canvas += share * (heat - canvas)


def _stand(scene: Scene, ground: Float) -> float:
    """Kelvin above the air of the ground round the vehicle."""
    ring = cv2.dilate(scene.mask, np.ones((9, 9), np.uint8)) - scene.mask
    return float(np.median(ground[ring > 0]))


def simulated(scene: Scene, bank: NoiseBank) -> Float:
    """Temperatures (drawn size, drawn size), kelvin, as a simulator draws them: flat facets, plain ground."""
    rng = scene.key.clutter
    canvas = _ground(scene, None, rng)
    stand = _stand(scene, canvas)
    canvas += 0.3 * bank.on_ground("bump", scene.view, rng, 6.0)
    if scene.day:
        canvas -= np.float32(0.55 * scene.insolation) * cast_shadow(scene.vehicle, scene.view, scene.sun)
    for solid in scene.standing:
        _paint_solid(canvas, solid, scene, scene.heat, 0.0, 0.0)
    _vegetation(scene, canvas, None, rng)
    _paint_solid(canvas, scene.vehicle, scene, scene.surfaces, stand, 0.0)
    return np.asarray(canvas + np.float32(scene.air), dtype=np.float32)


def _worn_vehicle(scene: Scene, canvas: Float, stand: float, bank: NoiseBank, rng: Rng) -> Float:
    """The vehicle on the canvas as it is: seams, heat spread through the panels, dirt and dents."""
    body = canvas.copy()
    seams = float(rng.uniform(-1.0, 3.5)) if scene.running else float(rng.uniform(0.0, 3.0))
    surfaces = {k: v + float(rng.normal(0, 1.2)) for k, v in scene.surfaces.items()}
    _paint_solid(body, scene.vehicle, scene, surfaces, stand, seams)
    inside = scene.mask.astype(np.float32)
    spread = 0.28 / scene.view.gsd
    weight = cv2.GaussianBlur(inside, (0, 0), spread) + np.float32(1e-6)
    soft = cv2.GaussianBlur(body * inside, (0, 0), spread) / weight
    dirt = bank.on_ground("natural", scene.view, rng, 22.0) + 0.5 * bank.on_ground("cloud", scene.view, rng, 12.0)
    mixed = 0.55 * body + 0.45 * soft + np.float32(rng.uniform(0.5, 1.1)) * dirt
    return np.asarray(np.where(scene.mask > 0, mixed, canvas), dtype=np.float32)


def actual(scene: Scene, bank: NoiseBank) -> Float:
    """Temperatures (drawn size, drawn size), kelvin, as they are out there: the same places, with clutter."""
    rng = scene.key.clutter
    canvas = _ground(scene, bank, rng)
    stand = _stand(scene, canvas)
    canvas += float(rng.uniform(0.2, 0.8)) * bank.on_ground("cloud", scene.view, rng, 10.0, -scene.layout.angle, 7.0)
    _ghosts(scene, canvas, rng)
    _debris(canvas, rng)
    metre = 1 / scene.view.gsd
    if scene.day:
        shadow = cast_shadow(scene.vehicle, scene.view, scene.sun).astype(np.float32)
        canvas -= np.float32(0.55 * scene.insolation) * cv2.GaussianBlur(shadow, (0, 0), 0.15 * metre)
    glow = cv2.GaussianBlur(scene.mask.astype(np.float32), (0, 0), 0.4 * metre)
    canvas += np.float32(rng.uniform(1, 3) if scene.running else rng.uniform(-2, 0)) * glow
    for solid in scene.standing:
        _paint_solid(canvas, solid, scene, scene.heat, 0.0, float(rng.uniform(-1, 2)))
    _vegetation(scene, canvas, bank, rng)
    canvas = _worn_vehicle(scene, canvas, stand, bank, rng)
    return np.asarray(canvas + np.float32(scene.air), dtype=np.float32)
