"""Panels of fixed inputs: one file an epoch, a row an input, drawn by the model that is handed in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from util.visual.grid import panel
from util.visual.panel import PanelWriter
from util.visual.pictures import to_uint8


def draw(image: Tensor) -> dict[str, list[np.ndarray]]:
    """Stands for a model's `panel`: the input, and its negative."""
    return {"input": [to_uint8(image[0])], "negative": [to_uint8(-image[0])]}


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1]


def test_a_panel_shows_every_input_with_every_kind_of_picture(tmp_path: Path) -> None:
    inputs = [torch.full((1, 3, 20, 24), value) for value in (-1.0, 0.5)]
    path = PanelWriter(tmp_path / "panels", inputs, ["a.png", "b.png"]).write(5, draw)
    assert path == tmp_path / "panels" / "epoch_005.png"
    columns = [draw(image) for image in inputs]
    rows = [[column["input"][0], column["negative"][0]] for column in columns]
    np.testing.assert_array_equal(read(path), panel(rows, ["input", "negative"], ["a.png", "b.png"]))
    assert [file.name for file in path.parent.iterdir()] == ["epoch_005.png"]


def test_inputs_may_differ_in_size_and_be_grey(tmp_path: Path) -> None:
    inputs = [torch.zeros(1, 1, 20, 24), torch.zeros(1, 1, 40, 12)]
    shown = read(PanelWriter(tmp_path, inputs, ["wide", "high"]).write(1, draw))
    assert shown.shape[0] > 60
    assert (shown == 128).all(axis=2).sum() >= 2 * (20 * 24 + 40 * 12)  # mid grey, four pictures


def test_the_same_epoch_is_written_over_and_another_beside_it(tmp_path: Path) -> None:
    writer = PanelWriter(tmp_path, [torch.zeros(1, 3, 8, 8)], ["x"])
    first = writer.write(1, draw).read_bytes()
    assert writer.write(1, lambda image: draw(image + 1)).read_bytes() != first
    writer.write(1000, draw)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_001.png", "epoch_1000.png"]


def test_pictures_of_tensors_by_hand() -> None:
    picture = to_uint8(torch.tensor([[[-1.0, 0.0, 1.0, 7.0, -9.0]]]))
    assert picture.tolist() == [[[0] * 3, [128] * 3, [255] * 3, [255] * 3, [0] * 3]]
    assert picture.dtype == np.uint8
    colour = torch.tensor([1.0, -1.0, 0.2])[:, None, None]
    assert to_uint8(colour).tolist() == [[[255, 0, 153]]]  # 1.2 x 127.5
