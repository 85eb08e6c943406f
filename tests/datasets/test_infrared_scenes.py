"""The scenes of the example data set: shapes and cameras against plain physics, classes that one can learn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from infrared_scenes import writer
from infrared_scenes.geometry import Solid, View, drawing_order, rectangle
from infrared_scenes.recipe import CLASS_NAMES, Recipe, class_of
from infrared_scenes.scene import Key, Scene, describe, silhouette
from infrared_scenes.sensor import InfraredCamera, display_gain, ideal_counts, radiance
from infrared_scenes.vehicles import VEHICLES
from numpy.typing import NDArray
from scipy import constants


def shape_features(mask: NDArray[np.uint8]) -> list[float]:
    """Of a silhouette, whatever its place and heading: size, elongation, Hu's moments, compactness."""
    moments = cv2.moments(mask, binaryImage=True)
    hu = np.ravel(cv2.HuMoments(moments))
    contour = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea)
    _, sides, _ = cv2.minAreaRect(contour)
    fill = moments["m00"] / (sides[0] * sides[1])
    hull = moments["m00"] / cv2.contourArea(cv2.convexHull(contour))
    return [math.log(max(sides)), math.log(min(sides)), fill, hull, *np.log(np.abs(hu[:3]) + 1e-9)]


def centroid_accuracy(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Held-out half, nearest class mean after whitening with the pooled covariance within classes."""
    half = len(labels) // 2
    known, asked = features[:half], features[half:]
    means = np.stack([known[labels[:half] == c].mean(axis=0) for c in range(7)])
    within = np.cov((known - means[labels[:half]]).T) + 1e-6 * np.eye(features.shape[1])
    gap = asked[:, None] - means[None]
    distance = np.einsum("ncf,fg,ncg->nc", gap, np.linalg.inv(within), gap)
    return float((distance.argmin(axis=1) == labels[half:]).mean())


def test_class_is_in_the_object_and_not_in_the_background() -> None:
    studio = writer.Studio(Recipe(size=64, seed=11))
    shape, around, labels = [], [], []
    for i in range(420):
        label = class_of(11, 0, i, (1.0,) * 7)
        scene = describe(Key(11, 0, i), CLASS_NAMES[label], 64)
        mask = scene.object_mask
        far = cv2.dilate(mask, np.ones((9, 9), np.uint8)) == 0
        seen = studio.domain_b(scene)[far].astype(np.float64)
        shape.append(shape_features(mask))
        around.append([seen.mean(), seen.std(), *np.percentile(seen, [5, 50, 95])])
        labels.append(label)
    truth = np.array(labels)
    # Chance is 0.14; the heat pattern is not even used.
    assert centroid_accuracy(np.array(shape), truth) > 0.6
    assert centroid_accuracy(np.array(around), truth) < 0.3


# ---- geometry


def test_view_by_hand() -> None:
    point = np.array([[1.0, 2.0, 3.0]])
    assert View(101, 0.5, math.pi / 2).project(point)[0] == pytest.approx([52.0, 46.0])  # height is not seen
    slant = View(101, 0.5, math.pi / 6).project(point)[0]
    assert slant == pytest.approx([52.0, 50 - (2 * 0.5 + 3 * math.sqrt(3) / 2) / 0.5])
    view = View(64, 0.2, 0.9)
    x, y = view.ground(10, 20)
    assert view.project(np.array([[x, y, 0.0]]))[0] == pytest.approx([10, 20])
    grid_x, grid_y = view.ground_grid()
    assert (grid_x[20, 10], grid_y[20, 10]) == pytest.approx((x, y), rel=1e-5)


def test_box_shows_the_sides_that_face_the_camera() -> None:
    solid = Solid()
    solid.box((-1, 1), 1, (0, 2), ("right", "front", "left", "rear"), "top")
    kinds = [f.kind for f in drawing_order(solid, View(64, 0.1, 0.8))]
    assert kinds == ["right", "top"]  # the camera stands at negative y, which is the box's right


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_silhouette_is_the_union_of_the_parts(name: str) -> None:
    """Outward facets only: parts made of prisms cover the hull of their own corners, wheels to gun."""
    rng = np.random.default_rng(3)
    for elevation in (0.75, 1.2, math.pi / 2):
        view = View(200, 0.06, elevation)
        solid = VEHICLES[name](rng).placed(0.3, -0.2, float(rng.uniform(0, 6)))
        union = np.zeros((200, 200), np.uint8)
        for points in solid.part_points():
            hull = cv2.convexHull(np.round(view.project(points) * 16).astype(np.int32))
            cv2.fillConvexPoly(union, hull, 1, cv2.LINE_8, 4)
        assert np.mean(silhouette(solid, view) != union) < 0.002


def nearest_kinds(solid: Solid, view: View) -> NDArray[np.int64]:
    """Index of the facet seen at every pixel, by comparing depths: slow, without an order of drawing."""
    depth = np.full((view.size, view.size), -np.inf)
    seen = np.full((view.size, view.size), -1, dtype=np.int64)
    rows, columns = np.mgrid[: view.size, : view.size]
    for index, facet in enumerate(solid.facets):
        corners = view.project(facet.points)
        if abs(float(facet.normal @ view.toward)) < 1e-3:
            continue
        plane = np.column_stack([corners, np.ones(len(corners))])
        fit = np.linalg.lstsq(plane, facet.points @ view.toward, rcond=None)[0]
        height = fit[0] * columns + fit[1] * rows + fit[2]
        inside = np.zeros((view.size, view.size), np.uint8)
        cv2.fillConvexPoly(inside, np.round(corners * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        wins = (inside > 0) & (height > depth - 1e-6)  # a patch lies in its face and comes after it
        depth[wins], seen[wins] = height[wins], index
    return seen


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_painter_agrees_with_a_depth_buffer(name: str) -> None:
    rng = np.random.default_rng(8)
    for elevation in (0.75, 1.1, 1.5):
        view = View(160, 0.075, elevation)
        solid = VEHICLES[name](rng).placed(0, 0, float(rng.uniform(0, 6)))
        numbers = {id(facet): i for i, facet in enumerate(solid.facets)}
        painted = np.full((160, 160), -1, dtype=np.int32)
        for facet in drawing_order(solid, view):
            corners = np.round(view.project(facet.points) * 16).astype(np.int32)
            cv2.fillConvexPoly(painted, corners, numbers[id(facet)], cv2.LINE_8, 4)
        expected = nearest_kinds(solid, view)
        kinds = [facet.kind for facet in solid.facets] + ["nothing"]
        kind_of = {kind: i for i, kind in enumerate(sorted({*kinds, "wheel"}))}
        seen, wanted = (np.array([kind_of[k] for k in kinds], np.uint8)[m] for m in (painted, expected))
        square = np.ones((3, 3), np.uint8)
        inner = cv2.erode(wanted, square) == cv2.dilate(wanted, square)  # not the outlines, a pixel wide
        inner &= (seen != kind_of["wheel"]) & (wanted != kind_of["wheel"])  # drawn under the body
        assert (inner & (seen != wanted)).sum() < 0.03 * (inner & (painted >= 0)).sum()


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_vehicle_fills_a_good_part_of_the_picture(name: str) -> None:
    sides = []
    for i in range(12):
        mask = describe(Key(2, 0, i), name, 128).object_mask
        _, side, _ = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
        sides.append(max(side))
    assert 24 < np.median(sides) < 64


# ---- cameras


def test_radiance_is_plancks() -> None:
    kelvin = np.linspace(270, 360, 7)

    def planck(t: NDArray[np.float64]) -> NDArray[np.float64]:
        exponent = constants.h * constants.c / (10e-6 * constants.k * t)
        return np.asarray(1 / np.expm1(exponent))

    at = np.array([300.0])
    slope = (planck(at + 0.01) - planck(at - 0.01)) / 0.02
    expected = (planck(kelvin) - planck(at)) / slope
    assert radiance(kelvin.astype(np.float32)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def spot(size: int) -> NDArray[np.float32]:
    kelvin = np.full((2 * size, 2 * size), 290, np.float32)
    kelvin[size : size + 2, size : size + 2] = 390
    return kelvin


def test_only_the_sensor_blurs() -> None:
    """A hot spot of one pixel stays one for the simulator, and is spread by the optics of the sensor."""
    sharp = ideal_counts(spot(32), np.random.default_rng(0)).astype(np.float64)
    measured = InfraredCamera(0, 32).counts(spot(32), np.random.default_rng(0)).astype(np.float64)
    for image, low, high in ((sharp, 0.99, 1.01), (measured, 0.05, 0.6)):
        above = image - np.median(image)
        share = above[16, 16] / above[14:19, 14:19].sum()
        assert low < share < high


def grain(camera: InfraredCamera, seed: int) -> NDArray[np.float64]:
    """What a camera adds to an even scene, pixel by pixel, without dead pixels; deviation 1."""
    flat = np.full((512, 512), 300, np.float32)
    counts = camera.counts(flat, np.random.default_rng(seed)).astype(np.float32)
    fine = (counts - cv2.medianBlur(counts, 5)).astype(np.float64)
    return np.asarray(np.clip(fine / fine.std(), -4, 4), dtype=np.float64)


def test_fixed_pattern_belongs_to_the_camera() -> None:
    """Two pictures of one camera agree when shifted against one another, those of two cameras do not."""

    def best_match(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        a, b = (p - p.mean(axis=0, keepdims=True) - p.mean(axis=1, keepdims=True) for p in (a, b))  # no columns
        product = np.fft.fft2(a) * np.conj(np.fft.fft2(b))
        return float(np.fft.ifft2(product).real.max() / (a.std() * b.std() * a.size))

    one, other = InfraredCamera(0, 256), InfraredCamera(1, 256)
    strange = best_match(grain(one, 0), grain(other, 1))
    assert best_match(grain(one, 0), grain(one, 1)) > 2 * strange


def test_sensor_noise_has_columns() -> None:
    fine = grain(InfraredCamera(4, 256), 0)
    assert fine.mean(axis=0).std() * math.sqrt(256) > 3  # white noise alone would give 1
    ideal = ideal_counts(np.full((512, 512), 300, np.float32), np.random.default_rng(0)).astype(np.float64)
    assert ideal.mean(axis=0).std() * math.sqrt(256) / ideal.std() < 1.3


def test_display_gain_spans_the_greys_and_keeps_order() -> None:
    ramp = np.tile(np.linspace(7000, 12000, 64), (64, 1)).astype(np.uint16)
    grey = display_gain(ramp, np.random.default_rng(0)).astype(int)
    assert np.all(np.diff(grey[32]) >= 0)
    assert grey.max() - grey.min() > 150


def test_domain_b_is_noisier_than_its_simulation() -> None:
    studio = writer.Studio(Recipe(size=96))
    for i in range(4):
        scene: Scene = describe(Key(0, 2, i), "van", 96)
        fine = [image - cv2.GaussianBlur(image, (0, 0), 1.0) for image in map(
            np.float64, (studio.domain_a(scene), studio.domain_b(scene)))]  # fmt: skip
        assert np.median(np.abs(fine[1])) > 2 * np.median(np.abs(fine[0]))


def test_rectangle_is_counter_clockwise() -> None:
    plan = rectangle(-2, 2, 1)
    x, y = plan[:, 0], plan[:, 1]
    assert 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) == pytest.approx(8.0)
