"""Exports compute what PyTorch does, say what they need, and come back as runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from data.decoders import read_raw
from data.images import DomainFormat
from models import load_run
from models.base import Model
from options.parse import extra, inference_options
from scripts.evaluating.record import digest_of_weights
from scripts.export import export_run
from scripts.exporting import programs
from scripts.exporting.checking import MOST, check, differences
from scripts.exporting.networks import OUTPUTS, facts_of, network_of
from scripts.exporting.options import Exporting
from scripts.exporting.programs import ExportError, run_onnx, run_torch, traced, write_onnx, write_torch
from tests.conftest import picture
from tests.models.fcam_bench import JUDGE, write_run
from tests.runs import COUNTS, CUTCAM, make_run
from util.checkpoint import CheckpointError
from util.errors import UserError
from util.safe_weights import SAFE_FILE, read_net

GREY = ("--input_nc", "1", "--output_nc", "1", "--netG", "resnet_4blocks", "--nce_layers", "0,4,8,12")
NAMES = {0: "disc", 1: "frame", 2: "bars", 3: "cross"}
EVALUATION = {
    "model": "cutcam",
    "seed": 0,
    "epoch": "latest",
    "step": 7,
    "phase": "test",
    "data": {"dataroot": "/measured/elsewhere", "source": {"count": 2, "digest": "ab"}, "target": None},
    "options": {},
    "metrics": {
        "kid": {"value": 0.125, "spread": None, "kind": "a | b", "note": "", "better": "lower"},
        "area": {"value": 0.5, "spread": None, "kind": "", "note": "", "better": ""},
        "fid": {"value": None, "spread": None, "kind": "", "note": "none", "better": "lower"},
    },
    "per_image": {"file": ["a", "b"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(
        tmp_path_factory.mktemp("ck") / "deep", *CUTCAM, *GREY, "--max_iters", "65", formats=COUNTS, classes=NAMES
    )


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model[Any], Any, Path]:
    """The model, its network with maps, and a folder with both graphs of it, traced once."""
    pytest.importorskip("onnxscript", reason="onnx, onnxscript and onnxruntime are extras")
    pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are extras")
    place = tmp_path_factory.mktemp("out")
    run, model = inference_options((), ["--checkpoint", str(folder)]), load_run(folder)
    net, facts = network_of(model, with_cam=True), facts_of(run, model, with_cam=True)
    program = traced(net, model, 1)
    write_torch(program, place, facts)
    write_onnx(program, place, facts, with_cam=True)
    return model, net, place


def export(*flags: object) -> list[Path]:
    run = inference_options((Exporting,), list(map(str, flags)))
    return export_run(run, extra(run, Exporting))


def test_the_program_of_the_page_on_export_runs(
    made: tuple[Any, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    counts = picture(0, 0, (32, 40), 1)[:, :, 0].astype(np.uint16) * 8 + 1000
    cv2.imwrite(str(tmp_path / "photo.tif"), counts)
    (tmp_path / "export").symlink_to(made[2])
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert abs(read_raw(tmp_path / "fake.png") - made[0].translate(counts).astype(float)).max() <= 1


def test_that_program_resizes_as_test_py_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network alone takes images as they are: without resizing, most of a picture's counts come out otherwise."""
    pytest.importorskip("onnxscript", reason="onnx, onnxscript and onnxruntime are extras")
    pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are extras")
    page = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    words = ("--preprocess", "resize_and_crop", "--load_size", "40", "--crop_size", "32,36")
    run = make_run(tmp_path / "ck" / "resized", *CUTCAM, *GREY, *words, formats=COUNTS)
    export("--checkpoint", run, "--format", "onnx", "--output", tmp_path / "export")
    counts = picture(0, 0, (61, 50), 1)[:, :, 0].astype(np.uint16) * 8 + 1000
    cv2.imwrite(str(tmp_path / "photo.tif"), counts)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    found = read_raw(tmp_path / "fake.png").astype(float)
    with pytest.warns(UserWarning, match="32 x 36"):
        assert abs(found - load_run(run).translate(counts)).max() <= 1
    assert abs(found - load_run(run, preprocess="none").translate(counts)).max() > 100


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_graphs_agree_with_pytorch_at_sizes_they_were_not_traced_at(made: tuple[Any, Any, Path], kind: str) -> None:
    model, net, place = made
    runner = run_onnx(place / "model.onnx") if kind == "onnx" else run_torch(place / "model.pt2")
    found = differences(net, model, 1, runner)
    assert {one.output for one in found} == set(OUTPUTS)
    assert len({one.shape for one in found}) == 3
    assert check(found) <= MOST
    # And for a class that is named, by the run's own explanation.
    x = torch.rand(2, 1, 40, 32) * 2 - 1
    with torch.no_grad():
        fake = model.translate(x)
        seen = model.explain(x, fake, torch.tensor([3, 1]))
    got = runner((x, torch.tensor([3, 1])))
    for one, other in zip(got, (fake, seen.cam, seen.cam_fake, seen.probabilities), strict=False):
        assert torch.allclose(one, other, atol=1e-4 * max(1.0, float(other.abs().max())))
    assert float(fake.std()) > 0.05
    assert float(seen.cam.std()) > 0


