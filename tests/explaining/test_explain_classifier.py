"""cam_infer.py on a classifier: the files, what they hold, and the defects of published projects that are not here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import load_run
from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import explain as maps_of
from models.cam.scorecam_explainer import ScoreCam
from models.cam.targets import ClassTarget
from models.classifier_model import ClassifierModel
from options.groups import COLORMAPS, Explanation, Inference
from options.parse import inference_options
from scripts.explaining import drawing, inputs
from scripts.explaining.maps import MapMaker, View
from scripts.explaining.settings import explainers, settings_of
from tests.conftest import CLASSES
from tests.explaining.conftest import Command
from util.visual import overlay
from util.visual.cam_figures import Cell

FLAT = " (flat: says nothing)"  # maps of a barely trained network may be


def rgb(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.ascontiguousarray(image[:, :, ::-1])


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def seen_by_network(path: Path) -> Tensor:
    """The whole image as the run's network takes it, by other means than the project's."""
    whole = torch.from_numpy(rgb(path).astype(np.float32) / 255).permute(2, 0, 1)[None]
    return F.interpolate(whole, (32, 32), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1) * 2 - 1


def network(home: Path) -> ClassifierModel:
    model = load_run(home / "checkpoints/clf")
    assert isinstance(model, ClassifierModel)
    model.train(False)
    return model


def test_every_file_is_there_and_holds_what_the_manifest_says(home: Path, explain: Command, tmp_path: Path) -> None:
    methods = "gradcam++,guided_gradcam,counterfactual"
    outcome = explain("clf", "--index", 6, "--cam_method", methods, "--top_k", 2, "--layers", "trunk.?,-1")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "clf/latest"
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    expected = {"06_methods.png", "manifest.json", "index.html"}
    for slug in ("gradcam_pp", "guided_gradcam", "counterfactual"):
        expected |= {f"06_{slug}_topk.png", f"06_{slug}_layers.png"}
        expected |= {f"06_{slug}_{kind}" for kind in ("raw.npy", "heat.png", "overlay.png", "panel.png")}
        expected |= {f"06_{slug}_{kind}" for kind in ("raw_2.npy", "heat_2.png", "overlay_2.png", "panel_2.png")}
    assert names == expected

    content = manifest(folder)
    (image,) = content["images"]
    (view,) = image["views"]
    probabilities = network(home).classify(seen_by_network(home / "data/testA/06.png"))[0]
    order = probabilities.argsort(descending=True).tolist()
    assert (image["file"], image["index"], image["label"], image["label_name"]) == ("data/testA/06.png", 6, 2, "bars")
    assert (image["size"], content["normalisation"], content["epoch"]) == ([40, 44], "minmax", "latest")
    assert (view["predicted"], view["predicted_name"]) == (order[0], CLASSES[order[0]])
    assert view["probability"] == pytest.approx(float(probabilities[order[0]]), abs=1e-5)
    assert view["layers"] == [*(f"trunk.{n}" for n in range(6)), "trunk"]
    assert [(entry["method"], entry["target"]) for entry in view["maps"]] == [
        (method, target) for method in methods.split(",") for target in order[:2]
    ]
    for entry in view["maps"]:
        assert entry["probability"] == pytest.approx(float(probabilities[entry["target"]]), abs=1e-5)
        for kind in ("raw", "heat", "overlay", "panel"):
            assert entry[kind] in names
    page = (folder / "index.html").read_text()
    assert page.count("<img") == 1 + 3 * (2 + 1 + 1), "figures are shown, the pictures they are made of are not"


def test_each_map_belongs_to_its_class_and_is_drawn_as_said(home: Path, explain: Command, tmp_path: Path) -> None:
    """A published notebook showed map i under class i + 1 (its top-k counted from 1 in one place)."""
    flags = ("--phase", "train", "--image", "data/trainA/03.png", "--cam_method", "gradcam", "--top_k", 3)
    assert explain("clf", *flags, "--colormap", "rainbow", "--overlay_strength", 0.3).status == 0
    folder = tmp_path / "clf/latest"
    (view,) = manifest(folder)["images"][0]["views"]
    assert view["maps"][0]["target"] == view["predicted"]
    assert len({entry["target"] for entry in view["maps"]}) == 3
    net, batch, picture = network(home).classifier, seen_by_network(home / "data/trainA/03.png"), None
    raws = []
    for entry in view["maps"]:
        alone = maps_of(net, batch, "gradcam", targets=entry["target"])["gradcam"]
        raw = np.load(folder / entry["raw"])
        np.testing.assert_allclose(raw, alone.raw[0, 0].numpy(), rtol=1e-4, atol=1e-7)
        raws.append(raw)
        assert entry["score"] == pytest.approx(float(alone.scores[0, 0]), abs=1e-4)
        grown = cv2.resize(cv2.resize(np.maximum(raw, 0), (32, 32)), (44, 40))
        spread = grown.max() - grown.min()
        heat = (grown - grown.min()) / spread if spread > 0 else np.zeros_like(grown)
        drawn = rgb(folder / entry["heat"]).astype(int)
        assert np.abs(drawn - overlay.colormap(heat, "rainbow")).mean() < 2
        picture = rgb(home / "data/trainA/03.png").astype(float)
        mixed = 0.7 * picture + 0.3 * drawn
        assert np.abs(rgb(folder / entry["overlay"]) - mixed).max() < 6
    assert not np.allclose(raws[0], raws[1])


class Collected:
    """Stands in for the drawing of figures and keeps their cells."""

    def __init__(self) -> None:
        self.figures: list[Sequence[Cell]] = []

    def __call__(self, cells: Sequence[Cell], columns: int = 0) -> np.ndarray:
        self.figures.append(list(cells))
        return np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("name", ["log_probability", "probability"])
def test_a_score_is_called_what_it_is(explain: Command, tmp_path: Path, name: str) -> None:
    assert explain("clf", "--index", 1, "--cam_method", "gradcam", "--score", name, "--maps_only").status == 0
    content = manifest(tmp_path / "clf/latest")
    entry = content["images"][0]["views"][0]["maps"][0]
    assert content["score"] == "log_probability"
    assert entry["score"] == pytest.approx(math.log(entry["probability"]), abs=1e-5)


def test_layers_are_fused_into_one_map(home: Path, explain: Command, tmp_path: Path) -> None:
    flags = ("--index", 1, "--cam_method", "layercam,fullgrad", "--class_idx", 2, "--layers", "trunk.1,trunk.4")
    assert explain("clf", *flags, "--fuse", "max").status == 0
    folder = tmp_path / "clf/latest"
    entries = manifest(folder)["images"][0]["views"][0]["maps"]
    assert [entry["layer"] for entry in entries] == ["trunk.1+trunk.4", None]
    images = seen_by_network(home / "data/testA/01.png")
    net = network(home).classifier
    parts = [
        maps_of(net, images, "layercam", targets=[2], layer=layer, normalize="none")["layercam"].maps
        for layer in ("trunk.1", "trunk.4")
    ]
    expected = torch.maximum(*(torch.tanh(2 * part / part.max()) for part in parts))
    torch.testing.assert_close(torch.from_numpy(np.load(folder / entries[0]["raw"])), expected[0, 0], atol=1e-4, rtol=0)
    assert (folder / "01_layercam_layers.png").is_file()


def test_settings_of_methods_are_heeded_and_written_down(home: Path, explain: Command, tmp_path: Path) -> None:
    flags = ("--index", 1, "--cam_method", "scorecam,guided_gradcam", "--class_idx", 2, "--layer", "trunk.4")
    words = "scorecam.channels=3,scorecam.scale_first=yes,guided_gradcam.allow_other_activations=true"
    assert explain("clf", *flags, "--method_settings", words).status == 0
    folder = tmp_path / "clf/latest"
    content = manifest(folder)
    assert content["method_settings"] == words.split(",")
    raw = np.load(folder / content["images"][0]["views"][0]["maps"][0]["raw"])
    images, net = seen_by_network(home / "data/testA/01.png"), network(home).classifier
    methods = {"few": ScoreCam(channels=3, scale_first=True), "all": ScoreCam()}
    expected = maps_of(net, images, methods, targets=[2], layer="trunk.4", normalize="none")
    torch.testing.assert_close(torch.from_numpy(raw), expected["few"].raw[0, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(torch.from_numpy(raw), expected["all"].raw[0, 0], atol=1e-3)


@pytest.mark.parametrize("name", EXPLAINERS.names())
def test_every_setting_of_a_method_can_be_given_as_text(name: str) -> None:
    kinds = settings_of(name)
    defaults = vars(EXPLAINERS.get(name)())
    words = [f"{name}.{setting}={defaults[setting]}" for setting in kinds]
    assert vars(explainers([name], words)[name]) == defaults


def test_methods_that_need_no_layer_explain_a_network_without_maps() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 4))
    view, target = View(torch.rand(1, 3, 8, 8), (8, 8), (8, 8)), ClassTarget([[1]])
    found = MapMaker(net, Explanation(explain_with=("guided_backprop", "fullgrad")), "auto").maps(view, target)
    assert [one.heat.shape for maps in found.values() for one in maps] == [(8, 8)] * 2
    every = MapMaker(net, Explanation(explain_with=("all",)), "auto")
    assert {"guided_backprop", "fullgrad"} <= set(every.maps(view, target))
    assert "no layer with maps" in every.left_out["gradcam"]
    for look in (Explanation(), Explanation(explain_with=("guided_backprop",), layer="nosuch")):
        with pytest.raises(ExplainError, match="no layer"):
            MapMaker(net, look, "auto").maps(view, target)


def test_figures_name_true_predicted_and_explained_class(
    home: Path, explain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defects elsewhere: the explained class reported as the predicted one, no true class, a title on another panel."""
    collected = Collected()
    monkeypatch.setattr(drawing, "gallery", collected)
    probabilities = network(home).classify(seen_by_network(home / "data/testA/01.png"))[0]
    best, other = int(probabilities.argmax()), int(probabilities.argmin())
    outcome = explain(
        "clf", "--index", 1, "--class_idx", other, "--cam_method", "gradcam,counterfactual,guided_gradcam"
    )
    assert outcome.status == 0, outcome.err

    def share(c: int) -> str:
        return f"{CLASSES[c]}, {100 * float(probabilities[c]):.1f} %"

    assert f"predicted {CLASSES[best]} ({best})" in outcome.out
    assert "actual class frame (1)" in outcome.out
    assert f"explained {CLASSES[other]} ({other})" in outcome.out
    titles = [[cell.title.replace(FLAT, "") for cell in cells] for cells in collected.figures]
    assert titles[1:] == [
        ["Input\ntrue: frame", f"Grad-CAM\nexplained: {share(other)}", f"Overlay\npredicted: {share(best)}"],
        [
            "Input\ntrue: frame",
            f"Speaks for {share(other)}",
            f"Speaks against {share(other)}\npredicted: {share(best)}",
        ],
        [
            "Input\ntrue: frame",
            f"Grad-CAM\nexplained: {share(other)}",
            f"Guided backprop\npredicted: {share(best)}",
            "Guided Grad-CAM",
        ],
    ]
    own = rgb(home / "data/testA/01.png")
    assert all(np.array_equal(cells[0].picture, own) for cells in collected.figures), "the input is under its title"


