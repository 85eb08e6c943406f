"""Flat facets in metres, an orthographic camera above them, and the painter that draws one with the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Mask = NDArray[np.uint8]
Points = NDArray[np.float64]

_SHIFT = 4  # fractional bits of the vertex coordinates handed to OpenCV
_VISIBLE = 1e-6


@dataclass(frozen=True)
class View:
    """A distant camera: parallel rays, ``elevation`` radians above the horizon (pi/2 looks straight down).

    World axes are x right, y away from the camera along the ground, z up, in metres; ``gsd`` is the size of a
    pixel in metres across the line of sight, ``size`` the side of the square picture in pixels. The world's
    origin is seen at the centre of the picture.
    """

    size: int
    gsd: float
    elevation: float

    @property
    def toward(self) -> Points:
        """Unit vector from the ground to the camera."""
        return np.array([0.0, -math.cos(self.elevation), math.sin(self.elevation)])

    def project(self, points: Points) -> Points:
        """Pixels (n, 2) as (column, row) of world points (n, 3)."""
        up = points[:, 1] * math.sin(self.elevation) + points[:, 2] * math.cos(self.elevation)
        return np.stack([points[:, 0], -up], axis=1) / self.gsd + (self.size - 1) / 2

    def ground(self, column: float, row: float) -> tuple[float, float]:
        """Ground point (x, y) in metres that is seen at a pixel."""
        half = (self.size - 1) / 2
        return (column - half) * self.gsd, (half - row) * self.gsd / math.sin(self.elevation)

    def ground_grid(self) -> tuple[Float, Float]:
        """Ground coordinates x and y (size, size) in metres of every pixel."""
        ramp = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2) * np.float32(self.gsd)
        x, y = np.meshgrid(ramp, -ramp / np.float32(math.sin(self.elevation)))
        return x.astype(np.float32), y.astype(np.float32)


@dataclass(frozen=True)
class Facet:
    """A convex planar polygon (n, 3), counter-clockwise seen from outside.

    ``kind`` names its temperature; ``layer`` and ``part`` order it in the picture.
    """

    points: Points
    kind: str
    layer: int
    part: int

    @property
    def normal(self) -> Points:
        p = self.points
        n = np.cross(p[1] - p[0], p[2] - p[1])
        length = float(np.linalg.norm(n))
        return n / length if length > 0 else n


def rectangle(x0: float, x1: float, half_width: float, y: float = 0.0) -> Points:
    """Plan (4, 2), counter-clockwise from rear right; its sides are right, front, left, rear."""
    return np.array([[x0, y - half_width], [x1, y - half_width], [x1, y + half_width], [x0, y + half_width]])


def bevelled(x0: float, x1: float, half_width: float, front: float, rear: float) -> Points:
    """Plan (8, 2) of a rectangle whose front and rear corners are cut by that many metres."""
    w = half_width
    right = [[x0 + rear, -w], [x1 - front, -w], [x1, -w + front]]
    left = [[x1, w - front], [x1 - front, w], [x0 + rear, w]]
    return np.array([*right, *left, [x0, w - rear], [x0, -w + rear]])


def disc(x: float, y: float, radius: float, corners: int = 10) -> Points:
    """Plan (corners, 2) of a regular polygon."""
    a = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([x + radius * np.cos(a), y + radius * np.sin(a)], axis=1)


@dataclass
class Solid:
    """A body assembled from convex prisms; layers are stacked upwards, parts of one layer stand side by side."""

    facets: list[Facet] = field(default_factory=list)
    parts: int = 0

    def prism(
        self,
        bottom: Points,
        top: Points,
        z: tuple[float, float],
        side: str | Sequence[str],
        cap: str,
        layer: int = 1,
    ) -> list[Points]:
        """Add the prism between two plans (n, 2) at heights ``z``; returns its n sides, then its cap."""
        part, self.parts = self.parts, self.parts + 1
        low = np.column_stack([bottom, np.full(len(bottom), z[0])])
        high = np.column_stack([top, np.full(len(top), z[1])])
        faces = []
        for i in range(len(low)):
            j = (i + 1) % len(low)
            faces.append(np.stack([low[i], low[j], high[j], high[i]]))
            self.facets.append(Facet(faces[-1], side if isinstance(side, str) else side[i], layer, part))
        self.facets.append(Facet(high, cap, layer, part))
        return [*faces, high]

    def box(
        self,
        x: tuple[float, float],
        half_width: float,
        z: tuple[float, float],
        side: str | Sequence[str],
        cap: str,
        layer: int = 1,
        y: float = 0.0,
    ) -> list[Points]:
        """Add an upright box; returns right, front, left, rear and top."""
        plan = rectangle(x[0], x[1], half_width, y)
        return self.prism(plan, plan, z, side, cap, layer)

    def patch(self, face: Points, u: tuple[float, float], v: tuple[float, float], kind: str) -> None:
        """Paint the part ``u`` x ``v`` (fractions) of a four-sided face that was added last or before.

        On a side u runs along its lower edge and v upwards; on a box's top u runs forward and v to the left.
        """
        part, layer = next((f.part, f.layer) for f in self.facets if f.points is face)
        a, b, c, d = face
        corners = [(u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])]
        quad = [(1 - s) * (1 - t) * a + s * (1 - t) * b + s * t * c + (1 - s) * t * d for s, t in corners]
        self.facets.append(Facet(np.stack(quad), kind, layer, part))

    def placed(self, x: float, y: float, heading: float, scale: float = 1.0) -> Solid:
        """This body scaled, turned by ``heading`` radians and moved to (x, y) on the ground."""
        c, s = math.cos(heading) * scale, math.sin(heading) * scale
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, scale]])
        shift = np.array([x, y, 0.0])
        return Solid([Facet(f.points @ turn.T + shift, f.kind, f.layer, f.part) for f in self.facets], self.parts)

    def part_points(self) -> list[Points]:
        """The vertices of every part, one array (n, 3) each."""
        groups: dict[int, list[Points]] = {}
        for facet in self.facets:
            groups.setdefault(facet.part, []).append(facet.points)
        return [np.concatenate(group) for group in groups.values()]


def drawing_order(solid: Solid, view: View) -> list[Facet]:
    """Facets that face the camera, far parts before near ones within a layer, low layers first."""
    total: dict[int, list[float]] = {}
    for facet in solid.facets:
        total.setdefault(facet.part, []).append(float((facet.points @ view.toward).mean()))
    nearness = {part: sum(values) / len(values) for part, values in total.items()}
    facing = [f for f in solid.facets if float(f.normal @ view.toward) > _VISIBLE]
    return sorted(facing, key=lambda f: (f.layer, nearness[f.part]))


def fill(image: Float | Mask, corners: Points, value: float) -> None:
    """Fill a convex polygon given in pixels (n, 2), in place."""
    fixed = np.round(corners * (1 << _SHIFT)).astype(np.int32)
    cv2.fillConvexPoly(image, fixed, value, cv2.LINE_8, _SHIFT)


def outline(image: Float, corners: Points, value: float) -> None:
    """Draw the closed outline of a polygon given in pixels (n, 2), one pixel wide, in place."""
    fixed = np.round(corners * (1 << _SHIFT)).astype(np.int32)
    cv2.polylines(image, [fixed], True, value, 1, cv2.LINE_8, _SHIFT)


def cast_shadow(solid: Solid, view: View, sun: Points) -> Mask:
    """Mask (size, size), 0 or 1, of the ground that the body hides from the sun (direction to it, unit)."""
    mask = np.zeros((view.size, view.size), np.uint8)
    for points in solid.part_points():
        flat = points - np.outer(points[:, 2] / sun[2], sun)
        corners = view.project(flat).astype(np.float32)
        fill(mask, cv2.convexHull(corners)[:, 0].astype(np.float64), 1)
    return mask
