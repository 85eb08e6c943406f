"""`scripts/explainers_table.py` and `scripts/evaluate.py --maps` in miniature, against numbers by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from data.base import DataError
from models.cam.base import EXPLAINERS
from models.cam.errors import ExplainError
from models.cam.explain import explain
from models.cam.functional import resize_map
from models.judge import TrainedJudge, load_judge
from scripts import evaluate, explainers_table
from scripts.faithfulness import makers
from scripts.faithfulness.cases import Case
from scripts.faithfulness.makers import GradCamLibrary, makers_of
from scripts.faithfulness.measures import COLUMNS
from scripts.faithfulness.options import Tabulation
from scripts.faithfulness.report import Method, report
from scripts.faithfulness.saved import find_maps
from scripts.faithfulness.table import measure
from tests.cam.tiny_networks import TinyNet, filled, pictures
from tests.commands import run
from tests.conftest import TINY, make_data
from util.errors import UserError
from util.registry import UnknownNameError
from util.strict_json import JsonError

SMALL = ["--gpu_ids", "-1", "--quiet"]
SHORT = "--n_epochs 1 --n_epochs_decay 0 --max_iters 2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` with testA, boxes and labels; the runs `judge` (classifier), `head` (cutcam) and `plain` (cut)."""
    place = tmp_path_factory.mktemp("home")
    data = make_data(place / "data", channels=1)
    (data / "testA").mkdir()
    for file in sorted((data / "trainA").iterdir()):
        (data / "testA" / file.name).write_bytes(file.read_bytes())
    rows = (data / "labels.csv").read_text()
    tests = [row.replace("trainA", "testA") for row in rows.splitlines() if "trainA" in row]
    (data / "labels.csv").write_text(rows + "\n".join(tests) + "\n")
    boxes = ["testA/00.png,4,4,20,20", "testA/01.png,10,12,30,30", "testA/01.png,31,0,40,9", "testA/02.png,0,0,9,9"]
    (data / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *boxes]) + "\n")
    models = {
        "judge": "classifier --input_nc 1 --batch_size 4 --domain A --load_size 72 --crop_size 64",
        "head": "cutcam --num_classes 4 --input_nc 1 --output_nc 1 --netF_nc 16 --num_patches 16",
        "plain": "cut --input_nc 1 --output_nc 1 --netF_nc 16 --num_patches 16",
    }
    for name, model in models.items():
        flags = f"--dataroot data --name {name} {' '.join(TINY)} --model {model} {SHORT}"
        outcome = run("train", flags, place)
        assert outcome.status == 0, outcome.err
    return place


Table = Callable[..., dict[str, Any]]


