"""`scripts/evaluate.py --maps`: localisation scores of saved maps, against numbers by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data.base import DataError
from options.groups import Explanation
from options.schema import OptionError
from scripts import evaluate
from scripts.explaining.maps import choose_classes, ranking_of
from util.strict_json import JsonError

SIDE = 32
BOX = (4, 6, 20, 24)  # x0, y0, x1, y1; outside
AWAY = (22, 2, 31, 12)

Corners = tuple[int, int, int, int]


def filled(box: Corners, value: float = 1.0) -> np.ndarray:
    """(SIDE, SIDE): a value inside a box, 0 elsewhere."""
    x0, y0, x1, y1 = box
    one = np.zeros((SIDE, SIDE), np.float32)
    one[y0:y1, x0:x1] = value
    return one


class Place:
    """A data root of one box for each image, and a folder of maps with its manifest."""

    def __init__(self, root: Path, count: int) -> None:
        self.data, self.maps = root / "data", root / "maps"
        (self.data / "testA").mkdir(parents=True)
        self.maps.mkdir()
        self.names = [f"testA/{number}.png" for number in range(count)]
        for name in self.names:
            cv2.imwrite(str(self.data / name), np.full((SIDE, SIDE), 90, np.uint8))
        rows = [",".join(map(str, (name, *BOX))) for name in self.names]
        (self.data / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *rows]) + "\n")
        self.images: list[dict[str, Any]] = []

    def masks(self, box: Corners = BOX) -> None:
        (self.data / "masks_test").mkdir()
        for name in self.names:
            cv2.imwrite(str(self.data / "masks_test" / Path(name).name), (255 * filled(box)).astype(np.uint8))

    def add(self, label: int | None, ranking: list[int], maps: dict[int | None, np.ndarray], **more: Any) -> None:
        """The next image: its class, those the network sees, and a map by the class it explains."""
        number, entries = len(self.images), []
        for target, one in maps.items():
            np.save(self.maps / f"{number}_{target}.npy", one)
            entries.append({"method": "cam", "layer": None, "target": target, "raw": f"{number}_{target}.npy", **more})
        view = {"side": None, "predicted": ranking[0] if ranking else None, "ranking": ranking, "maps": entries}
        self.images.append({"file": str(self.data / self.names[number]), "label": label, "views": [view]})

    def measured(self, monkeypatch: pytest.MonkeyPatch, *flags: object, form: str = "json") -> dict[str, Any]:
        """What the command finds of `cam`, by name of the score."""
        (self.maps / "manifest.json").write_text(json.dumps({"images": self.images}))
        target = self.maps.parent / "found"
        words = ["--maps", self.maps, "--dataroot", self.data, "--format", form, "--output", target, *flags]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        assert evaluate.main() == 0
        if form != "json":
            return {"text": target.read_text()}
        found = json.loads(target.read_text())["localisation"]["cam"]
        return {name: score["value"] for name, score in found.items()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, 4)


def test_true_and_predicted_class_have_each_its_maps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = filled(BOX), filled(AWAY)
    place.add(0, [0, 1, 2, 3, 4], {0: right})  # named and found rightly
    place.add(0, [1, 0, 2, 3, 4], {0: right, 1: wrong})  # the predicted class lies elsewhere
    place.add(0, [0, 1, 2, 3, 4], {0: wrong})
    place.add(0, [9, 5, 6, 7, 8], {0: right, 9: right})  # its class is not among five
    found = place.measured(monkeypatch)
    assert (found["MaxBoxAcc"], found["MaxBoxAccV2"]) == (75, 75)
    assert (found["top1_cls"], found["top5_cls"]) == (50, 75)
    assert (found["top1_loc"], found["top5_loc"]) == (25, 50)
    assert (found["MaxBoxAcc_predicted"], found["MaxBoxAccV2_predicted"]) == (50, 50)
    assert "PxAP" not in found


def test_a_run_that_explains_its_own_choice_says_nothing_of_the_true_class(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, box in zip((0, 0, 1, 1), (BOX, AWAY, BOX, AWAY), strict=True):
        place.add(label, [0, 1], {0: filled(box)})
    found = place.measured(monkeypatch)
    assert found["MaxBoxAcc_predicted"] == 50
    assert not {"MaxBoxAcc", "top1_loc"} & set(found)
    said = place.measured(monkeypatch, form="markdown")["text"]
    assert "cam: 2 images have no map of their own class" in said
    assert "maps of the true class (%)" not in said


def test_masks_are_scored_by_pixels(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perfect maps rank every pixel of the mask before any other; maps beside it none."""
    place.masks()
    for box in (BOX, BOX, BOX, AWAY):
        place.add(None, [], {None: filled(box)})
    found = place.measured(monkeypatch, "--side", 0)
    inside, beside = 16 * 18, 9 * 10
    precision = 3 * inside / (3 * inside + beside)
    recall = 3 / 4
    share = 4 * inside / (4 * SIDE * SIDE)  # where all pixels count
    assert found["PxAP"] == pytest.approx(100 * (precision * recall + share * (1 - recall)))
    assert found["IoU_fixed"] == pytest.approx(100 * 3 * inside / (4 * inside + beside))
    assert found["MaxBoxAcc"] == 75
    assert not any(name.startswith("top") for name in found)