def test_flags_that_maps_do_not_heed_are_named(explain: Command) -> None:
    told = explain("clf", "--index", 1, "--cam_method", "gradcam", "--batch_size", 4, "--amp", "bf16")
    words = "not used, maps are made image by image in full precision"
    assert (told.status, told.err) == (0, f"--amp: {words}\n--batch_size: {words}\n")
    assert "not used" not in explain("clf", "--index", 1, "--cam_method", "gradcam").err


def chosen(home: Path, *flags: object) -> inputs.Inputs:
    words = ["--name", "clf", "--gpu_ids", "-1", *map(str, flags)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        found = inputs.choose_inputs(inference_options((Inference, Explanation), words), 1)
        list(found)  # reads the files where the names are relative to
        return found


def test_inputs_are_chosen_by_priority_and_random_ones_by_the_seed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = ("--image", "data/testA/02.png", "--random", 3, "--index", 1)
    assert [file.name for file in chosen(home, *image).domain.files] == ["02.png"]
    assert capsys.readouterr().err == "--random and --index: not used, --image chooses the images\n"
    by_random = chosen(home, *image[2:]).chosen
    assert len(set(by_random)) == 3
    assert by_random == chosen(home, *image[2:4]).chosen
    assert by_random != chosen(home, *image[2:4], "--seed", 1).chosen
    capsys.readouterr()
    assert sorted(chosen(home, "--random", 500).chosen) == list(range(10))
    assert capsys.readouterr().err == "--random 500: --phase test has 10 images; all are taken\n"
    assert chosen(home, *image[4:]).chosen == [1]
    assert list(chosen(home, "--num_test", 4).chosen) == [0, 1, 2, 3]
    assert len(chosen(home, "--split", "train")) == 10
    assert len(chosen(home, "--split", "val")) > 0, "what training has held out"
    assert [f.name for f in chosen(home, "--image", "data/test?/0[13].png").domain.files] == ["01.png", "03.png"]
    assert len(chosen(home, "--image", "data/trainB")) == 4


@pytest.mark.parametrize("phase", ["train", "test"])
def test_an_image_is_seen_whole_and_never_by_a_random_crop(home: Path, phase: str) -> None:
    """A published project explained the middle of an image only, and random crops of training images."""
    found = chosen(home, "--phase", phase)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        first, again = list(found), list(found)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.sample, two.sample)
        torch.testing.assert_close(one.sample, seen_by_network(home / one.path)[0], rtol=0, atol=1e-5)
        assert one.size == (40, 44)
        assert CLASSES[one.label] == CLASSES[int(one.file.stem) % 4]