@pytest.fixture
def table(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """`table(run, *flags)` -> the JSON of explainers_table.py."""

    def go(name: str, *flags: object) -> dict[str, Any]:
        target = tmp_path / "new" / "table.json"
        words = ["--dataroot", "data", "--name", name, "--format", "json", "--output", target, *SMALL, *flags]
        monkeypatch.setattr(sys, "argv", ["explainers_table.py", *map(str, words)])
        monkeypatch.chdir(home)
        assert explainers_table.main() == 0
        content: dict[str, Any] = json.loads(target.read_text())
        return content

    return go


def by_name(content: Mapping[str, Any]) -> dict[str, Any]:
    return {method["name"]: method for method in content["methods"]}


# --- the table of a classifier


@pytest.fixture(scope="module")
def judge(home: Path) -> TrainedJudge:
    return load_judge(home / "checkpoints" / "judge")


def test_a_classifier_by_several_methods(table: Table, judge: TrainedJudge, home: Path) -> None:
    content = table("judge", "--methods", "cam,eigencam", "--sanity_images", 2, "--at_once", 3)
    assert len(content["files"]) == 5
    methods = by_name(content)
    assert list(methods) == ["cam", "eigencam", "(random map)", "(centre)"]
    assert all(method["mean"].keys() == set(COLUMNS) for method in methods.values())
    own = methods["cam"]
    assert [value is None for value in own["per_image"]["pointing"]] == [False, False, False, True, True]
    assert [value is None for value in own["per_image"]["sanity"]] == [False, False, True, True, True]
    assert [stage["layers"] for stage in own["sanity"]] == sorted(stage["layers"] for stage in own["sanity"])
    assert (own["sanity"][0]["from_layer"], own["sanity"][0]["layers"]) == ("classify", 1)
    assert methods["eigencam"]["sanity"][0]["rank_correlation"] == pytest.approx(1)  # it does not ask the last layer
    assert methods["(centre)"]["mean"]["sanity"] is None
    assert methods["(centre)"]["mean"]["coherency"] == pytest.approx(1)
    check_one_image(content, judge, home / "data" / "testA" / "01.png")


def check_one_image(content: dict[str, Any], judge: TrainedJudge, file: Path) -> None:
    """The second image, without any code of the table: class 1, two boxes."""
    grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    pixels = torch.from_numpy(grey)[None, None].float() / 255
    images = judge.prepare(pixels)
    net = judge.model.classifier
    found = explain(net, images, "cam", targets=[1])["cam"].maps[:, 0]
    with torch.no_grad():
        before, after = (net(x).softmax(1)[0, 1] for x in (images, (images + 1) / 2 * found[:, None] * 2 - 1))
    one = {name: values[1] for name, values in by_name(content)["cam"]["per_image"].items()}
    assert one["drop"] == pytest.approx(max(0.0, float((before - after) / before)), abs=1e-5)
    assert one["complexity"] == pytest.approx(float(found.mean()), abs=1e-5)
    again = explain(net, (images + 1) * found[:, None] - 1, "cam", targets=[1])["cam"].maps[:, 0]
    r = float(np.corrcoef(found.flatten(), again.flatten())[0, 1])
    assert one["coherency"] == pytest.approx((1 + r) / 2, abs=1e-4)
    heat = resize_map(found, (40, 44))[0]
    inside = torch.zeros(40, 44)
    inside[12:30, 10:30] = inside[:9, 31:40] = 1
    assert heat.max() > 0
    assert one["energy"] == pytest.approx(float((heat * inside).sum() / heat.sum()), abs=1e-5)
    assert one["pointing"] == float(inside[heat == heat.max()].mean())


def test_the_same_numbers_whatever_is_explained_at_once(table: Table) -> None:
    flags = ("--methods", "gradcam", "--sanity_images", 3, "--num_test", 3)
    one, other = (by_name(table("judge", *flags, "--at_once", n))["gradcam"]["per_image"] for n in (1, 3))
    for name in set(COLUMNS) - {"seconds"}:
        assert one[name] == pytest.approx(other[name], abs=2e-4), name


def test_a_method_that_does_not_apply_says_why(table: Table) -> None:
    content = table("judge", "--methods", "cam,layercam", "--layer", "trunk.3", "--num_test", 2, "--sanity_images", 0)
    methods = by_name(content)
    assert content["layer"] == "trunk.3"
    assert "linear" in methods["cam"]["failure"]
    assert methods["cam"]["mean"]["drop"] is None
    assert methods["layercam"]["mean"]["drop"] is not None
    assert any(note.startswith("cam: no maps:") for note in content["notes"])


def test_every_explainer_is_measured() -> None:
    net, images = filled(TinyNet()), pictures(2).clamp(-1, 1)
    device, files = torch.device("cpu"), [Path("a.png"), Path("b.png")]
    case = Case("tiny", net, "features.4", device, files, [-1, 3], lambda n: images[n], None)
    found = {m.name: m for m in measure(case, makers_of(["all"]), Tabulation(sanity_images=1), seed=0, quiet=True)}
    assert list(found) == [*EXPLAINERS.names(), "(random map)", "(centre)"]
    assert {name: method.failure for name, method in found.items() if method.failure} == {}
    expected = set(COLUMNS) - {"pointing", "energy", "box_iou"}
    assert all(set(method.rows[0]) == expected for method in found.values() if method.learns)
    assert all(set(method.rows[1]) == expected - {"sanity"} for method in found.values())
    assert found["gradcam"].rows[0]["adcc"] != found["eigencam"].rows[0]["adcc"]


def test_the_head_of_a_translation_run(table: Table) -> None:
    content = table("head", "--methods", "cam,gradcam", "--num_test", 2, "--sanity_images", 1)
    methods = by_name(content)
    assert content["layer"] == "hidden"
    assert not any(method["failure"] for method in methods.values())
    assert methods["cam"]["sanity"][0]["from_layer"] == "classify"
    assert 0 <= methods["cam"]["mean"]["deletion"] <= 1


def test_a_run_without_classes_is_refused(table: Table) -> None:
    with pytest.raises(UserError, match="--name plain: --model cut names no classes"):
        table("plain")


def test_an_unknown_method_is_named_before_any_work(table: Table) -> None:
    with pytest.raises(UnknownNameError, match=r"gradcan: unknown .did you mean 'gradcam'"):
        table("judge", "--methods", "gradcan")


def test_terminal_and_markdown(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    flags = ["--dataroot", "data", "--name", "judge", "--methods", "gradcam", "--num_test", "1", *SMALL]
    for form, sign in (("terminal", "\n-----"), ("markdown", "\n| method | pointing ↑ |")):
        monkeypatch.setattr(sys, "argv", ["explainers_table.py", *flags, "--sanity_images", "0", "--format", form])
        assert explainers_table.main() == 0
        printed = capsys.readouterr().out
        assert sign in printed
        assert "judge, latest: classifier at the layer trunk, 1 image" in printed


# --- who makes maps


def test_another_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match=r"--against pytorch-grad-cam: it cannot be imported .* install the package"):
        makers_of(["gradcam"], "pytorch-grad-cam")


class Library:
    """What is asked of pytorch-grad-cam: a context that is called with images and targets."""

    answer: Any = None

    def __init__(self, model: torch.nn.Module, target_layers: list[torch.nn.Module]) -> None:
        self.layers = target_layers

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, input_tensor: Tensor, targets: list[int]) -> Any:
        if self.answer is None:
            raise RuntimeError("no graph")
        return self.answer(input_tensor, targets)