def test_another_network_does_not_pass(made: tuple[Any, Any, Path]) -> None:
    model, net, place = made
    runner = run_onnx(place / "model.onnx")
    with pytest.raises(ExportError, match="computes something else"):
        check(differences(net, model, 1, lambda given: [out + 2e-4 * (1 + out.abs().max()) for out in runner(given)]))
    with pytest.raises(ExportError, match="has the shape"):
        differences(net, model, 1, lambda given: [out[..., :-1] for out in runner(given)])


def test_windows_and_classes_go_along(made: tuple[Any, Any, Path]) -> None:
    import onnxruntime

    _, _, place = made
    session = onnxruntime.InferenceSession(str(place / "model.onnx"), providers=["CPUExecutionProvider"])
    kept = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    inside = {programs.FACTS: ""}
    torch.export.load(place / "model.pt2", extra_files=inside)
    for facts in (
        {name.removeprefix("cutcam."): value for name, value in kept.items()},
        json.loads(inside["model.json"]),
    ):
        assert DomainFormat.from_dict(facts["source"]) == COUNTS[0]
        assert DomainFormat.from_dict(facts["target"]) == COUNTS[1]
        assert facts["classes"] == {str(number): name for number, name in NAMES.items()}
        assert facts["size_multiple"] == 4
        assert facts["outputs"] == list(OUTPUTS)
    # What they say is enough to use the file without this project.
    counts = picture(0, 0, (32, 40), 1)[:, :, 0].astype(np.float32) * 8 + 1000
    (low, high), (to_low, to_high) = kept["cutcam.source"]["window"], kept["cutcam.target"]["window"]
    x = 2 * np.clip((counts - low) / (high - low), 0, 1) - 1
    out = session.run(["translation"], {"image": x[None, None], "class_id": np.array([-1])})[0]
    expected = made[0].translate(counts.astype(np.uint16))
    assert abs(np.rint(to_low + (out[0, 0] + 1) / 2 * (to_high - to_low)) - expected).max() <= 1


def test_a_folder_for_a_hub_comes_back_as_a_run(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    evaluations = folder / "evaluations"
    evaluations.mkdir(exist_ok=True)
    weights = {"weights": digest_of_weights(inference_options((Exporting,), ["--checkpoint", str(folder)]))}
    (evaluations / "test_latest.json").write_text(json.dumps(EVALUATION | {"basis": weights}))
    flags = ["--checkpoint", str(folder), "--format", "hub", "--output", str(tmp_path / "hub"), "--license", "mit"]
    run = inference_options((Exporting,), flags)
    names = sorted(file.name for file in export_run(run, extra(run, Exporting)))
    assert names == ["README.md", "config.json", "domains.json", "model.safetensors", "options.yaml"]
    assert sorted(file.name for file in (tmp_path / "hub").iterdir()) == names
    counts = (np.random.default_rng(0).integers(1000, 3000, (33, 40))).astype(np.uint16)
    own, again = load_run(folder), load_run(tmp_path / "hub")
    fake, cam = again.translate(counts, explain=True)
    assert (fake == own.translate(counts)).all()
    assert cam.class_name in NAMES.values()
    for name, value in own.nets["C"].state_dict().items():
        assert torch.equal(again.nets["C"].state_dict()[name], value), name
    card = (tmp_path / "hub/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "mit"
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "kid", "value": 0.125, "name": "kid a | b"}]
    measured_on = {"type": "elsewhere", "name": "elsewhere", "split": "test"}
    assert front["model-index"][0]["results"][0]["dataset"] == measured_on, "which need not be what it was trained on"
    assert "elsewhere, phase test, 2 images" in card
    assert "| data set | unused |" in card
    assert "| `--n_epochs_decay` | `200` |\n| `--max_iters` | `65` |" in card
    assert "| kid ↓ | 0.125 | a \\| b |" in card
    assert "| area | 0.5 |  |" in card
    assert "uint16, counts 1000 to 3000" in card
    text = "".join((tmp_path / "hub" / name).read_text() for name in names if name != SAFE_FILE)
    assert str(folder.parent) not in text  # no path of the machine of the training


