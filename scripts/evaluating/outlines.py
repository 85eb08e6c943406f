"""Where the target is, drawn into the pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from util.metrics.base import Material, MetricError
from util.visual.boxes import draw_boxes, draw_masks

Picture = NDArray[np.uint8]

TARGET, SEGMENTED, ON_MAPS = 0, 1, -1  # classes whose colours are orange, blue and white
# Pictures that show the same place pixel by pixel, so that the input's target is there too, and its colour in each.
COLOURS = {"input": TARGET, "translation": TARGET, "CAM of input": ON_MAPS, "CAM of translation": ON_MAPS}


def legend(material: Material) -> str:
    """What the outlines mean; nothing where there are none."""
    known = material.boxes is not None
    told = (
        ["orange, and white on maps: the input's target, its mask where there is one, else its boxes"] if known else []
    )
    told += ["blue: what the segmenter finds in the translation"] if material.segmenter is not None else []
    return "; ".join(told)


def has_outlines(material: Material, number: int) -> bool:
    """Whether there is anything to draw into an image's pictures."""
    boxes = material.boxes
    known = boxes is not None and (boxes.masks[number] is not None or bool(boxes.rectangles[number]))
    return known or material.segmenter is not None


def annotated(material: Material, number: int, pictures: Mapping[str, np.ndarray]) -> dict[str, Picture]:
    """Those pictures of an image, by heading, that there is something to draw into, with it drawn.

    The target is what the measures take for it: the mask where there is one, else the boxes.

    Args:
        pictures: by heading, uint8 (H, W, 3).

    Raises:
        MetricError: the segmenter does not give one value for each pixel.
    """
    drawn = {}
    for heading, colour in COLOURS.items():
        if heading in pictures:
            before: Picture = pictures[heading].astype(np.uint8)
            after = _with_target(material, number, before, colour)
            if heading == "translation" and material.segmenter is not None:
                after = draw_masks(after, [_segmented(material, number)], [SEGMENTED])
            if after is not before:
                drawn[heading] = after
    return drawn


def _with_target(material: Material, number: int, picture: Picture, colour: int) -> Picture:
    """The picture itself where no target is known."""
    if material.boxes is None:
        return picture
    mask, boxes = material.boxes.masks[number], material.boxes.rectangles[number]
    if mask is not None:
        return draw_masks(picture, [mask], [colour]) if mask.shape == picture.shape[:2] else picture
    return draw_boxes(picture, boxes, [colour] * len(boxes)) if boxes else picture


def _segmented(material: Material, number: int) -> NDArray[np.bool_]:
    """(H, W): what the segmenter takes for the target in a translation."""
    assert material.segmenter is not None
    image = material.fake.read(number)
    with torch.inference_mode():
        found = material.segmenter(image[None])
    if found.shape != (1, *image.shape[-2:]):
        raise MetricError(
            f"--segmenter: gave {tuple(found.shape)} for an image of {tuple(image[None].shape)}; "
            "it should give (1, H, W)"
        )
    seen: NDArray[np.bool_] = found[0].cpu().bool().numpy()
    return seen