def test_another_librarys_maps_are_taken_as_they_are(judge: TrainedJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(GradCAM=Library), SimpleNamespace(ClassifierOutputTarget=int)
    monkeypatch.setattr(makers, "_library", lambda: library)
    found = makers_of(["labelfree", "gradcam"], "pytorch-grad-cam")
    names = ["labelfree", "gradcam", "gradcam (pytorch-grad-cam)", "(random map)", "(centre)"]
    assert [maker.name for maker in found] == names
    theirs, net, images = found[2], judge.model.classifier, torch.rand(2, 1, 32, 32)
    assert isinstance(theirs, GradCamLibrary)
    arguments = (net, images, torch.tensor([2, 1]), "trunk")
    with pytest.raises(ExplainError, match="RuntimeError: no graph"):
        theirs.maps(*arguments)
    monkeypatch.setattr(Library, "answer", lambda _, images, targets: np.full((2, 32, 32), targets[0] / 4))
    assert torch.equal(theirs.maps(*arguments), torch.full((2, 32, 32), 0.5))
    monkeypatch.setattr(Library, "answer", lambda _, images, targets: np.zeros((1, 32, 32)))
    with pytest.raises(ExplainError, match=r"gives maps \(1, 32, 32\)"):
        theirs.maps(*arguments)


def test_yardsticks_know_nothing_of_the_network(judge: TrainedJudge) -> None:
    *_, noise, centre = makers_of(["cam"], seed=3)
    images, classes = torch.rand(3, 1, 32, 48), torch.tensor([0, 1, 2])
    maps = centre.maps(torch.nn.Identity(), images, classes, "")
    assert (maps.argmax(2)[:, 16] == 23).all() or (maps.argmax(2)[:, 16] == 24).all()
    torch.testing.assert_close(maps, maps.flip(1, 2), atol=1e-6, rtol=0)
    first = noise.maps(torch.nn.Identity(), images, classes, "")
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, makers_of(["cam"], seed=3)[-2].maps(torch.nn.Identity(), images, classes, ""))
    assert (first.amin((1, 2)) == 0).all()


def test_images_of_different_sizes_never_share_a_batch() -> None:
    sizes = [8, 8, 8, 9, 8]
    device = torch.device("cpu")
    files = [Path(f"{n}.png") for n in range(5)]
    case = Case("", torch.nn.Identity(), "", device, files, [0] * 5, lambda n: torch.full((1, sizes[n], 8), n), None)
    assert [batch.numbers for batch in case.batches(2)] == [[0, 1], [2], [3], [4]]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in case.batches(9, most=4)] == [[0, 1, 2], [3]]


def test_the_best_of_a_column_is_no_yardstick() -> None:
    methods = [
        Method("a", rows={0: {"drop": 0.5, "road": 0.1, "sanity": 0.1}, 1: {"drop": 0.1, "road": 0.1}}),
        Method("b", rows={0: {"drop": 0.2, "road": 0.1, "sanity": 0.2}}),
        Method("c", learns=False, rows={0: {"drop": 0.0}}),
        Method("d", failure="it cannot"),
    ]
    made = report("title", methods, ["a note"], {"seed": 3})
    cells = {row[0].text: [(cell.text, cell.best) for cell in row[1:]] for row in made.tables[0].rows}
    assert list(made.tables[0].head) == ["method", "drop ↓", "ROAD ↑", "sanity"]
    assert cells["a"] == [("0.300", False), ("0.100", False), ("0.100", False)]
    assert cells["b"] == [("0.200", True), ("0.100", False), ("0.200", False)]
    assert cells["c"] == [("0.000", False), ("-", False), ("-", False)]
    assert cells["d"] == [("-", False)] * 3
    assert made.notes[-1] == "d: no maps: it cannot"
    assert made.data["seed"] == 3


