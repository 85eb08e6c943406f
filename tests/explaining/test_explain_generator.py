"""cam_infer.py --explain: the class head, D and the distance of a translation run, by any explainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import load_run
from models.cam.explain import display
from models.cutcam_model import CutCamModel
from models.subjects import load_discriminator
from options.parse import inference_options
from tests.conftest import CLASSES
from tests.explaining.conftest import Command
from tests.explaining.test_explain_classifier import seen_by_network
from util.checkpoint import CheckpointError


def views(folder: Path) -> list[dict[str, Any]]:
    content = json.loads((folder / "manifest.json").read_text())
    found: list[dict[str, Any]] = content["images"][0]["views"]
    return found


def trained(home: Path) -> CutCamModel:
    model = load_run(home / "checkpoints/gen")
    assert isinstance(model, CutCamModel)
    return model


def test_cam_at_the_head_is_the_run_s_own_map(home: Path, explain: Command, tmp_path: Path) -> None:
    outcome = explain("gen", "--index", 3, "--cam_method", "cam,gradcam")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "gen/latest/explain_head"
    assert {path.name for path in (tmp_path / "gen/latest").iterdir()} == {"explain_head"}
    before, after = views(folder)
    model, batch = trained(home), seen_by_network(home / "data/testA/03.png")
    with torch.no_grad():
        fake = model.translate(batch)
        for view, images, side in ((before, batch, "input"), (after, fake, "output")):
            entry = view["maps"][0]
            assert (view["side"], entry["target"], entry["layer"]) == (side, 3, "hidden"), "the label is explained"
            hidden = model.head.hidden_map(model.generator.encode(images, [model.nce_layers[model.cam_index]])[0])
            own = model.head.class_map(hidden, torch.tensor([3]))
            raw = torch.from_numpy(np.load(folder / entry["raw"]))
            torch.testing.assert_close(
                display(raw[None, None], (32, 32))[0][0], display(own[None], (32, 32))[0][0], rtol=0, atol=1e-4
            )
            probabilities = model.classify(images)[0]
            assert view["predicted"] == int(probabilities.argmax())
            assert entry["probability"] == pytest.approx(float(probabilities[3]), abs=1e-5)
            assert f"03_{side}_gradcam_panel.png" in {path.name for path in folder.iterdir()}


def test_the_class_and_the_files_of_a_head_without_a_method(home: Path, explain: Command, tmp_path: Path) -> None:
    """--explained and --maps_only ask for explainers by themselves: a run's own maps have neither."""
    outcome = explain("gen", "--num_test", 1, "--explained", "predicted", "--maps_only")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "gen/latest/explain_head"
    assert not list(tmp_path.rglob("*.png"))
    view = views(folder)[0]
    assert [entry["target"] for entry in view["maps"]] == [view["predicted"]]
    assert view["maps"][0]["raw"] == "00_input_gradcam_raw.npy"


def test_discriminator_and_distance_are_of_the_translation(home: Path, explain: Command, tmp_path: Path) -> None:
    for what in ("discriminator", "distance"):
        outcome = explain("gen", "--index", 2, "--explain", what, "--cam_method", "gradcam,hirescam")
        assert outcome.status == 0, outcome.err
    folder = tmp_path / "gen/latest"
    model, batch = trained(home), seen_by_network(home / "data/testA/02.png")
    run = inference_options((), ["--checkpoints_dir", str(home / "checkpoints"), "--name", "gen"])
    load_discriminator(model, run)
    with torch.no_grad():
        fake = model.translate(batch)
        decision = model.nets["D"](fake).mean()
        layer = [model.nce_layers[model.cam_index]]
        distance = (model.generator.encode(fake, layer)[0] - model.generator.encode(batch, layer)[0]).square().mean()
    for what, score in (("discriminator", -decision), ("distance", distance)):
        (view,) = views(folder / f"explain_{what}")
        assert (view["side"], view["predicted"]) == ("output", None)
        assert [entry["target"] for entry in view["maps"]] == [None, None]
        assert view["maps"][0]["score"] == pytest.approx(float(score), rel=1e-3)
        assert (folder / f"explain_{what}/02_output_hirescam_overlay.png").is_file()


def test_the_console_says_what_is_explained_where_it_is_not_what_is_predicted(home: Path, explain: Command) -> None:
    model, batch = trained(home), seen_by_network(home / "data/testA/03.png")
    best = int(model.classify(batch)[0].argmax())
    for wanted in range(4):
        outcome = explain("gen", "--index", 3, "--class_idx", wanted, "--cam_method", "gradcam")
        said = outcome.out.partition("; translation")[0]
        assert (f", explained: {CLASSES[wanted]}, " in said) == (wanted != best), outcome.out


def test_explain_with_and_cam_method_are_one_flag_beside_the_option_of_the_training(home: Path) -> None:
    """The run's own --cam_method stays what it was trained with."""
    from options.groups import Explanation, Inference
    from options.parse import extra

    for flag in ("--cam_method", "--explain_with"):
        words = ["--checkpoints_dir", str(home / "checkpoints"), "--name", "gen", flag, "eigencam,gradcam++"]
        run = inference_options((Inference, Explanation), words)
        assert extra(run, Explanation).explain_with == ("eigencam", "gradcam++")
        assert getattr(run.model, "cam_method") == "gradcam"  # noqa: B009


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--explain distance --class_idx 1", "--class_idx: belongs to classes"),
        ("--explain distance --explained predicted", "--explained: belongs to classes"),
        ("--explain distance --top_k 2", "--top_k: belongs to classes"),
        ("--explain head --patches 0,0,1,1", "--patches: belongs to --explain discriminator"),
        ("--explain discriminator --patches 0,0,1", "--patches 0,0,1: give TOP,LEFT,BOTTOM,RIGHT"),
        ("--explain discriminator --patches 0,0,99,99", "window (0, 0, 99, 99) is not inside"),
        ("--explain discriminator --cam_method guided_backprop", "LeakyReLU"),
        ("--explain head --tile 64", "--tile 64: explainers see an image in one piece"),
        ("--explain head --grid", "--grid: is of the run's own maps"),
        ("--explain head --class_idx 4", "--class_idx 4: the network has the classes 0 to 3"),
        ("--explain classifier", "--explain classifier: choose one of head, discriminator, distance"),
    ],
)
def test_a_mistake_is_one_line(explain: Command, tmp_path: Path, flags: str, message: str) -> None:
    outcome = explain("gen", "--num_test", 1, *flags.split())
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))


def test_a_run_without_its_discriminator_says_so(home: Path, tmp_path: Path) -> None:
    (tmp_path / "gen").mkdir()
    for file in (home / "checkpoints/gen").glob("*"):
        if file.is_file() and "net_D" not in file.name:
            (tmp_path / "gen" / file.name).write_bytes(file.read_bytes())
    run = inference_options((), ["--checkpoints_dir", str(tmp_path), "--name", "gen"])
    with pytest.raises(CheckpointError, match=r"latest_net_D\.pth does not exist"):
        load_discriminator(trained(home), run)
