"""Masks of the generated scenes are found without a flag."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from scripts.evaluating.annotated import find_boxes


def draw(file: Path, value: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), np.full((6, 8), value, np.uint8))
    return file


def areas(root: Path, files: list[Path]) -> list[float] | None:
    found = find_boxes(root, "test", files, None, None)
    return None if found is None else [0.0 if mask is None else float(np.asarray(mask).mean()) for mask in found.masks]


def test_masks_below_the_folder_of_their_images(tmp_path: Path) -> None:
    files = [draw(tmp_path / f"testA/{n}.png", 7) for n in range(2)]
    assert areas(tmp_path, files) is None
    draw(tmp_path / "masks/testA/0.png", 255)
    draw(tmp_path / "masks/testB/1.png", 255)  # of other images
    assert areas(tmp_path, files) == [1.0, 0.0]
    draw(tmp_path / "masks_test/1.png", 255)  # the usual place goes before
    assert areas(tmp_path, files) == [0.0, 1.0]


def test_masks_with_other_values_than_a_mask_needs_are_label_maps(tmp_path: Path) -> None:
    files = [draw(tmp_path / f"testA/{n}.png", 7) for n in range(3)]
    for number, value in enumerate((5, 0)):
        draw(tmp_path / f"masks_test/{number}.png", value)
    found = find_boxes(tmp_path, "test", files, None, None)
    assert found is not None
    assert [None if one is None else one.max() for one in found.label_maps] == [5, 0, None]
    draw(tmp_path / "masks_test/0.png", 255)
    draw(tmp_path / "masks_test/1.png", 128)  # a shadow
    found = find_boxes(tmp_path, "test", files, None, None)
    assert found is not None
    assert list(found.label_maps) == []
