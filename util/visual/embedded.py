"""Pictures inside a page: an address that is the image itself."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from util.visual.files import as_rgb, png_bytes

PREVIEW_SIDE = 256
_JPEG_QUALITY = 92


def data_uri(kind: str, content: bytes) -> str:
    """An image of a kind (`png`, `jpeg`, `svg+xml`) as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def preview(picture: np.ndarray, most: int = PREVIEW_SIDE) -> tuple[str, tuple[int, int]]:
    """A picture as a data address, and its (width, height).

    Reduced by averaging where a side is longer than `most`, never enlarged. Grey pictures are PNG, unless JPEG (quality
    92) takes less than half of it; coloured ones whichever is smaller, JPEG with full colour resolution.

    Args:
        picture: uint8 (H, W, 3), (H, W, 1) or (H, W).
    """
    shown = as_rgb(picture)
    share = most / max(shown.shape[:2])
    if share < 1:
        size = (max(1, round(shown.shape[1] * share)), max(1, round(shown.shape[0] * share)))
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    grey = bool((shown == shown[:, :, :1]).all())
    png = cv2.imencode(".png", shown[:, :, 0])[1].tobytes() if grey else png_bytes(shown)
    settings = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpeg = cv2.imencode(".jpg", shown[:, :, 0] if grey else shown[:, :, ::-1], settings)[1].tobytes()
    kind, content = ("jpeg", jpeg) if (1 + grey) * len(jpeg) < len(png) else ("png", png)
    return data_uri(kind, content), (shown.shape[1], shown.shape[0])
