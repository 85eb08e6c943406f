"""CUTCAM over a run: collapse, labels by direction, explaining with what was trained, monitors and pictures."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
import torch
from torch import Tensor

from data.single_dataset import SingleDataset
from models import load_run
from models.cam.functional import correlation, rectify
from models.cutcam_model import CutCamModel, CutCamState
from models.head_watch import LOOK_EVERY, CollapseError
from options.groups import Inference
from options.parse import inference_options
from options.schema import OptionError
from tests.models.cutcam_bench import HEAD, README, cutcam
from util.checkpoint import load_weights
from util.engine.inference import explain_image

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained


# --- collapse


def collapse(model: CutCamModel) -> None:
    """Let the guard see a window of one class although the labels differ."""
    certain = torch.tensor([[0.999, 0.001, 0, 0]])
    for step in range(model.opt.collapse_window):
        model.watch.guard.watch(certain, torch.tensor([step % 4]))


def test_a_collapsed_head_loses_its_terms(bench: BenchMaker) -> None:
    made = bench(*README, "--collapse_window", 50)
    assert {"CLS", "CAM"} <= set(made.step().scalars)
    collapse(cutcam(made))
    made.step(LOOK_EVERY - 1)
    assert not made.model.messages
    made.step(LOOK_EVERY)
    (message,) = made.model.messages
    assert "the class head has collapsed: 1." in message
    assert "--pseudo_labels kmeans" in message
    after = made.step(LOOK_EVERY + 1)
    assert not {"CLS", "CAM"} & set(after.scalars)
    assert isinstance(after.state, CutCamState)
    assert cutcam(made).gan_weights(after.state).g_fake is None
    assert len(made.model.messages) == 1
    again = bench(*README)
    again.model.load_extra_state(made.model.extra_state())
    assert cutcam(again).watch.collapsed


def test_label_free_maps_need_no_head(bench: BenchMaker) -> None:
    made = bench(*README, "--cam_method", "label_free", "--collapse_window", 20)
    collapse(cutcam(made))
    made.step()
    after = made.step(1).scalars
    assert "CAM" in after
    assert "CLS" not in after


def test_on_collapse_stop(bench: BenchMaker) -> None:
    made = bench(*README, "--collapse_window", 50, "--on_collapse", "stop")
    collapse(cutcam(made))
    with pytest.raises(CollapseError, match="the class head has collapsed"):
        made.step(LOOK_EVERY)


TOY = (
    *(*HEAD, "--lambda_GAN", 0, "--lambda_CAM", 0, "--nce_idt", False, "--netG", "resnet_4blocks", "--batch_size", 4),
    *("--nce_layers", "0,4,8,12", "--cls_start_epoch", 0, "--collapse_window", 20),
    *("--n_epochs", 20, "--n_epochs_decay", 0),
)


def test_argmax_pseudo_labels_collapse_and_the_guard_says_so(train_run: Trained, data: DataMaker) -> None:
    images = data(count=(16, 8), labelled=())
    with pytest.raises(CollapseError, match="effective classes over the last 20 steps"):
        train_run("argmax", images, *TOY, "--pseudo_labels", "argmax", "--on_collapse", "stop")


def test_clustered_pseudo_labels_do_not_collapse(
    train_run: Trained, data: DataMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data(count=(16, 8), labelled=())
    train_run("kmeans", images, *TOY, "--pseudo_labels", "kmeans", "--on_collapse", "stop")
    said = capsys.readouterr().out
    assert "pseudo-labels (kmeans), round 1: images per class [4, 4, 4, 4]" in said
    assert said.count("pseudo-labels (kmeans)") == 5 + 3  # every epoch five times, then every fifth: 10, 15, 20


# --- labels and direction


def relabelled(root: Path, target: Path, rows: Mapping[str, str]) -> Path:
    """A copy of a data set whose rows of one side carry other ids."""
    shutil.copytree(root, target)
    with (target / "labels.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    with (target / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ("file", "label", "label_id"))
        writer.writeheader()
        writer.writerows({**row, "label_id": rows.get(row["file"], row["label_id"])} for row in table)
    return target


@pytest.mark.parametrize(("direction", "source", "target"), [("AtoB", "A", "B"), ("BtoA", "B", "A")])
def test_labels_are_those_of_the_side_that_is_translated(
    bench: BenchMaker, data: DataMaker, tmp_path: Path, direction: str, source: str, target: str
) -> None:
    """Other ids on the target's rows change nothing; on the source's rows, the class loss."""
    flags = (*README, "--direction", direction)
    plain = bench(*flags, data=data())
    assert plain.dataset.labels == [0, 1, 2, 3, 0][: len(plain.dataset.labels)]
    assert all(path.startswith(f"train{source}/") for path in plain.batch().path_A)
    reference = {name: float(value) for name, value in plain.step().scalars.items()}

    def others(side: str) -> dict[str, str]:
        return {f"train{side}/{i:02d}.png": str((i + 1) % 4) for i in range(5)}

    unseen = bench(*flags, data=relabelled(data(), tmp_path / "unseen", others(target)))
    assert {name: float(value) for name, value in unseen.step().scalars.items()} == reference
    seen = bench(*flags, data=relabelled(data(), tmp_path / "seen", others(source)))
    assert float(seen.step().scalars["CLS"]) != reference["CLS"]


def test_rows_of_the_target_are_not_even_counted(bench: BenchMaker, data: DataMaker) -> None:
    """Without a label on A, a table full of rows of B leaves every source image unlabelled."""
    made = bench(*README, data=data(labelled=()))
    assert made.dataset.labels == [-1] * 5
    assert made.batch().label_A.tolist() == [-1, -1]


@pytest.mark.parametrize("layer", [5, -6])
def test_cam_layer_out_of_range_is_named(bench: BenchMaker, layer: int) -> None:
    with pytest.raises(OptionError, match=f"--cam_layer {layer}: --nce_layers names 5 layers.*-5..4"):
        bench(*HEAD, "--cam_layer", layer)


# --- explaining with a trained run


@pytest.fixture
def trained(train_run: Trained, data: DataMaker) -> Path:
    return train_run("explain", data(), *README, "--n_epochs", 3, "--n_epochs_decay", 0)


def test_a_loaded_run_explains_as_training_did(trained: Path, bench: BenchMaker) -> None:
    """Maps of inputs and translations as in a training step at the same weights, to 1e-6."""
    made = bench(*README)
    for name, net in made.model.nets.items():
        load_weights(trained / f"latest_net_{name}.pth", net)
    before = {key: value.clone() for key, value in made.model.nets["C"].state_dict().items()}
    cutcam(made).head.update_statistics = lambda hidden: None  # type: ignore[method-assign]
    state = cutcam(made).forward_train(made.batch(), made.info())
    for key, value in before.items():
        assert torch.equal(made.model.nets["C"].state_dict()[key], value)

    loaded = load_run(trained)
    with torch.no_grad():
        fake = loaded.translate(state.batch.A)
        seen = loaded.explain(state.batch.A, fake, state.labels)
    scale = float(rectify(state.cam_A).max())
    assert scale > 0.01
    torch.testing.assert_close(fake, state.fake_B, rtol=0, atol=1e-6)
    torch.testing.assert_close(seen.cam, rectify(state.cam_A), rtol=0, atol=1e-6 * max(1.0, scale))
    torch.testing.assert_close(seen.cam_fake, rectify(state.cam_fake), rtol=0, atol=1e-6 * max(1.0, scale))
    torch.testing.assert_close(seen.probabilities, state.logits_A.softmax(1), rtol=0, atol=1e-6)
    assert torch.equal(seen.classes, state.labels)


def test_a_randomised_head_changes_the_maps(trained: Path, data: DataMaker) -> None:
    """The sanity check of Adebayo et al. 2018: a map that ignores the head's weights explains nothing."""
    loaded = load_run(trained)
    source = next(iter(images_of(data())))
    kept = loaded.explain(source, source, torch.tensor([1])).cam
    torch.manual_seed(0)
    for parameter in loaded.nets["C"].parameters():
        torch.nn.init.normal_(parameter, std=float(parameter.detach().std()) + 0.01)
    changed = loaded.explain(source, source, torch.tensor([1])).cam
    assert float(correlation(kept, changed)) < 0.9
    assert float((kept - changed).abs().max()) > 0.05 * float(kept.max())