def test_what_only_training_asks_for_stays_at_home(tmp_path: Path) -> None:
    """Neither a classifier that judged translations nor any path goes along, and none is needed elsewhere."""
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    home = tmp_path / "home"
    teacher = write_run(home / "teacher", *JUDGE, "--input_nc", "1")
    paths = ("--classifier_run", str(teacher), "--cache_dir", str(home / "pixels"))
    run = make_run(home / "taught", *CUTCAM, *GREY, *paths, formats=COUNTS)
    counts = picture(0, 0, (33, 40), 1)[:, :, 0].astype(np.uint16) * 8 + 1000
    expected = load_run(run).translate(counts)
    export("--checkpoint", run, "--format", "hub", "--output", tmp_path / "hub")
    home.rename(tmp_path / "gone")
    assert str(home) not in (tmp_path / "hub/options.yaml").read_text()
    assert (load_run(tmp_path / "hub").translate(counts) == expected).all()


@pytest.mark.parametrize(
    ("basis", "why"),
    [({"weights": "00"}, "was measured by other weights"), ({}, "does not say of which weights")],
)
def test_a_card_does_not_show_what_other_weights_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], basis: dict[str, str], why: str
) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations/test_latest.json").write_text(json.dumps(EVALUATION | {"basis": basis}))
    export("--checkpoint", folder, "--format", "hub", "--output", tmp_path / "hub")
    assert f"test_latest.json: {why}; the card leaves it out" in capsys.readouterr().err
    assert "kid" not in (tmp_path / "hub/README.md").read_text()


def test_the_card_is_one_for_the_hub(folder: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is an extra")
    test_a_folder_for_a_hub_comes_back_as_a_run(folder, tmp_path)
    card = hub.ModelCard.load(tmp_path / "hub/README.md")
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "image-to-image"
    assert [one.metric_value for one in card.data.eval_results] == [0.125]


def test_damaged_and_foreign_weights_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    assert len(export("--checkpoint", folder, "--format", "safetensors", "--output", tmp_path)) == 4  # no card
    file = tmp_path / SAFE_FILE
    with pytest.raises(CheckpointError, match="holds no network D; there are: C, G"):
        read_net(file, "D")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_run(tmp_path)


@pytest.mark.parametrize(("package", "format_"), [("onnx", "onnx"), ("safetensors.torch", "hub")])
def test_an_absent_package_is_named(
    package: str, format_: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("scripts.export.traced", lambda *_: None)  # it takes seconds and is not reached by this
    run = inference_options((Exporting,), ["--checkpoint", str(folder), "--format", format_, "--output", str(tmp_path)])
    with pytest.raises(UserError, match=rf"needs the package {package.split('.')[0]}, .*requirements-extras.txt"):
        export_run(run, extra(run, Exporting))


def test_what_cannot_be_exported_is_one_line(folder: Path, tmp_path: Path) -> None:
    plain = make_run(tmp_path / "ck/plain", "--model", "cut", "--netF_nc", "16", *GREY)
    for words, message in (
        (["--checkpoint", str(plain), "--with_cam"], "--with_cam: CutModel has no class head"),
        (["--checkpoint", str(folder), "--with_cam", "--format", "hub"], "--format hub holds every network anyway"),
        (
            ["--checkpoint", str(folder), "--format", "pickle"],
            "--format pickle: choose one of onnx, torch, safetensors, hub",
        ),
    ):
        with pytest.raises(UserError) as caught:
            export(*words, "--output", tmp_path)
        assert message in str(caught.value)