def test_given_files_have_their_true_class_where_it_is_known(home: Path, tmp_path: Path) -> None:
    assert chosen(home, "--image", "data/testA/05.png").domain.labels == [1]
    for folder in ("bars", "nothing"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes((home / "data/testA/05.png").read_bytes())
    found = chosen(home, "--image", tmp_path)
    assert found.domain.labels == [2, -1]
    assert [one.file.as_posix() for one in found] == ["bars/x.png", "nothing/x.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--class_idx 77", "--class_idx 77: the network has the classes 0 to 3"),
        ("--index 500", "--index 500: --phase test has 10 images, 0 to 9"),
        ("--image nowhere.png", "--image nowhere.png: no such file or folder"),
        ("--image no*thing", "--image no*thing: no image fits this pattern"),
        ("--image data/labels.csv", "--image data/labels.csv: "),
        ("--top_k 9", "--top_k 9: the network has 4 classes"),
        ("--class_idx 1 --top_k 2", "--class_idx 1 --top_k 2: use one of them"),
        ("--cam_method gradcan", "gradcan: unknown (did you mean 'gradcam'?)"),
        ("--method_settings gradcam++.eps=1", "gradcam++ is not asked for (gradcam); add it to --cam_method"),
        ("--cam_method scorecam --method_settings channels=4", "write METHOD.SETTING=VALUE, for example scorecam."),
        (
            "--cam_method scorecam --method_settings scorecam.chanels=4",
            "setting; scorecam has channels, scale_first",
        ),
        ("--cam_method cam --method_settings cam.eps=1", "cam has no settings"),
        ("--cam_method scorecam --method_settings scorecam.channels=few", "expected a whole number"),
        (
            "--cam_method scorecam --method_settings scorecam.channels=0",
            "--method_settings: channels of Score-CAM is 0",
        ),
        ("--cam_method sscam --method_settings sskam.std=1", "sskam: unknown (did you mean 'sscam'?)"),
        ("--layer nothing", "no layer 'nothing'"),
        ("--layer trunk.?", "--layer trunk.?: means 6 layers"),
        ("--fuse max", "--fuse max: makes one map of those of several layers"),
        ("--explain head", "--explain head: belongs to translation runs"),
        ("--patches 1,1,2,2", "--patches: belongs to"),
        ("--grid", "--grid: "),
        ("--phase nosuch", "has no folder nosuch"),
    ],
)
def test_a_mistake_is_one_line(explain: Command, tmp_path: Path, flags: str, message: str) -> None:
    outcome = explain("clf", *flags.split(), *(() if "--index" in flags else ("--num_test", 1)))
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))


