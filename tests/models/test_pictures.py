"""`load_run(...).translate(picture)`: whatever holds a picture gives what test.py writes for its file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.images import ImageError, Window
from models import load_run
from models.base import Explanation, Model
from models.pictures import PictureCam
from options.schema import OptionError
from tests.conftest import picture
from tests.runs import BYTES, COUNTS, CUTCAM, make_run
from util.checkpoint import CheckpointError

Loaded = Model[Any]
GREY = ("--input_nc", "1", "--output_nc", "1")
NAMES = {0: "disc", 1: "frame", 2: "bars", 3: "cross"}


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_run(make_run(tmp_path_factory.mktemp("ck") / "colour", *CUTCAM, classes=NAMES))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_run(make_run(tmp_path_factory.mktemp("ck") / "deep", *CUTCAM, *GREY, formats=COUNTS))


def test_eight_bits_from_every_holder_give_the_same(colour: Loaded, tmp_path: Path) -> None:
    values = picture(1, 0, (33, 46), 3)
    Image.fromarray(values).save(tmp_path / "x.png")
    fake = colour.translate(tmp_path / "x.png")
    assert fake.dtype == np.uint8
    assert fake.shape == (33, 46, 3)
    assert fake.std() > 5
    with_alpha = Image.fromarray(np.dstack([values, np.full((33, 46), 7, np.uint8)]))
    for same in (str(tmp_path / "x.png"), Image.fromarray(values), with_alpha, values, values.transpose(2, 0, 1)):
        assert (colour.translate(same) == fake).all()
    grey = picture(1, 0, (32, 40), 1)[:, :, 0]
    repeated = np.repeat(grey[:, :, None], 3, 2)
    for same in (grey, grey[None], grey[:, :, None], Image.fromarray(grey)):
        assert (colour.translate(same) == colour.translate(repeated)).all()


def test_sixteen_bits_go_in_and_come_out_in_counts(deep: Loaded, tmp_path: Path) -> None:
    counts = np.random.default_rng(1).integers(1000, 3000, (32, 40)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), counts)
    fake = deep.translate(counts)
    assert fake.dtype == np.uint16
    assert fake.shape == (32, 40)
    assert 2000 <= fake.min() < fake.max() <= 6000  # B's window
    opened = Image.open(tmp_path / "x.png")
    for same in (tmp_path / "x.png", opened, Image.fromarray(counts.astype(np.int32))):
        assert (deep.translate(same) == fake).all()
    # By hand, where no side has to be resized.
    x = torch.from_numpy((counts.astype(np.float32) - 1000) / 2000 * 2 - 1)[None, None]
    with torch.no_grad():
        expected = 2000 + (deep.nets["G"](x)[0, 0].double().numpy() + 1) / 2 * 4000
    assert abs(fake - expected).max() <= 0.51


def test_tensors_stay_tensors(colour: Loaded) -> None:
    batch = torch.rand(2, 3, 32, 36) * 2 - 1
    with torch.no_grad():
        assert torch.equal(colour.translate(batch), colour.nets["G"](batch))
        fake, seen = colour.translate(batch, explain=True, class_id=3)
        alone, chosen = colour.translate(batch, explain=True)
    assert isinstance(seen, Explanation)
    assert seen.classes.tolist() == [3, 3]
    assert torch.equal(chosen.classes, colour.classify(batch).argmax(1))
    assert torch.equal(fake, alone)
    one = colour.translate(batch[0])
    assert torch.allclose(one, fake[0], atol=1e-3)  # of a batch of one
    assert colour.translate(torch.rand(3, 33, 38) * 2 - 1).shape == (3, 33, 38)  # any size, padded inside
    again, cam = colour.translate(batch[0], explain=True, class_id=3)
    assert torch.equal(again, one)
    assert np.allclose(cam.raw, seen.cam[0].numpy(), atol=1e-3)


def test_a_class_that_is_not_there_is_refused_of_batches_too(colour: Loaded) -> None:
    for images in (torch.zeros(3, 32, 36), torch.zeros(1, 3, 32, 36)):
        for number in (99, -5):
            with pytest.raises(OptionError, match=f"--class_idx {number}: the head has the classes 0 to 3"):
                colour.translate(images, explain=True, class_id=number)


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(torch.float64, "convert it by .float()"), (torch.uint8, "give the picture's counts as an")]
)
@pytest.mark.parametrize("shape", [(3, 32, 36), (2, 3, 32, 36)])
def test_tensors_of_another_number_format_are_refused(
    colour: Loaded, dtype: torch.dtype, remedy: str, shape: tuple[int, ...]
) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ImageError, match=rf"a tensor of {name}: the run takes float32 in \[-1, 1\]; {remedy}"):
        colour.translate(torch.zeros(shape, dtype=dtype))


def test_half_numbers_are_taken_where_autocast_takes_them(colour: Loaded) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert colour.translate(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).shape == (1, 3, 32, 32)


def test_what_a_picture_shows_is_what_explain_says(colour: Loaded) -> None:
    values = picture(2, 0, (32, 40), 3)
    fake, cam = colour.translate(values, explain=True)
    assert isinstance(cam, PictureCam)
    assert (fake == cam.picture_fake).all()
    assert (values == cam.picture).all()
    x = torch.from_numpy(values).permute(2, 0, 1)[None] / 255 * 2 - 1
    with torch.no_grad():
        seen = colour.explain(x, colour.nets["G"](x))
    assert cam.class_id == int(seen.classes[0])
    assert cam.class_name == NAMES[cam.class_id]
    assert cam.probability == pytest.approx(float(seen.probabilities[0, cam.class_id]), abs=1e-5)
    assert cam.probability_fake == pytest.approx(float(seen.probabilities_fake[0, cam.class_id]), abs=1e-5)
    assert np.allclose(cam.raw_fake, seen.cam_fake[0].numpy(), atol=1e-5)
    assert cam.heat.shape == (32, 40)
    assert (cam.heat.min(), cam.heat.max()) == (0, 1)
    first, second = cam.overlays(0.0)
    assert (first == values).all()
    assert (second == fake).all()
    assert not (cam.overlays(0.5)[0] == values).all()


def test_weights_without_a_run_take_the_picture_s_own_window(colour: Loaded) -> None:
    reader = colour.pictures
    assert reader is not None
    bare = replace(reader, source=None, target=None)
    ramp = np.tile(np.linspace(500, 900, 40).astype(np.uint16), (32, 1))
    image, fmt = bare.read(ramp)
    assert (float(image.min()), float(image.max())) == (0, 1)
    assert bare.target_of(fmt).depth == "uint16"
    plain, fmt = bare.read(picture(0, 0, (32, 32), 3))
    assert fmt == BYTES
    assert float(plain[0, 0, 0]) == picture(0, 0, (32, 32), 3)[0, 0, 0] / np.float32(255)
    _, fmt = replace(bare, window="500,900").read(ramp)
    assert fmt.window == Window(500, 900)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), "the array: its shape (4, 4, 5) is not"),
        (np.full((8, 8), np.nan), "the array: 64 of its 64 values are NaN"),
        (np.array([["a"]]), "the array: it is not one array of real numbers"),
        (np.zeros((8, 8), np.uint16), "the array is uint16 but its domain was set up as uint8"),
        (np.zeros((8, 8), np.int32), "the array is int32 but its domain was set up as uint8; where it holds counts of"),
        (
            torch.zeros(1, 8, 8),
            "a tensor of shape (1, 8, 8) has 1 channel, but the run takes (C, H, W) with 3 channels",
        ),
        (torch.zeros(2, 1, 8, 8), "shape (2, 1, 8, 8) has 1 channel, but the run takes (N, C, H, W) with 3 channels"),
        (torch.zeros(8, 8), "a tensor of shape (8, 8) has 2 axes, but the run takes (C, H, W) with 3 channels"),
        ("absent.png", "'absent.png' cannot be read as an image: it does not exist"),
        (3.5, "float: is no picture; give a path, a PIL image, a NumPy array or a tensor"),
    ],
)
def test_what_is_no_picture_is_named(colour: Loaded, bad: object, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        colour.translate(bad)  # type: ignore[call-overload]
    assert message in str(caught.value)


def test_a_class_that_there_is_not_and_a_model_without_a_run(colour: Loaded, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the head has the classes 0 to 3"):
        colour.translate(picture(0, 0, (32, 32), 3), explain=True, class_id=4)
    reader, colour.pictures = colour.pictures, None
    try:
        with pytest.raises(OptionError, match="bring a run back by load_run"):
            colour.translate(picture(0, 0, (32, 32), 3))
    finally:
        colour.pictures = reader


def test_channels_are_named_where_the_run_is_grey(deep: Loaded) -> None:
    with pytest.raises(ImageError, match=r"has 3 channels, but the run takes \(N, C, H, W\) with 1 channel; give"):
        deep.translate(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ImageError, match=r"the array is int32 .* as uint16; .*astype\(np\.uint16\)"):
        deep.translate(np.zeros((32, 32), np.int32))


def test_an_epoch_may_be_a_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *CUTCAM)
    for file in list(run.glob("latest_net_*.pth")):
        shutil.copy(file, file.with_name(file.name.replace("latest", "5")))
    values = picture(0, 0, (32, 40), 3)
    numbered = load_run(run, epoch=5).translate(values)
    assert (numbered == load_run(run, epoch="5").translate(values)).all()
    assert (numbered == load_run(run).translate(values)).all()
    with pytest.raises(CheckpointError, match=r"--epoch 6: .* does not exist; there are: 5, latest"):
        load_run(run, epoch=6)
