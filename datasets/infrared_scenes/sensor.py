"""Two cameras: the ideal one of a simulator (domain A) and a real uncooled long-wave infrared one (domain B).

The order is the physical one: radiance of the scene, atmosphere, optics, detector, noise, response, converter,
and, for 8-bit video only, the display gain. Radiance is stated in kelvin: the band radiance minus that of a black
body of 300 K, divided by its derivative there, so that small differences at 300 K are differences of temperature.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import Float
from .scene import SUPERSAMPLING

Rng = np.random.Generator
Counts = NDArray[np.uint16]
Grey = NDArray[np.uint8]

_SECOND_RADIATION = 14388.0  # hc/k in micrometre kelvin
_WAVELENGTH = 10.0  # micrometre, the middle of the band
_REFERENCE = 300.0  # kelvin
_CONVERTER_TOP = 16383  # 14 bits, as in the cores of most uncooled cameras
_FRAME = (512, 640)


def radiance(kelvin: Float) -> Float:
    """Radiance of a black body (Planck, at 10 micrometres) in kelvin about 300 K, see the module."""
    x = _SECOND_RADIATION / (_WAVELENGTH * kelvin)
    x0 = _SECOND_RADIATION / (_WAVELENGTH * _REFERENCE)
    at_reference = 1 / np.expm1(x0)
    slope = x0 / _REFERENCE * np.exp(x0) * at_reference**2
    return np.asarray((1 / np.expm1(x) - at_reference) / slope, dtype=np.float32)


def _detector(image: Float) -> Float:
    """Mean over the area of every detector."""
    n = image.shape[0] // SUPERSAMPLING
    return np.asarray(image.reshape(n, SUPERSAMPLING, n, SUPERSAMPLING).mean(axis=(1, 3)), dtype=np.float32)


def ideal_counts(kelvin: Float, rng: Rng) -> Counts:
    """Domain A, 16 bits (size, size): linear, no optics, hardly any noise, 55 counts per kelvin."""
    seen = _detector(radiance(kelvin))
    seen += 0.03 * rng.standard_normal(seen.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(10000 + 55 * seen), 0, 65535), dtype=np.uint16)


def ideal_grey(kelvin: Float, rng: Rng) -> Grey:
    """Domain A, 8 bits (size, size): a linear window of about 40 K round the scene's median."""
    seen = _detector(radiance(kelvin))
    seen += 0.03 * rng.standard_normal(seen.shape, dtype=np.float32)
    middle = float(rng.uniform(90, 140))
    level = np.clip(np.rint(middle + 6.5 * (seen - np.median(seen))), 0, 255)
    return np.asarray(level, dtype=np.uint8)