def test_the_fixed_threshold_is_the_commands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of 1 in a corner of the box and 0.4 in the rest: below 0.4 its box is the true one."""
    for _ in range(4):
        place.add(0, [0, 1], {0: np.maximum(filled(BOX, 0.4), filled((4, 6, 8, 10)))})
    at_half = place.measured(monkeypatch, "--side", 0)
    at_third = place.measured(monkeypatch, "--side", 0, "--fixed", 0.3)
    assert (at_half["MaxBoxAcc"], at_half["BoxAcc_fixed"], at_half["BoxAccV2_fixed"]) == (100, 0, 0)
    assert (at_third["MaxBoxAcc"], at_third["BoxAcc_fixed"], at_third["BoxAccV2_fixed"]) == (100, 100, 100)


@pytest.mark.parametrize(("entry", "flags"), [({"unit": True}, ()), ({}, ("--unstretched",))])
def test_probabilities_are_not_stretched(
    place: Place, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], flags: tuple[str, ...]
) -> None:
    """A faint map of the whole box lies below the fixed threshold of pixels as it is, and is 1 when it is stretched."""
    place.masks()
    for _ in range(4):
        place.add(None, [], {None: filled(BOX, 0.2)}, **entry)
    assert place.measured(monkeypatch, *flags)["IoU_fixed"] == 0
    assert place.measured(monkeypatch, "--fixed", 0.1, "--side", 0, *flags)["IoU_fixed"] == 100


def test_truth_of_split_files(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corners of split files lie inside, and sizes may be those of larger images than the files."""
    (place.data / "boxes.csv").unlink()
    folder = place.data / "splits" / "test"
    folder.mkdir(parents=True)
    x0, y0, x1, y1 = BOX
    (folder / "image_ids.txt").write_text("\n".join(place.names) + "\n")
    (folder / "image_sizes.txt").write_text("".join(f"{name},64,64\n" for name in place.names))
    corners = f"{2 * x0},{2 * y0},{2 * x1 - 1},{2 * y1 - 1}"
    (folder / "localization.txt").write_text("".join(f"{name},{corners}\n" for name in place.names))
    for box in (BOX, BOX, BOX, AWAY):
        place.add(0, [0, 1], {0: filled(box)})
    assert place.measured(monkeypatch, "--side", 0)["MaxBoxAcc_IoU70"] == 75
    with pytest.raises(DataError, match=r"--wsol_splits .*nowhere: holds no split test with image_ids.txt"):
        place.measured(monkeypatch, "--wsol_splits", place.data / "nowhere")


def test_a_damaged_ranking_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add(0, [0, 1], {0: filled(BOX)})
    place.images[0]["views"][0]["ranking"] = ["first"]
    with pytest.raises(JsonError, match=r"image 0: ranking should be a list of classes"):
        place.measured(monkeypatch)


@pytest.mark.parametrize(
    ("explained", "label", "classes"),
    [
        ("auto", 2, [1]),
        ("label", 2, [2]),
        ("label", -1, [1]),
        ("predicted", 2, [1]),
        ("both", 2, [2, 1]),
        ("both", 1, [1]),
        ("both", -1, [1]),
    ],
)
def test_which_classes_a_classifier_explains(explained: str, label: int, classes: list[int]) -> None:
    look = Explanation(explained=explained)
    assert choose_classes(look, torch.tensor([0.2, 0.5, 0.3]), label, usual="predicted") == classes


def test_a_class_is_asked_for_in_one_way() -> None:
    for look in (Explanation(explained="both", class_idx=1), Explanation(explained="both", top_k=2)):
        with pytest.raises(OptionError, match="--explained both: leave it out, or --class_idx and --top_k"):
            choose_classes(look, torch.tensor([0.2, 0.5, 0.3]))
    assert ranking_of(torch.tensor([0.1, 0.3, 0.05, 0.2, 0.15, 0.2])) in {(1, 3, 5, 4, 0), (1, 5, 3, 4, 0)}
