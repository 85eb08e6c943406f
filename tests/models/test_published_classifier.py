"""Checkpoints of the published ResNetCAM project, made here in its form: read whole, and truthfully reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models import load_run
from models.published_classifier import load_published_classifier
from util.checkpoint import CheckpointError

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained


class ResNetCAM(nn.Module):
    """A network of the published form: a resnet18, and its trunk a second time as a Sequential."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = torchvision.models.resnet18(weights=None, num_classes=classes)
        self.features_extractor = nn.Sequential(*list(self.model.children())[:-2])


@pytest.fixture(scope="module")
def net() -> ResNetCAM:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ResNetCAM(10)


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "cam.pt")
    return folder / "cam.pt"


def forms(net: ResNetCAM) -> dict[str, Any]:
    state = dict(net.state_dict())
    bare = dict(net.model.state_dict())
    return {
        "published": {"epoch": 7, "model_state_dict": state, "optimizer_state_dict": {"x": [1]}, "loss": 0.5},
        "state_dict": {"state_dict": state},
        "bare": state,
        "torchvision's own": bare,
        "one prefix": {f"model.{key}": value for key, value in bare.items()},
        "DataParallel": {f"module.{key}": value for key, value in state.items()},
        "trunk and head": {
            key: value for key, value in state.items() if key.startswith(("features_extractor.", "model.fc."))
        },
    }


@pytest.mark.parametrize(
    ("form", "twice"),
    [
        *(("published", 120), ("state_dict", 120), ("bare", 120), ("DataParallel", 120)),
        *(("torchvision's own", 0), ("one prefix", 0), ("trunk and head", 0)),
    ],
)
def test_every_form_is_read_whole(tmp_path: Path, net: ResNetCAM, form: str, twice: int) -> None:
    found = load_published_classifier(saved(tmp_path, forms(net)[form]))
    expected = net.model.state_dict()
    assert found.weights.keys() == expected.keys()
    assert all(torch.equal(found.weights[key], value) for key, value in expected.items())
    assert (found.twice, found.missing, found.unexpected, found.num_classes) == (twice, (), {}, 10)
    own = torchvision.models.resnet18(weights=None, num_classes=found.num_classes)
    own.load_state_dict(found.weights)  # strictly
    assert found.describe().startswith("122 tensors loaded")
    assert len(net.state_dict()) == 242  # as the published files have


def test_what_does_not_belong_is_reported(tmp_path: Path, net: ResNetCAM) -> None:
    """The published project always said that 0 keys were unexpected."""
    content = {**net.state_dict(), "fc_weights": torch.ones(2), "features_extractor.9.weight": torch.ones(1)}
    found = load_published_classifier(saved(tmp_path, content))
    assert list(found.unexpected) == ["fc_weights", "features_extractor.9.weight"]
    assert found.describe() == (
        "122 tensors loaded (120 of them stood there twice), 0 missing, "
        "2 (fc_weights, features_extractor.9.weight) unexpected"
    )


def without(net: ResNetCAM, *parts: str) -> dict[str, Tensor]:
    return {key: value for key, value in net.state_dict().items() if not any(part in key for part in parts)}


def test_what_is_missing_or_of_another_network_is_refused(tmp_path: Path, net: ResNetCAM) -> None:
    own = net.model.state_dict()
    for content, message in (
        (without(net, "model.fc.bias"), r"1 \(fc\.bias\) missing"),
        (without(net, "layer2.0.conv1", "extractor.5.0.conv1"), r"1 \(layer2\.0\.conv1\.weight\) missing"),
        ({**own, "layer1.2.conv1.weight": torch.zeros(1)}, r"is no .* resnet18: .* 0 missing, 1 \(layer1\.2\.conv1"),
        ({**own, "conv1.weight": torch.zeros(64, 3, 3, 3)}, r"1 \(conv1\.weight\) of another shape"),
        ({**own, "fc.weight": torch.zeros(10, 2048)}, r"1 \(fc\.weight\) of another shape"),
        (nn.Linear(2, 2).state_dict(), r"0 tensors loaded, .* missing, 2 \(weight, bias\) unexpected"),
        ({"model_state_dict": {"a": 1}}, r"holds no state dict of a network, nor one under model_state_dict or"),
        ([1, 2], r"holds no state dict"),
    ):
        path = saved(tmp_path, content)
        with pytest.raises(CheckpointError, match=rf"^{path}: .*{message}") as error:
            load_published_classifier(path)
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"absent\.pt: does not exist"):
        load_published_classifier(tmp_path / "absent.pt")


def test_two_answers_to_one_name_are_refused(tmp_path: Path, net: ResNetCAM) -> None:
    content = {key: value.clone() for key, value in net.state_dict().items()}
    content["features_extractor.0.weight"][0, 0, 0, 0] += 1
    with pytest.raises(CheckpointError, match=r"holds conv1\.weight twice, with different values"):
        load_published_classifier(saved(tmp_path, content))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def test_a_file_that_would_run_something_is_refused(
    tmp_path: Path, net: ResNetCAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot be loaded as plain weights"):
        load_published_classifier(saved(tmp_path, {**forms(net)["published"], "extra": Evil()}))
    assert not (tmp_path / "pwned").exists()


def test_a_run_begins_with_such_a_file(
    train_run: Trained, data: DataMaker, tmp_path: Path, net: ResNetCAM, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, forms(net)["published"])
    flags = ("--model", "classifier", "--arch", "resnet18", "--arch_weights", path, "--batch_size", 2, "--lr", 0)
    folder = train_run("dla", data(), *flags, "--n_epochs", 1)
    said = capsys.readouterr().out
    assert f"{path}: 122 tensors loaded (120 of them stood there twice), 0 missing, 0 unexpected" in said
    assert "is of other classes, so the last layer starts anew" in said  # 4, not 10
    made = load_run(folder).nets["C"].state_dict()
    for key, value in net.model.state_dict().items():
        if "running" not in key and "num_batches" not in key and not key.startswith("fc."):
            assert torch.equal(made[key], value), key
    path = saved(tmp_path, {"state_dict": {**net.state_dict(), "strange": torch.ones(1)}})
    with pytest.raises(CheckpointError, match=r"does not fit the network: has the unknown strange"):
        train_run("strange", data(), *flags, "--n_epochs", 1)
