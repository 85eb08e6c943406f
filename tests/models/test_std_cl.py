"""The classifier for localisation: its options, its learning rates, and which epoch a run ends with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision

from models import load_run
from models.cam.explain import explain
from models.classifier_model import ClassifierModel
from models.networks.staged_classifier import StagedClassifier
from models.std_cl_model import StdClModel
from options.parse import train_options
from options.schema import OptionError
from tests.conftest import tiny_flags
from util.checkpoint import CheckpointError, load_state
from util.engine.early_stopping import EarlyStoppingError

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

SMALL = ("--model", "std_cl", "--num_classes", 4, "--arch", "judge")
SHORT = (*SMALL, "--n_epochs", 3, "--batch_size", 3, "--val_share", 0.4)


def test_it_is_the_classifier_with_the_published_settings(tmp_path: Path) -> None:
    run = train_options(["--model", "std_cl", "--dataroot", str(tmp_path)])
    assert issubclass(StdClModel, ClassifierModel)
    assert (run.data.dataset_mode, run.data.load_size, run.data.crop_size) == ("wsol", (256, 256), (224, 224))
    assert (run.data.batch_size, run.schedule.n_epochs, run.schedule.last_epoch) == (32, 50, 50)
    optim, schedule = run.optim, run.schedule
    assert (optim.optimizer, optim.lr, optim.momentum, optim.nesterov) == ("sgd", 0.0017, 0.9, True)
    assert (optim.weight_decay, schedule.lr_policy, schedule.lr_decay_iters) == (1e-4, "step", 15)
    model = run.model
    assert (model.arch, model.spatial_pooling, model.output_stride) == ("resnet50", "WGAP", 8)  # type: ignore[attr-defined]
    assert (model.label_smoothing, model.head_lr_factor, model.select) == (0, 10, "last")  # type: ignore[attr-defined]
    assert not train_options(["--model", "std_cl", "--dataroot", "x", "--optimizer", "adam"]).optim.nesterov


def test_what_is_new_learns_ten_times_as_fast(bench: BenchMaker) -> None:
    made = bench("--model", "std_cl", "--num_classes", 4, "--arch", "resnet18", "--lr", 0.01)
    assert isinstance(made.model, StdClModel)
    slow, fast = made.optimizers["C"].param_groups
    assert (slow["lr"], fast["lr"], slow["nesterov"]) == (0.01, 0.1, True)
    net = made.model.classifier
    layer4 = net.encoder.net.get_submodule("layer4")  # type: ignore[union-attr]
    expected = {id(p) for p in [*layer4.parameters(), *net.head.parameters()]}
    assert {id(p) for p in fast["params"]} == expected
    assert len(slow["params"]) + len(fast["params"]) == len(list(net.parameters()))


def test_both_rates_fall_together(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(count=(9, 4)), *SHORT, "--lr_decay_iters", 2, "--lr_gamma", 0.5)
    state = load_state(run / "latest_state.pt")
    rates = [group["lr"] for group in state["optimizers"]["C"]["param_groups"]]
    assert rates == pytest.approx([0.0017 / 2, 0.017 / 2])


@pytest.mark.parametrize("pooling", ["WGAP", "GAP", "MaxPool", "LogSumExpPool", "WILDCAT"])
def test_a_run_comes_back_with_its_maps(train_run: Trained, data: DataMaker, pooling: str) -> None:
    run = train_run("run", data(count=(9, 4)), *SHORT, "--spatial_pooling", pooling, "--max_iters", 2)
    model = load_run(run)
    assert isinstance(model, StdClModel)
    net, images = model.classifier, torch.rand(2, 3, 32, 32) * 2 - 1
    assert isinstance(net, StagedClassifier)
    logits, stages = net.with_stages(images)
    torch.testing.assert_close(model.classify(images), logits.softmax(1))
    assert net.map_of(stages[-1], logits.argmax(1)).shape == (2, 4, 4)


def test_the_map_is_what_the_explainer_finds(bench: BenchMaker) -> None:
    made = bench(*SMALL)
    assert isinstance(made.model, StdClModel)
    net, images = made.model.classifier.eval(), torch.rand(3, 3, 32, 32) * 2 - 1
    classes = torch.tensor([0, 3, 1])
    with torch.no_grad():
        own = net.map_of(net.stages(images)[-1], classes)
    found = explain(net, images, "cam", layer="encoder", targets=classes)["cam"].raw
    torch.testing.assert_close(found.reshape(own.shape), own, rtol=1e-4, atol=1e-5)


# --- first weights


def test_a_file_of_the_whole_network_is_taken_over(bench: BenchMaker, tmp_path: Path) -> None:
    whole = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(whole, tmp_path / "whole.pth")
    made = bench(
        "--model", "std_cl", "--num_classes", 4, "--arch", "resnet18", "--arch_weights", tmp_path / "whole.pth"
    )
    assert isinstance(made.model, StdClModel)
    made.model.load_first_weights()
    state = made.model.classifier.state_dict()
    assert torch.equal(state["encoder.net.conv1.weight"], whole["conv1.weight"])
    assert made.model.messages[-1].endswith("is of other classes, so the last layer starts anew")
    del whole["layer3.0.conv1.weight"]
    torch.save(whole, tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"lacks encoder\.net\.layer3\.0\.conv1\.weight.*check --arch"):
        made.model.load_first_weights()


def test_a_network_of_another_kind_is_refused(bench: BenchMaker, tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "other.pth")
    made = bench(
        "--model", "std_cl", "--num_classes", 4, "--arch", "resnet18", "--arch_weights", tmp_path / "other.pth"
    )
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit the network"):
        made.model.load_first_weights()


# --- which epoch counts


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def boxes_beside(root: Path, files: list[str]) -> None:
    with (root / "boxes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "x0", "y0", "x1", "y1"), *((f, 10, 10, 30, 30) for f in files)])


Outcome = Callable[..., tuple[Path, list[dict[str, Any]]]]


@pytest.fixture
def outcome(train_run: Trained, data: DataMaker, tmp_path: Path) -> Outcome:
    from tests.conftest import make_data

    root = make_data(tmp_path / "data", count=(12, 4))
    boxes_beside(root, [f"trainA/{n:02d}.png" for n in range(12)])

    def go(*flags: object) -> tuple[Path, list[dict[str, Any]]]:
        run = train_run("run", root, *SHORT, "--lr", 0.02, "--save_epoch_freq", 1, *flags)
        return run, [line for line in logged(run) if "val_acc" in line]

    return go


def weights(run: Path, label: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / f"{label}_net_C.pth", weights_only=True)
    return found


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_without_a_word_the_last_epoch_counts_and_no_box_is_read(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data import wsol_dataset

    def fail(*_: Any) -> None:
        raise AssertionError("a box was looked at")

    monkeypatch.setattr(wsol_dataset.FolderTruth, "__call__", fail)
    run, measured = outcome("--select", "last")
    assert not any(name.startswith(("val_loc", "val_Max")) for line in measured for name in line)
    assert not (run / "best_net_C.pth").exists()
    assert equal(weights(run, "latest"), weights(run, "3"))


@pytest.mark.parametrize(("select", "measure"), [("best_cls", "val_acc"), ("best_loc", "val_loc")])
def test_the_best_epoch_is_restored_where_that_is_asked(outcome: Outcome, select: str, measure: str) -> None:
    run, measured = outcome("--select", select)
    values = [line[measure] for line in measured]
    assert len(values) == 3
    best = values.index(max(values)) + 1
    assert measured[-1]["best_epoch"] == best
    assert equal(weights(run, "latest"), weights(run, str(best)))
    assert equal(weights(run, "latest"), weights(run, "best"))
    if select == "best_loc":
        assert all(line["val_loc"] == line["val_MaxBoxAccV2"] for line in measured)
        assert 0 <= measured[0]["val_MaxBoxAcc"] <= 100
        facts = json.loads((run / "latest_facts.json").read_text())
        assert facts["val_loc"] == max(values)


def test_another_measure_of_localisation(outcome: Outcome) -> None:
    _, measured = outcome("--select", "best_loc", "--loc_measure", "MaxBoxAcc", "--max_iters", 2)
    assert measured[0]["val_loc"] == measured[0]["val_MaxBoxAcc"]
    with pytest.raises(OptionError, match="--loc_measure PxAP: held-out images have no truth of that kind"):
        outcome("--select", "best_loc", "--loc_measure", "PxAP", "--max_iters", 2, "--name", "other")


def test_the_measured_map_is_the_true_classes_own(bench: BenchMaker, tmp_path: Path) -> None:
    """The scores in the log are those of the stand-alone metric on the same maps."""
    from tests.conftest import make_data
    from util.metrics.wsol import localisation_scores, truth_from
    from util.seeding import StepInfo

    root = make_data(tmp_path / "data", count=(12, 4))
    boxes_beside(root, [f"trainA/{n:02d}.png" for n in range(12)])
    made = bench(*SMALL, "--val_share", 0.4, "--select", "best_loc", data=root)
    model, held = made.model, made.dataset.validation
    assert isinstance(model, StdClModel)
    assert held is not None
    with torch.no_grad(), model.evaluating():
        found = model.validate(StepInfo(0, 0, 0.0, 0.0), held.whole_batches(3))
        maps = []
        for batch in held.whole_batches(1):
            stages = model.classifier.stages(batch.A)
            maps.append(model.classifier.map_of(stages[-1], batch.label_A)[0].numpy())
    truth = truth_from([(10, 10, 30, 30)], (40, 44))
    alone = localisation_scores(maps, [truth] * len(maps), side=32)
    for name in ("MaxBoxAcc", "MaxBoxAccV2", "BoxAcc_fixed"):
        assert found[f"val_{name}"] == alone.values[name].value


# --- what cannot be used


def test_options_that_go_together_badly(bench: BenchMaker, train_run: Trained, data: DataMaker) -> None:
    with pytest.raises(OptionError, match="--select best_loc: only --dataset_mode wsol reads boxes and masks"):
        bench(*SMALL, "--select", "best_loc", "--dataset_mode", "classes")
    with pytest.raises(OptionError, match="--output_stride 12: choose one of 8, 16, 32"):
        bench(*SMALL, "--output_stride", 12)
    with pytest.raises(OptionError, match="--nesterov: needs a --momentum above 0"):
        bench(*SMALL, "--momentum", 0)
    with pytest.raises(OptionError, match=r"--arch vit_b_32 --num_classes 4: VisionTransformer declares no stages"):
        bench("--model", "std_cl", "--num_classes", 4, "--arch", "vit_b_32")
    with pytest.raises(EarlyStoppingError, match=r"the best val_acc: no image is held out.*or take the last epoch"):
        train_run("run", data(), *SMALL, "--n_epochs", 1, "--val_share", 0, "--select", "best_cls")


def test_a_run_keeps_its_pooling(data: DataMaker, train_run: Trained, tmp_path: Path) -> None:
    train_run("run", data(count=(9, 4)), *SHORT, "--max_iters", 2)
    with pytest.raises(CheckpointError, match=r"--spatial_pooling GAP: the run .* was trained with WGAP"):
        train_options(tiny_flags(tmp_path / "run", data(), *SMALL, "--spatial_pooling", "GAP", "--continue_train"))
