"""--pretrained: torchvision's published weights from its cache, fetched only with --download; nothing is reached."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.response import addinfourl

import pytest
import torch
import torchvision
from torch import nn
from torchvision import models as published

from models import load_run
from models.classifier_model import ClassifierModel
from models.networks.classifier import TorchvisionNet, build_classifier
from models.torchvision_weights import weights_file
from options.parse import train_options
from options.schema import OptionError
from tests.conftest import tiny_flags
from util.checkpoint import CheckpointError
from util.seeding import generator

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

ARCH = "shufflenet_v2_x0_5"
RUN = ("--model", "classifier", "--arch", ARCH, "--pretrained", "--batch_size", 2, "--n_epochs", 1, "--lr", 0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's cache, empty; and nothing can be reached."""

    def offline(*words: object, **more: object) -> Any:
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    return tmp_path / "hub" / "hub" / "checkpoints"


def test_the_file_is_looked_for_where_torchvision_keeps_it(cache: Path) -> None:
    name = published.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    with pytest.raises(CheckpointError) as error:
        weights_file("resnet18")
    assert str(error.value) == (
        f"--pretrained: {cache / name} does not exist; add --download, or fetch "
        f"{published.ResNet18_Weights.DEFAULT.url} by hand and put it there, or give it by --arch_weights FILE"
    )
    assert not cache.exists()
    cache.mkdir(parents=True)
    (cache / name).touch()
    assert weights_file("resnet18") == weights_file("resnet18", download=True) == cache / name


def test_offline_the_remedy_is_told_and_no_file_is_left(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--download: https://.* could not be fetched \(Network is unr.*by hand"):
        weights_file("resnet18", download=True)
    assert list(cache.iterdir()) == []


def test_networks_without_published_weights_are_told(cache: Path) -> None:
    for arch in ("judge", "my_nets:small", "resnet_18"):
        with pytest.raises(CheckpointError, match=rf"^--pretrained: --arch {arch} has no published weights"):
            weights_file(arch)


def test_it_is_fetched_with_its_checksum_where_asked_for(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net-.pth"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    good, bad = (f"https://example.org/net-{name[:8]}.pth" for name in (digest, "0" * 8))

    class Weights:
        url = good

    monkeypatch.setattr(published, "get_model_weights", lambda arch: type("All", (), {"DEFAULT": Weights}))
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: addinfourl(file.open("rb"), Message(), good))
    assert weights_file("resnet18", download=True).read_bytes() == b"weights"
    Weights.url = bad
    with pytest.raises(CheckpointError, match=r"could not be fetched \(invalid hash value"):
        weights_file("resnet18", download=True)
    assert [path.name for path in cache.iterdir()] == [f"net-{digest[:8]}.pth"]


def test_a_run_begins_with_the_weights_in_the_cache(
    train_run: Trained, data: DataMaker, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"^--pretrained: .* does not exist; add --download"):
        train_run("absent", data(), *RUN)
    cache.mkdir(parents=True)
    net = torchvision.models.get_model(ARCH, weights=None)
    path = cache / published.get_model_weights(ARCH).DEFAULT.url.rsplit("/", 1)[-1]
    torch.save(net.state_dict(), path)
    folder = train_run("run", data(), *RUN)
    assert f"{path}: is of other classes, so the last layer starts anew" in capsys.readouterr().out
    path.unlink()
    made = load_run(folder).nets["C"].state_dict()  # a trained run does without the file, and without --download
    assert torch.equal(made["conv1.0.weight"], net.state_dict()["conv1.0.weight"])
    train_run("run", data(), *RUN, "--continue_train", "--n_epochs", 2)


def test_one_source_of_first_weights(tmp_path: Path) -> None:
    flags = tiny_flags(tmp_path, tmp_path, *RUN, "--num_classes", 4, "--arch_weights", "x.pth")
    with pytest.raises(OptionError, match=r"^--pretrained and --arch_weights x\.pth: use one of them"):
        ClassifierModel.from_options(train_options(flags))


@pytest.mark.parametrize(("arch", "mean"), [(ARCH, (0.485, 0.456, 0.406)), ("efficientnet_v2_l", (0.5, 0.5, 0.5))])
def test_images_are_normalised_as_the_published_weights_expect_it(
    arch: str, mean: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = published.get_model_weights(arch).DEFAULT.transforms()
    assert tuple(preset.mean) == mean
    monkeypatch.setattr(published, "get_model", lambda *words, **more: nn.Sequential(nn.Flatten(), nn.Linear(48, 4)))
    net = TorchvisionNet(arch, 4)
    seen: list[torch.Tensor] = []
    net.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 4, 4)
    net(images * 2 - 1)
    expected = torchvision.transforms.functional.normalize(images, preset.mean, preset.std)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_inceptions_published_weights_see_what_they_were_trained_with() -> None:
    """Torchvision undoes ImageNet's normalisation in a network whose weights it loads: they expect [-1, 1]."""
    net = build_classifier("googlenet", 4, 3, generator(1, "x")).eval()
    seen: list[torch.Tensor] = []
    first = next(layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    net(images)
    torch.testing.assert_close(seen[0], images, rtol=0, atol=1e-5)


def test_names_of_published_files_hold_a_checksum() -> None:
    for arch in published.list_models(module=published):
        assert re.search(r"-[0-9a-f]{8,}\.pth$", published.get_model_weights(arch).DEFAULT.url), arch
