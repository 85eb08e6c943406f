"""A data root with split files as CUB's, written small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (24, 40)  # height, width of every image
BIRDS = ("001.Albatross", "002.Auklet")


def picture(path: Path, value: int = 100, target: Sequence[int] | None = None) -> None:
    """A grey image with a bright target (x0, y0, x1, y1; both corners inside)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*SIZE, 3), value, np.uint8)
    if target is not None:
        x0, y0, x1, y1 = target
        image[y0 : y1 + 1, x0 : x1 + 1] = 250
    assert cv2.imwrite(str(path), image)


def lines(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts))


def write_cub(root: Path) -> None:
    """8 images to train, 4 of val, 2 of test; every image has a box at its own place."""
    for phase, count in (("train", 8), ("val", 4), ("test", 2)):
        folder, names = root / "splits" / phase, []
        for number in range(count):
            names.append(f"{BIRDS[number % 2]}/{phase}_{number}.jpg")
            picture(root / names[-1], 20 * number, box(number))
        lines(folder / "image_ids.txt", *names)
        lines(folder / "class_labels.txt", *(f"{name},{number % 2}" for number, name in enumerate(names)))
        lines(folder / "image_sizes.txt", *(f"{name},{SIZE[1]},{SIZE[0]}" for name in names))
        boxes = (f"{name},{','.join(map(str, box(number)))}" for number, name in enumerate(names))
        lines(folder / "localization.txt", *boxes)


def box(number: int) -> list[int]:
    return [4 * number, 2 + number, 4 * number + 7, 9 + number]