def images_of(root: Path) -> list[Tensor]:
    files = sorted((root / "trainA").glob("*.png"))
    return [torch.from_numpy(cv2.imread(str(f))).permute(2, 0, 1)[None, :, :, :40] / 127.5 - 1 for f in files]


def test_explaining_whole_images_keeps_no_graph(trained: Path) -> None:
    loaded = load_run(trained)
    picture = torch.rand(3, 37, 45, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fake, seen = explain_image(loaded, picture, (37, 45), class_id=-1)
    assert fake.shape == (3, 37, 45)
    assert 0 <= float(fake.min()) <= float(fake.max()) <= 1
    for tensor in (fake, seen.cam, seen.cam_fake, seen.probabilities):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
    assert all(p.grad is None for net in loaded.nets.values() for p in net.parameters())
    assert int(seen.classes) == int(seen.probabilities.argmax())


def test_classes_that_are_not_there_are_refused(trained: Path) -> None:
    loaded = load_run(trained)
    loaded.check_class(3)
    with pytest.raises(OptionError, match="--class_idx 4: the head has the classes 0 to 3"):
        loaded.check_class(4)


def test_cut_has_nothing_to_explain(bench: BenchMaker) -> None:
    made = bench("--model", "cut")
    with pytest.raises(OptionError, match=r"no class head.*--model cutcam"):
        made.model.check_class(0)
    picture = made.batch().A
    with pytest.raises(NotImplementedError, match="no class head"):
        made.model.explain(picture, picture)


def test_training_and_inference_read_the_same_pixels(trained: Path, data: DataMaker) -> None:
    flags = ["--checkpoints_dir", str(trained.parent), "--name", trained.name, "--dataroot", str(data())]
    run = inference_options((Inference,), flags)
    single = SingleDataset.for_phase(run, "train", 2)
    assert single.whole_source(0).label_A == 0
    whole = single.whole_source(1)
    assert whole.A.shape == (3, 32, 32)
    assert whole.label_A == 1


# --- monitors and pictures


def test_monitors(bench: BenchMaker) -> None:
    made = bench(*README)
    for step in range(4):
        result = made.step(step)
    values: dict[str, Any] = {k: float(v) for k, v in made.model.monitors(result.state).items()}
    state = result.state
    assert isinstance(state, CutCamState)
    right = (state.logits_A.argmax(1) == state.batch.label_A).float().mean()
    assert values["head_acc_A"] == pytest.approx(float(right))
    assert values["CAM_corr_gain"] == pytest.approx(values["CAM_corr"] - values["CAM_cross_corr"], abs=1e-6)
    expected = correlation(rectify(state.cam_A), rectify(state.cam_fake)).mean()
    assert values["CAM_corr"] == pytest.approx(float(expected), abs=1e-6)
    assert 1 <= values["head_classes"] <= 4
    assert 0 <= values["CAM_entropy"] <= 1
    assert 0 <= values["CAM_top5"] <= 1
    assert values["CAM_dead"] in (0, 0.5, 1)
    assert set(values) >= {"head_acc_fake", "head_acc_blurred", "CAM_std_over_mean", "CAM_weight"}


@pytest.mark.parametrize("model", ["cut", "cutcam"])
def test_pictures(bench: BenchMaker, model: str) -> None:
    made = bench("--model", model)
    state = made.step().state
    pictures = made.model.visuals(state)
    names = ["real_A", "fake_B", "real_B", "idt_B"] + (["cam_A", "cam_fake"] if model == "cutcam" else [])
    assert list(pictures) == names
    columns = made.model.panel(state.batch.A)
    assert len(columns) == (4 if model == "cutcam" else 2)
    for picture in [*pictures.values(), *[p for column in columns.values() for p in column]]:
        assert picture.shape == (32, 32, 3)
        assert picture.dtype == "uint8"
