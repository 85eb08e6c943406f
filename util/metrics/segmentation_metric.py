"""Whether the target's shape survives the translation: mIoU by a segmenter, against the input's masks."""

from __future__ import annotations

import torch
from torchmetrics.functional.classification import binary_jaccard_index

from util.metrics.base import METRICS, Material, Metric, MetricError, Scores, Value
from util.metrics.paired import summary


@METRICS.register("segmentation")
class Segmentation(Metric):
    """`mIoU`: mean over target and background of the IoU over all pixels of the split, as papers report it.

    `iou_image`: the target's IoU, per image. By `--segmenter MODULE:FUNCTION`, on translations.
    """

    needs = ("boxes", "segmenter")

    def compute(self, material: Material) -> Scores:
        assert material.boxes is not None
        assert material.segmenter is not None
        per_image: list[float | None] = []
        seen, true = [], []
        for number, mask in enumerate(material.boxes.masks):
            image = material.fake.read(number)
            if mask is None or mask.shape != image.shape[-2:]:
                per_image.append(None)
                continue
            with torch.inference_mode():
                found = material.segmenter(image[None])[0].cpu().bool()
            wanted = torch.from_numpy(mask)
            per_image.append(float(binary_jaccard_index(found.int(), wanted.int())))
            seen.append(found.flatten())
            true.append(wanted.flatten())
        if not seen:
            raise MetricError("needs masks of the size of their images (--masks FOLDER), and there are none")
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
