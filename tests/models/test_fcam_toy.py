"""F-CAM on drawn ellipses: from pure seeds it finds whole objects of which its CAM knows a part."""

from __future__ import annotations

import torch
from torch import Tensor

from data.base import Batch
from models import MODELS
from models.fcam_model import FcamModel
from models.seeding import precision_counts
from models.teacher import Seen
from options.parse import train_options
from tests.models.fcam_bench import JUDGE, classifier_run
from util.engine.build import optimizers_from
from util.engine.step import Precision, train_step
from util.metrics.wsol_curves import PixelCurve
from util.seeding import StepInfo, generator

SIDE, BATCH, STEPS, TESTED = 48, 8, 120, 60
FLAGS = ("--model", "fcam", "--decoder_width", 32, "--sl_fg_erode_k", 3, "--lambda_CRF", 20, "--gpu_ids", -1)


def scenes(count: int, purpose: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, H, W) in [-1, 1] of an ellipse each, its mask (N, H, W), and a map of a part of it in [0, 1]."""
    random = generator(0, purpose)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, 1, 1, generator=random)

    rows = torch.arange(SIDE)[:, None] + 0.0
    columns = torch.arange(SIDE)[None] + 0.0
    y, x, tall, wide = draw(16, 32), draw(16, 32), draw(8, 14), draw(8, 14)
    down, across = (rows - y) / tall, (columns - x) / wide
    mask = down.square() + across.square() < 1
    ground, object_ = draw(-0.8, -0.2, 3), draw(0.0, 0.7, 3)
    images = torch.where(mask[:, None], object_, ground) + 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=random)
    # A peak somewhere inside, far narrower than the object, on a ground of noise.
    peak_y, peak_x = y + draw(-0.35, 0.35) * tall, x + draw(-0.35, 0.35) * wide
    peak = torch.exp(-6 * (((rows - peak_y) / tall).square() + ((columns - peak_x) / wide).square()))
    noise = torch.rand(count, SIDE // 6, SIDE // 6, generator=random)
    noise = torch.nn.functional.interpolate(noise[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    return images.clamp(-1, 1), mask, (peak + 0.25 * noise) / 1.25


def pixel_ap(maps: Tensor, masks: Tensor) -> float:
    curve = PixelCurve()
    for one, mask in zip(maps.double().numpy(), masks.numpy(), strict=True):
        curve.add(one, mask)
    return 100 * curve.average_precision()


def test_pure_seeds_of_a_part_become_the_object() -> None:
    source = classifier_run(*JUDGE)
    size = ("--crop_size", SIDE, "--load_size", SIDE, "--dataroot", "none", "--classifier_run", source)
    run = train_options([str(flag) for flag in (*FLAGS, *size)])
    model = MODELS.get("fcam").from_options(run)
    assert isinstance(model, FcamModel)
    images, masks, cams = scenes(BATCH * STEPS, "training scenes")
    known = {step: slice(BATCH * step, BATCH * (step + 1)) for step in range(STEPS)}
    counts, at = torch.zeros(4), 0

    def look(batch: Tensor, labels: Tensor, *, checked: bool) -> Seen:
        logits, stages = model.classifier.with_stages(batch)
        return Seen(cams[known[at]], stages, logits, labels)

    model.teacher.look = look  # type: ignore[method-assign, assignment]
    model.train()
    optimizers, precision = optimizers_from(run, model), Precision("off", model.device)
    for at in range(STEPS):
        index = torch.arange(BATCH * at, BATCH * (at + 1))
        names = tuple(map(str, index.tolist()))
        batch = Batch(images[known[at]], None, names, names, torch.zeros(BATCH, dtype=torch.int64), index, index)
        state = train_step(model, batch, StepInfo(0, at, progress=at / 20), optimizers, precision).state
        assert hasattr(state, "seeds")
        counts += precision_counts(state.seeds, masks[known[at]])
    assert counts[0] / counts[1] > 0.98
    assert counts[2] / counts[3] > 0.9
    images, masks, cams = scenes(TESTED, "test scenes")
    with model.evaluating():
        maps = model.full_resolution_maps(images)
    ours, teachers = pixel_ap(maps, masks), pixel_ap(cams, masks)
    assert ours > teachers + 10
    assert ours > 95