# --- maps that were saved


def save(folder: Path, name: str, spot: tuple[int, int], shape: tuple[int, ...] = (20, 22)) -> Path:
    """A map whose only evidence is at one cell."""
    found = np.zeros(shape, np.float32)
    found[..., spot[0], spot[1]] = 2.0
    found[..., 0, 0] = -1.0 if len(shape) == 2 else 0.0
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, found)
    return folder / name


def manifest(folder: Path, images: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"images": images}))
    return folder


def entry(raw: str, **more: Any) -> dict[str, Any]:
    return {"method": "gradcam", "layer": "trunk", "class": 1, "probability": 0.5, "raw": raw, "flat": False, **more}


def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, *flags: object) -> dict[str, Any]:
    """The JSON of evaluate.py --maps."""
    target = tmp_path / "measures.json"
    words = ["--maps", folder, "--format", "json", "--output", target, "--gpu_ids", "-1", *flags]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    assert evaluate.main() == 0
    content: dict[str, Any] = json.loads(target.read_text())
    return content


def test_saved_maps_by_their_manifest(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of 20 x 22 cells on images of 40 x 44; the brightest pixels lie around (2 y + 1, 2 x + 1)."""
    folder = tmp_path / "maps"
    save(folder, "a.npy", (6, 5))  # in testA/00's box
    save(folder, "b.npy", (1, 1))  # in none of testA/01's
    save(folder, "c.npy", (2, 4), (3, 20, 22))  # half in testA/02's, and half a pixel beside it
    images: list[dict[str, Any]] = [
        {
            "file": str(home / "data/testA/00.png"),
            "label": 0,
            "predicted": 1,
            "probability": 1,
            "maps": [entry("a.npy")],
        },
        {"file": "testA/01.png", "label": None, "predicted": 1, "probability": 1, "maps": [entry("b.npy")]},
        # As cam_infer.py writes views of input and translation.
        {
            "file": "nowhere/testA/02.png",
            "label": 2,
            "views": [
                {"side": "input", "maps": [entry("c.npy", method="guided_backprop", layer=None, target=2)]},
                {"side": "output", "maps": [entry("c.npy", method="guided_backprop", layer=None, target=2)]},
            ],
        },
    ]
    manifest(folder, images)
    content = measured(monkeypatch, tmp_path, folder, "--dataroot", home / "data", "--tolerance", 1)
    methods = by_name(content)
    names = ["gradcam at trunk", "guided_backprop of input", "guided_backprop of output"]
    assert list(methods) == names
    found = methods["gradcam at trunk"]["per_image"]
    assert found["pointing"] == [1, 0]
    assert found["energy"] == [pytest.approx(1), pytest.approx(0)]
    assert found["box_iou"] == [pytest.approx(4 * 4 / (16 * 16)), 0]
    assert methods["guided_backprop of input"]["per_image"]["pointing"] == [1]
    assert "deletion" not in content["better"]


def test_saved_maps_with_a_classifier(
    home: Path, judge: TrainedJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "maps"
    save(folder, "a.npy", (6, 5))
    file = home / "data/testA/00.png"
    views: list[dict[str, Any]] = [
        {"side": side, "maps": [entry("a.npy", layer=None), entry("a.npy", layer=None, **{"class": 3})]}
        for side in ("input", "output")
    ]
    manifest(folder, [{"file": str(file), "label": 0, "views": views}])
    flags = ("--classifier", "judge", "--checkpoints_dir", home / "checkpoints")
    methods = by_name(measured(monkeypatch, tmp_path, folder, *flags))
    found = methods["gradcam of input"]["per_image"]
    assert methods["gradcam of output"]["per_image"]["drop"] == [None]  # the picture is not there to be asked about
    assert "pointing" not in found
    grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    pixels = torch.from_numpy(grey)[None, None].float() / 255
    heat = resize_map(torch.from_numpy(np.load(folder / "a.npy")).relu()[None], (40, 44))
    heat = heat / heat.max()
    before, after = (float(judge.logits(x).softmax(1)[0, 1]) for x in (pixels, pixels * heat[:, None]))
    assert found["drop"] == [pytest.approx(max(0.0, (before - after) / before), abs=1e-5)]
    assert found["increase"] == [float(after > before)]


def test_what_cam_infer_writes_can_be_measured(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = f"--dataroot data --name judge --num_test 3 --cam_method cam,guided_backprop --results_dir {tmp_path}"
    outcome = run("cam_infer", f"{flags} --explained both --maps_only --gpu_ids -1", home)
    assert outcome.status == 0, outcome.err
    assert not list(tmp_path.rglob("*.png"))
    monkeypatch.chdir(home)
    flags_of_run = ("--dataroot", "data", "--classifier", "judge")
    content = measured(monkeypatch, tmp_path, tmp_path / "judge" / "latest", *flags_of_run)
    methods = by_name(content)
    assert list(methods) == list(content["localisation"]) == ["cam at trunk", "guided_backprop"]
    for scores in content["localisation"].values():
        assert {"MaxBoxAcc", "MaxBoxAccV2", "BoxAcc_fixed", "top1_loc", "MaxBoxAcc_predicted"} <= set(scores)
    for method in methods.values():
        assert method["images"] == [0, 1, 2]
        assert not any(value is None for name in ("energy", "road") for value in method["per_image"][name])


def test_maps_beside_their_images(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "maps"
    save(folder, "00.npy", (6, 5))
    save(folder, "01.npy", (6, 5))
    (folder / "00.png").write_bytes((home / "data/testA/00.png").read_bytes())
    table = folder / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1\n00.png,4,4,20,20\n")
    with pytest.raises(DataError, match=r"01.npy: there is no image 01.png beside it, nor in --dataroot"):
        find_maps(folder, None)
    (folder / "01.npy").unlink()
    content = measured(monkeypatch, tmp_path, folder)
    assert by_name(content)["maps"]["per_image"]["pointing"] == [1]
    flags = ("--classifier", "judge", "--checkpoints_dir", home / "checkpoints")
    assert by_name(measured(monkeypatch, tmp_path, folder, *flags))["maps"]["per_image"]["road"][0] is not None


def test_nothing_to_hold_maps_against(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "maps", "00.npy", (6, 5))
    (tmp_path / "maps" / "00.png").write_bytes((home / "data/testA/00.png").read_bytes())
    with pytest.raises(UserError, match="--maps: nothing to hold the maps against; give boxes or masks"):
        measured(monkeypatch, tmp_path, tmp_path / "maps")


def test_a_class_that_the_classifier_does_not_know(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "maps"
    save(folder, "a.npy", (6, 5))
    image: dict[str, Any] = {"file": str(home / "data/testA/00.png"), "label": 0}
    manifest(folder, [{**image, "maps": [entry("a.npy", **{"class": 9})]}])
    with pytest.raises(UserError, match=r"a.npy: explains class 9, and the classifier knows 0 to 3"):
        measured(monkeypatch, tmp_path, folder, "--classifier", "judge", "--checkpoints_dir", home / "checkpoints")


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], DataError, "holds no map: manifest.json names none"),
        ([{"label": 0, "maps": []}], JsonError, "image 0: lacks file"),
        ([{"file": "gone.png", "label": 0, "maps": []}], DataError, "gone.png: the image of a map is not there"),
        ([{"file": "a.png", "label": "x", "maps": []}], JsonError, "label should be a class or null"),
        ([{"file": "a.png", "label": 0, "maps": [{"raw": "../a.npy"}]}], DataError, "lies outside the folder"),
        ([{"file": "a.png", "label": 0, "maps": [{"raw": "a.npy"}]}], JsonError, "lacks method"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    tmp_path: Path, images: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    manifest(tmp_path, images)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(error, match=message):
        find_maps(tmp_path, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 2, 2, 2)), "should hold a map"),
        (np.array(["text"]), "should hold a map"),
        (np.zeros((0, 3)), "should hold a map"),
        (np.array([[np.nan, 1.0]]), "holds NaN or infinity"),
        (None, "cannot be read as an array"),
    ],
)
def test_a_file_that_is_no_map(tmp_path: Path, content: Any, message: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    if content is None:
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    else:
        np.save(tmp_path / "a.npy", content)
    (one,) = find_maps(tmp_path, None)
    with pytest.raises(DataError, match=message):
        one.read()


def test_a_folder_without_maps(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither manifest.json nor NAME.npy"):
        find_maps(tmp_path, None)
    with pytest.raises(DataError, match="no such folder"):
        find_maps(tmp_path / "gone", None)
