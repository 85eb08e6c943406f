"""Random textures with a chosen spectrum, made once for a seed and sampled at any place, angle and scale."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import fft

from .geometry import Float, View

_SIDE = 512
# name: (exponent of the power spectrum 1/f^b, lowest and highest frequency kept, cycles per texture)
_SPECTRA: dict[str, tuple[float, float, float]] = {
    "cloud": (3.0, 1.0, 60.0),
    "natural": (1.8, 3.0, 256.0),
    "leaf": (0.6, 16.0, 200.0),
    "grain": (0.0, 60.0, 256.0),
    "bump": (0.0, 4.0, 12.0),
}


def coloured(rng: np.random.Generator, exponent: float, low: float, high: float) -> Float:
    """A periodic texture (512, 512), mean 0 and standard deviation 1, of power 1/f**exponent in a band."""
    white = rng.standard_normal((_SIDE, _SIDE))
    fy = fft.fftfreq(_SIDE, 1 / _SIDE)[:, None]
    fx = fft.rfftfreq(_SIDE, 1 / _SIDE)[None, :]
    radius = np.hypot(fy, fx)
    gain = np.where((radius >= low) & (radius <= high), np.maximum(radius, 1.0) ** (-exponent / 2), 0.0)
    texture = fft.irfft2(fft.rfft2(white) * gain, s=(_SIDE, _SIDE))
    return np.asarray((texture - texture.mean()) / texture.std(), dtype=np.float32)


class NoiseBank:
    """The textures of one seed."""

    def __init__(self, seed: int) -> None:
        self._textures = {
            name: coloured(np.random.default_rng([seed, 7919, i]), *spectrum)
            for i, (name, spectrum) in enumerate(_SPECTRA.items())
        }

    def on_ground(
        self,
        name: str,
        view: View,
        rng: np.random.Generator,
        per_metre: float,
        angle: float | None = None,
        stretch: float = 1.0,
    ) -> Float:
        """Texture (size, size), unit deviation, lying on the ground: ``per_metre`` of its pixels to a metre.

        It starts at a random place and is turned by ``angle`` (random when None); ``stretch`` makes it longer
        along that direction.
        """
        a = rng.uniform(0, 2 * math.pi) if angle is None else angle
        across = per_metre * view.gsd
        down = across / math.sin(view.elevation)
        c, s = math.cos(a), math.sin(a)
        origin = rng.uniform(0, _SIDE, 2)
        to_texture = np.array(
            [[c * across / stretch, -s * down / stretch, origin[0]], [s * across, c * down, origin[1]]]
        )
        warped = cv2.warpAffine(
            self._textures[name],
            to_texture,
            (view.size, view.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        return np.asarray(warped, dtype=np.float32)
