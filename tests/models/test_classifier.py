"""The classifier: its networks, its training as a run, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models import load_run
from models.augmenting import augmented
from models.classifier_model import ClassifierModel
from models.networks.classifier import Classifier, JudgeNet, TorchvisionNet, build_classifier
from options.parse import train_options
from options.schema import OptionError
from tests.conftest import tiny_flags
from util.checkpoint import CheckpointError, export_weights, load_state
from util.seeding import StepInfo, generator

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

SMALL = ("--model", "classifier", "--num_classes", 4)


def noise(count: int, channels: int, *size: int) -> Tensor:
    return torch.rand(count, channels, *size, generator=generator(3, "test images")) * 2 - 1


def built(arch: str, classes: int = 5, channels: int = 3, seed: int = 1) -> Classifier:
    return build_classifier(arch, classes, channels, generator(seed, "test net")).eval()


# --- networks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (33, 31), (64, 64)])
def test_the_judge_takes_images_of_any_size_and_channels(channels: int, size: tuple[int, int]) -> None:
    net = built("judge", channels=channels)
    images = noise(2, channels, *size)
    features, logits = net.with_features(images)
    assert (features.shape, logits.shape) == ((2, 128), (2, 5))
    assert torch.equal(logits, net(images))
    assert torch.equal(features, net.features(images))
    assert isinstance(net, JudgeNet)
    assert net.feature_map(images).shape[-2:] == (-(-size[0] // 16), -(-size[1] // 16))


def test_the_judges_class_map_adds_up_to_the_logit() -> None:
    net = built("judge").double()
    assert isinstance(net, JudgeNet)
    images = noise(2, 3, 48, 32).double()
    maps = torch.einsum("kd,ndhw->nkhw", net.classify.weight, net.feature_map(images))
    assert bool((net.feature_map(images) >= 0).all())
    torch.testing.assert_close(maps.mean((2, 3)) + net.classify.bias, net(images), rtol=1e-10, atol=1e-10)


def test_the_judge_sees_each_image_alone_in_training_too() -> None:
    net, images = built("judge").train(), noise(4, 3, 32, 32)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.eval()(images), alone, rtol=1e-4, atol=1e-5)


def test_the_mean_level_of_a_dark_image_does_not_drown_its_content() -> None:
    """Two images of almost only black that differ in one bright spot: their features must differ by much."""
    net = built("judge", channels=1)
    dark = torch.full((2, 1, 64, 64), -1.0)
    dark[0, 0, 10:13, 10:13] = 1
    dark[1, 0, 40:43, 10:30] = 1
    first, second = net.features(dark).detach()
    assert float((first - second).norm() / first.norm()) > 0.2


def test_first_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    for arch in ("judge", "squeezenet1_1"):
        state = torch.random.get_rng_state()
        nets = [built(arch, seed=seed) for seed in (1, 1, 2)]
        assert torch.equal(state, torch.random.get_rng_state())
        weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


# name -> length of its features; small ones of each kind of last layer.
ARCHITECTURES = {"resnet18": 512, "mobilenet_v3_small": 1024, "squeezenet1_1": 512, "shufflenet_v2_x0_5": 1024}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_networks_of_torchvision_give_what_torchvision_gives(arch: str) -> None:
    net = built(arch)
    assert isinstance(net, TorchvisionNet)
    images = noise(2, 1, 64, 64)
    own = torchvision.models.get_model(arch, weights=None, num_classes=5).eval()
    own.load_state_dict(net.state_dict())
    norm = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    seen = norm((images.repeat(1, 3, 1, 1) + 1) / 2)
    features, logits = net.with_features(images)
    torch.testing.assert_close(logits, own(seen), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits, net(images))
    assert features.shape == (2, ARCHITECTURES[arch])
    last = net.last_layer()
    if isinstance(last, nn.Linear):  # SqueezeNet has a ReLU between its last layer and the mean
        torch.testing.assert_close(last(features), logits, rtol=1e-4, atol=1e-5)
    assert not last._forward_pre_hooks
    assert net.head_keys() == {key for key in net.state_dict() if net.state_dict()[key].shape[:1] == (5,)}


def test_unknown_networks_are_named_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError,
        match=r"did you mean 'resnet18'\?\); known: judge, torchvision's .*, and your own",
    ):
        built("resnet_18")
    for arch in ("judge", "resnet18"):
        with pytest.raises(ValueError, match="needs at least 2"):
            built(arch, classes=1)


# --- loss and measures


def test_the_loss_is_the_cross_entropy(bench: BenchMaker) -> None:
    for smoothing in (0.0, 0.3):
        made = bench(*SMALL, "--batch_size", 3, "--label_smoothing", smoothing)
        assert isinstance(made.model, ClassifierModel)
        batch = made.batch()
        state = made.model.forward_train(batch, made.info())
        logs = state.logits.log_softmax(1)
        target = (1 - smoothing) * F.one_hot(batch.label_A, 4) + smoothing / 4
        assert float(made.model.losses(state)["CLS"].detach()) == pytest.approx(
            float(-(target * logs.detach()).sum(1).mean()), rel=1e-5
        )
        right = sum(
            int(logits.argmax()) == int(label) for logits, label in zip(state.logits, batch.label_A, strict=True)
        )
        assert float(made.model.monitors(state)["acc"]) == pytest.approx(right / 3)


def test_validation_weighs_images_and_not_batches(bench: BenchMaker) -> None:
    made = bench(*SMALL)
    model = made.model
    assert isinstance(model, ClassifierModel)
    batches = list(made.dataset.whole_batches(2))
    assert [len(batch.A) for batch in batches] == [2, 2, 1]
    with model.evaluating(), torch.no_grad():
        found = model.validate(StepInfo(0, 7), batches)
        alone = [model.validate(StepInfo(0, 7), [batch]) for batch in made.dataset.whole_batches(1)]
        probabilities = torch.cat([model.classify(batch.A) for batch in batches])
    for name in ("val_acc", "val_CLS"):
        assert found[name] == pytest.approx(sum(one[name] for one in alone) / 5, rel=1e-5)
    fresh = bench(*SMALL).model
    assert "val_acc" not in fresh.facts()
    fresh.load_extra_state(model.extra_state())
    assert fresh.facts() == model.facts()
    assert probabilities.sum(1).tolist() == pytest.approx([1] * 5)
    right = probabilities.argmax(1) == torch.tensor(made.dataset.labels)
    assert found["val_acc"] == pytest.approx(float(right.float().mean()))


# --- runs


def test_a_run_learns_is_measured_and_comes_back(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "classifier", "--batch_size", 8, "--n_epochs", 12, "--input_nc", 1, "--val_share", 0.25)
    folder = train_run("judge", data(count=(32, 4)), *flags, "--save_epoch_freq", 6, "--panel_freq", 12)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = [line for line in log if "val_acc" in line]
    assert [line["epoch"] for line in measured] == list(range(1, 13))
    assert {"C", "CLS", "acc", "lr"} <= set(log[0])
    assert measured[-1]["val_acc"] >= 0.75  # a quarter by chance
    facts = json.loads((folder / "latest_facts.json").read_text())
    assert facts == {
        "classes": 4,
        "images": 24,
        "val_acc": measured[-1]["val_acc"],
        "val_CLS": measured[-1]["val_CLS"],
        "val_images": 8,
        "val_step": 36,
    }
    assert json.loads((folder / "6_facts.json").read_text())["val_acc"] == measured[5]["val_acc"]
    assert load_state(folder / "latest_state.pt")["model"]["validation"]["val_step"] == 36
    assert (folder / "panels" / "epoch_012.png").is_file()
    again = load_run(folder)
    assert isinstance(again, ClassifierModel)
    assert again.classifier.num_classes == 4
    assert again.size_multiple == 1
    with pytest.raises(OptionError, match=r"^this run is a classifier .*translates nothing"):
        again.translate(noise(1, 1, 32, 32))
    with pytest.raises(OptionError, match=r"^this run is a classifier"):
        again.check_class(0)
    with pytest.raises(NotImplementedError):
        again.explain(noise(1, 1, 32, 32), noise(1, 1, 32, 32))


def test_steps_that_end_inside_an_epoch_are_measured_too(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "classifier", "--batch_size", 2, "--n_epochs", 3, "--max_iters", 4, "--val_share", 0.4)
    folder = train_run("cut off", data(count=(9, 4)), *flags)
    measured = [
        json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines() if "val_acc" in line
    ]
    assert measured == [3, 4]
    assert json.loads((folder / "latest_facts.json").read_text())["val_step"] == 4


def test_a_domain_is_chosen_and_nothing_is_held_out_on_demand(train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "classifier", "--n_epochs", 1, "--domain", "B", "--val_share", 0)
    folder = train_run("b", data(count=(2, 9)), *flags)
    text = (folder / "options.yaml").read_text()
    for line in ("domain: B", "direction: BtoA", "num_classes: 4", "dataset_mode: classes"):
        assert f"{line}\n" in text
    assert json.loads((folder / "latest_facts.json").read_text()) == {"classes": 4, "images": 9}


def test_defaults_are_a_classifiers_own_and_flags_win() -> None:
    run = train_options(["--model", "classifier", "--dataroot", "x"])
    assert (run.data.dataset_mode, run.data.batch_size, run.optim.beta1) == ("classes", 16, 0.9)
    assert (run.schedule.last_epoch, run.schedule.lr_policy, run.log.panel_freq) == (25, "cosine", 0)
    assert train_options(["--model", "classifier", "--dataroot", "x", "--lr", "0.5"]).optim.lr == 0.5


# --- first weights from a file


def flags_with(file: Path, *flags: object) -> tuple[object, ...]:
    return (*SMALL, "--arch", "shufflenet_v2_x0_5", "--arch_weights", file, "--batch_size", 2, "--n_epochs", 1, *flags)


def test_published_weights_are_loaded_and_a_head_of_other_classes_starts_anew(
    train_run: Trained, data: DataMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=1000)
    export_weights(tmp_path / "shuffle.pth", published.state_dict())
    folder = train_run("fine", data(), *flags_with(tmp_path / "shuffle.pth", "--lr", 0))
    assert "is of other classes, so the last layer starts anew" in capsys.readouterr().out
    made = load_run(folder).nets["C"].state_dict()
    for key, value in published.state_dict().items():
        if "running" not in key and "num_batches" not in key and not key.startswith("fc."):
            assert torch.equal(made[key], value), key
    assert made["fc.weight"].shape == (4, 1024)
    own = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=4)
    own.load_state_dict(torch.load(folder / "latest_net_C.pth"))  # an exported file is torchvision's own
    (tmp_path / "shuffle.pth").unlink()
    load_run(folder)  # a trained run does without the file


def test_a_file_of_another_network_is_refused(train_run: Trained, data: DataMaker, tmp_path: Path) -> None:
    export_weights(tmp_path / "other.pth", built("judge").state_dict())
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit the network: .*check --arch"):
        train_run("wrong", data(), *flags_with(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"absent\.pth: does not exist"):
        train_run("absent", data(), *flags_with(tmp_path / "absent.pth"))


def test_old_names_and_second_heads_of_published_files_are_understood() -> None:
    dense = built("densenet121")
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for key, v in dense.state_dict().items()}
    assert set(old) != set(dense.state_dict())
    adapted, renewed = dense.adapted(old)
    assert (set(adapted), renewed) == (set(dense.state_dict()), False)
    judge = built("judge")
    adapted, renewed = judge.adapted(built("judge", classes=9).state_dict() | {"more": torch.zeros(1)})
    assert renewed
    assert torch.equal(adapted["classify.weight"], judge.state_dict()["classify.weight"])
    assert "more" in adapted  # what is unknown is for the loader to refuse
    inception = built("inception_v3")
    adapted, _ = inception.adapted({**inception.state_dict(), "AuxLogits.fc.weight": torch.zeros(1)})
    assert set(adapted) == set(inception.state_dict())


# --- mistakes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--arch", "resnet_18", "--num_classes", 3), r"^--arch resnet_18 .*did you mean 'resnet18'"),
        (
            ("--arch", "squeezenet1_1", "--num_classes", 3, "--crop_size", 8),
            r"^--crop_size 8,8: --arch squeeze.* takes",
        ),
        (("--num_classes", 1), r"needs at least 2"),
        ((), r"^--num_classes 0: only --dataset_mode classes"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, flags: tuple[object, ...], message: str) -> None:
    run = train_options(tiny_flags(tmp_path, tmp_path, "--model", "classifier", *flags))
    with pytest.raises(OptionError, match=message) as error:
        ClassifierModel.from_options(run)
    assert "\n" not in str(error.value)


def test_sizes_are_checked_only_where_they_are_known(tmp_path: Path) -> None:
    flags = ("--arch", "squeezenet1_1", "--num_classes", 3, "--crop_size", 8, "--preprocess", "none")
    model = ClassifierModel.from_options(train_options(tiny_flags(tmp_path, tmp_path, "--model", "classifier", *flags)))
    assert not any(parameter.is_meta for parameter in model.nets["C"].parameters())


def test_unlabelled_images_are_refused(bench: BenchMaker) -> None:
    with pytest.raises(OptionError, match="needs a label for each image"):
        bench(*SMALL).model.check_data([0, 1, -1])


def test_a_loss_in_sixteen_bits_is_computed_in_full_precision(bench: BenchMaker) -> None:
    made = bench(*SMALL, "--amp", "bf16")
    scalars = made.step().scalars
    assert scalars["CLS"].dtype == torch.float32
    assert math.isfinite(float(scalars["CLS"]))


def test_it_may_learn_from_changed_images_and_is_measured_on_images_as_they_are(bench: BenchMaker) -> None:
    made, plain = bench(*SMALL, "--cls_augment", "color,noise"), bench(*SMALL)
    batch = made.batch()
    state = made.model.forward_train(batch, made.info())
    shown = augmented(batch.A, ("color", "noise"), batch, made.info(), "cls_augment")
    assert not torch.allclose(shown, batch.A)
    torch.testing.assert_close(state.logits, made.model.nets["C"](shown))
    assert not torch.allclose(state.logits, made.model.forward_train(batch, made.info(step=1)).logits)
    for model in (made.model, plain.model):
        assert isinstance(model, ClassifierModel)
        torch.testing.assert_close(model.look_at(batch), model.nets["C"](batch.A))
