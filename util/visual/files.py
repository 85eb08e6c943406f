"""Pictures as bytes, names as parts of file names, and setting an older run's output aside."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np


def as_rgb(image: np.ndarray) -> np.ndarray:
    """A uint8 picture (H, W), (H, W, 1) or (H, W, 3) as (H, W, 3); one channel is repeated.

    Raises:
        ValueError: another type or shape.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"A picture must be uint8, got {image.dtype}: scale it to 0..255 and round first.")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"A picture must be (H, W), (H, W, 1) or (H, W, 3), got the shape {image.shape}.")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 picture in RGB order, (H, W), (H, W, 1) or (H, W, 3), encoded as PNG."""
    done, encoded = cv2.imencode(".png", as_rgb(image)[:, :, ::-1])
    if not done:
        raise ValueError(f"A picture of the shape {image.shape} could not be encoded as PNG.")
    return encoded.tobytes()


def slug(name: str) -> str:
    """A name as a part of a file name: letters, digits, `.`, `-` and `_`; everything else becomes `_`."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "picture"


def set_aside(path: Path) -> Path | None:
    """Rename an earlier run's file or folder to `<stem>_<date of change><suffix>`; None if there is none."""
    if not path.exists():
        return None
    date = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    candidates = (f"{path.stem}_{date}{extra}{path.suffix}" for extra in ("", *(f"-{n}" for n in range(2, 1000))))
    target = next(path.with_name(name) for name in candidates if not path.with_name(name).exists())
    return path.rename(target)