def test_all_methods_are_those_that_apply(explain: Command, tmp_path: Path) -> None:
    outcome = explain("clf", "--index", 0, "--cam_method", "all", "--layer", "trunk.1")
    assert outcome.status == 0, outcome.err
    assert "cam does not apply: cam needs a mean over positions" in outcome.out
    entries = manifest(tmp_path / "clf/latest")["images"][0]["views"][0]["maps"]
    assert {"gradcam", "scorecam", "fullgrad", "guided_backprop"} <= {entry["method"] for entry in entries}
    assert "cam" not in {entry["method"] for entry in entries}
    assert {entry["layer"] for entry in entries} <= {"trunk.1", None}


def test_a_flat_map_is_marked_and_epochs_have_folders_of_their_own(
    home: Path, explain: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    white = np.full((20, 30, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "flat.png"), white)
    model = network(home)
    blank = {key: torch.zeros_like(value) for key, value in model.classifier.state_dict().items()}
    weights = home / "checkpoints/clf/7_net_C.pth"
    torch.save(blank, weights)
    try:
        outcome = explain("clf", "--epochs", "7,latest", "--image", tmp_path / "flat.png")
    finally:
        weights.unlink()
    assert outcome.status == 0, outcome.err
    (view,) = manifest(tmp_path / "clf/7")["images"][0]["views"]
    assert view["maps"][0]["flat"] is True
    assert (tmp_path / "clf/latest/flat_gradcam_panel.png").is_file()
    heat = rgb(tmp_path / "clf/7" / view["maps"][0]["heat"])
    assert (heat == overlay.colormap(np.zeros((20, 30)))).all()


def test_every_colour_map_of_the_flag_exists() -> None:
    assert set(COLORMAPS) == {*overlay.COLORMAPS, "gray"}


def test_nothing_opens_a_window() -> None:
    """A published project waited in `plt.show()` and never closed a figure."""
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "scripts/explaining").glob("*.py"), root / "scripts/cam.py", root / "util/visual/cam_figures.py"]
    assert len(files) > 6
    assert not [file for file in files if "pyplot" in file.read_text()]
