"""Whether shapes and meanings survive the translation: IoU by a segmenter, against the input's masks or label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from util.metrics.base import METRICS, Boxes, Material, Metric, MetricError, Scores, Value
from util.metrics.paired import summary

IGNORED = 255  # of a label map: pixels without a class, as Cityscapes and VOC have them
Pixels = Counter[tuple[int, int]]  # by true and seen class


@METRICS.register("segmentation")
class Segmentation(Metric):
    """`mIoU`: mean over target and background of the IoU over all pixels of the split, as papers report it.

    `iou_image`: the target's IoU, per image. By `--segmenter MODULE:FUNCTION`, on translations.

    Where masks are label maps and the segmenter gives class numbers: `mIoU` is the mean over the classes, `iou_N` is
    that of each, `pixel_accuracy` the share of pixels that keep their class, and the table `pixels` says what becomes
    of the others; `iou_image` is the mean over the classes that an image truly has. Pixels of 255 do not count.
    """

    needs = ("boxes", "segmenter")

    def compute(self, material: Material) -> Scores:
        assert material.boxes is not None
        boxes = material.boxes
        of_classes = any(one is not None for one in boxes.label_maps)
        true = boxes.label_maps if of_classes else boxes.masks
        pairs: list[tuple[Tensor, NDArray[np.generic]] | None] = []
        for number, mask in enumerate(true):
            image = material.fake.read(number)
            fits = mask is not None and mask.shape == image.shape[-2:]
            pairs.append((_segmented(material, image), mask) if fits and mask is not None else None)
        found = [pair for pair in pairs if pair is not None]
        if not found:
            raise MetricError("needs masks of the size of their images (--masks FOLDER), and there are none")
        _check_kinds([seen for seen, _ in found], boxes, of_classes)
        return _of_classes(pairs) if of_classes else _of_target(pairs)


def _segmented(material: Material, image: Tensor) -> Tensor:
    assert material.segmenter is not None
    with torch.inference_mode():
        return material.segmenter(image[None])[0].cpu()


def _check_kinds(seen: Sequence[Tensor], boxes: Boxes, of_classes: bool) -> None:
    """Raise a MetricError where one side has classes and the other the target alone."""
    whole = all(not one.is_floating_point() and one.dtype != torch.bool for one in seen)
    largest = max(int(one.max()) for one in seen) if whole else 1
    if of_classes and not whole:
        some = next(one for one in boxes.label_maps if one is not None)
        values = ", ".join(map(str, np.unique(some)[:6].tolist()))
        raise MetricError(
            f"the masks are label maps (values {values}), and the segmenter gives {seen[0].dtype}; it should give the "
            "class of each pixel as a whole number, or --masks be 0 and 255"
        )
    if not of_classes and largest > 1:
        raise MetricError(
            f"the segmenter gives classes of pixels (up to {largest}), and the masks are 0 and 255; give label maps by "
            "--masks, or a segmenter that says where the target is"
        )


def _of_target(pairs: Sequence[tuple[Tensor, NDArray[np.generic]] | None]) -> Scores:
    per_image: list[float | None] = []
    seen, true = [], []
    for pair in pairs:
        if pair is None:
            per_image.append(None)
            continue
        found, wanted = pair[0].bool(), torch.from_numpy(pair[1])
        per_image.append(float(binary_jaccard_index(found.int(), wanted.int())))
        seen.append(found.flatten())
        true.append(wanted.flatten())
    pixels, wanted = torch.cat(seen), torch.cat(true)
    target = float(binary_jaccard_index(pixels.int(), wanted.int()))
    background = float(binary_jaccard_index((~pixels).int(), (~wanted).int()))
    note = f"over all pixels of {len(seen)} images; target {target:.4f}, background {background:.4f}"
    return Scores(
        {
            "mIoU": Value((target + background) / 2, None, "two classes", note, "higher"),
            "iou_image": summary(per_image, "target, per image", "higher"),
        },
        {"iou_image": per_image},
    )


def _of_classes(pairs: Sequence[tuple[Tensor, NDArray[np.generic]] | None]) -> Scores:
    per_image: list[float | None] = []
    total: Pixels = Counter()
    for pair in pairs:
        own = Counter() if pair is None else _counted(pair[0].numpy(), pair[1])
        total += own
        truly = sorted({true for true, _ in own})
        per_image.append(float(np.mean([_iou(own, number) for number in truly])) if own else None)
    if not total:
        raise MetricError(f"all pixels of the label maps are {IGNORED}, which stands for no class")
    classes = sorted({number for pair in total for number in pair})
    ious = {number: _iou(total, number) for number in classes}
    kept = sum(total[number, number] for number in classes) / total.total()
    images = sum(value is not None for value in per_image)
    kind, note = f"{len(classes)} classes", f"over all pixels of {images} images"
    values = {
        "mIoU": Value(float(np.mean(list(ious.values()))), None, kind, note, "higher"),
        "pixel_accuracy": Value(kept, None, kind, f"{note}; the others have changed their class", "higher"),
        **{f"iou_{number}": Value(iou, None, f"class {number}", note, "higher") for number, iou in ious.items()},
        "iou_image": summary(per_image, "mean over the classes, per image", "higher"),
    }
    return Scores(values, {"iou_image": per_image}, {"pixels": _table(total, classes)})


def _counted(seen: NDArray[np.generic], true: NDArray[np.generic]) -> Pixels:
    """Pixels by true and seen class, without those that have no class."""
    known = true != IGNORED
    rows, counts = np.unique(np.stack([true[known], seen[known]], 1).astype(np.int64), axis=0, return_counts=True)
    return Counter({(int(a), int(b)): int(count) for (a, b), count in zip(rows, counts, strict=True)})


def _iou(pixels: Mapping[tuple[int, int], int], number: int) -> float:
    """Of one class, which some pixel has or is taken for."""
    both = pixels.get((number, number), 0)
    return both / sum(count for pair, count in pixels.items() if number in pair)


def _table(pixels: Pixels, classes: Sequence[int]) -> dict[str, object]:
    """Counts by true class (row) and seen class (column)."""
    return {"classes": list(map(str, classes)), "counts": [[pixels[row, seen] for seen in classes] for row in classes]}