class InfraredCamera:
    """One camera of domain B: its fixed patterns belong to it, its temporal noise to every picture.

    Pictures are windows cut from its frame at a random place. Deviations are kelvin at the scene; the noise
    components are those of the three-dimensional noise model (D'Agostino and Webb, SPIE 1488, 1991).
    """

    def __init__(self, seed: int, size: int) -> None:
        rng = np.random.default_rng([seed, 104729])
        rows, columns = (max(extent, 2 * size) for extent in _FRAME)
        pixels = rng.standard_normal((rows, columns), dtype=np.float32)
        column = rng.standard_normal((1, columns), dtype=np.float32)
        row = rng.standard_normal((rows, 1), dtype=np.float32)
        self._offset = 0.05 * pixels + 0.06 * column + 0.025 * row
        self._gain = 1 + 0.003 * rng.standard_normal((rows, columns), dtype=np.float32)
        y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
        tilt = rng.normal(0, 0.7, 2)
        self._shading = np.asarray(tilt[0] * x + tilt[1] * y - 2.6 * (x * x + y * y), dtype=np.float32)
        self._dead = rng.random((rows, columns)) < 4e-5
        self._size = size

    def _optics(self, image: Float, rng: Rng) -> Float:
        """Diffraction, defocus and a little motion; widths in detector pixels, applied at the drawn resolution."""
        sigma = float(rng.uniform(0.55, 1.15)) * SUPERSAMPLING
        blurred = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        length = int(rng.choice([1, 3, 5], p=[0.55, 0.3, 0.15]))
        if length > 1:
            kernel = np.zeros((length, length), np.float32)
            step = rng.normal(0, 1, 2)
            step *= (length // 2) / np.abs(step).max()
            ends = [(round(length // 2 + s * step[0]), round(length // 2 + s * step[1])) for s in (-1, 1)]
            cv2.line(kernel, ends[0], ends[1], 1.0)
            blurred = cv2.filter2D(blurred, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, dtype=np.float32)

    def _noise(self, seen: Float, rng: Rng) -> Float:
        """Fixed patterns of a random window of the frame, then temporal, row and column noise."""
        n, level = self._size, float(rng.uniform(0.6, 1.5))
        top, left = (int(rng.integers(extent - n + 1)) for extent in self._offset.shape)
        window = np.s_[top : top + n, left : left + n]
        seen = seen * self._gain[window] + self._shading[window]
        drift = float(rng.uniform(0.5, 1.3))  # how long ago the shutter corrected the fixed pattern
        seen = seen + drift * self._offset[window]
        seen += level * 0.07 * rng.standard_normal((n, n), dtype=np.float32)
        seen += level * 0.04 * rng.standard_normal((n, 1), dtype=np.float32)
        seen += level * 0.03 * rng.standard_normal((1, n), dtype=np.float32)
        stuck = self._dead[window]
        seen[stuck] = np.where(rng.random(int(stuck.sum())) < 0.5, seen.min(), seen.max())
        return np.asarray(seen, dtype=np.float32)

    def counts(self, kelvin: Float, rng: Rng) -> Counts:
        """Domain B, 16 bits (size, size): counts of a 14-bit converter, roughly 7000 to 13000."""
        clear = float(rng.uniform(0.78, 0.96))
        air = radiance(np.float32(np.median(kelvin)) - np.asarray(3.0, dtype=np.float32))
        seen = _detector(self._optics(clear * radiance(kelvin) + (1 - clear) * air, rng))
        seen = self._noise(seen, rng)
        gain = float(rng.uniform(0.95, 1.05))
        bent = 140 * np.arcsinh(gain * seen / 60)  # compressive: the bolometer heats up and its bridge saturates
        return np.asarray(np.clip(np.rint(8600 + 24 * bent), 0, _CONVERTER_TOP), dtype=np.uint16)

    def grey(self, kelvin: Float, rng: Rng) -> Grey:
        """Domain B, 8 bits (size, size): the counts after the camera's display gain."""
        return display_gain(self.counts(kelvin, rng), rng)


def display_gain(counts: Counts, rng: Rng) -> Grey:
    """Edge enhancement, then a mixture of a linear stretch and plateau equalisation; 8 bits (size, size)."""
    image = counts.astype(np.float32)
    base = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(2.0, 3.5)), borderType=cv2.BORDER_REFLECT)
    image = image + float(rng.uniform(0.2, 0.8)) * (image - base)
    low, high = (float(v) for v in np.percentile(image, [0.5, 99.85]))
    span = max(high - low, 900.0)
    middle = (low + high) / 2
    linear = np.clip((image - middle) / span + 0.5, 0, 1)
    histogram, _ = np.histogram(linear, 256, (0, 1))
    plateau = np.minimum(histogram, max(1, int(0.012 * image.size)))
    curve = np.cumsum(plateau) / plateau.sum()
    equalised = np.interp(linear, (np.arange(256) + 0.5) / 256, curve)
    share = float(rng.uniform(0.1, 0.35))
    level = (1 - share) * linear + share * equalised
    contrast, brightness = float(rng.uniform(0.7, 0.95)), float(rng.uniform(-0.03, 0.08))
    level = np.clip(0.5 + contrast * (level - 0.5) + brightness, 0, 1)
    return np.asarray(np.rint(255 * level), dtype=np.uint8)
