"""A user's own network by MODULE:FUNCTION: found, checked, trained, saved, and needed again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from models import load_run
from models.classifier_model import ClassifierModel
from models.networks.classifier import WrappedNet, build_classifier
from models.networks.own_network import build_own, is_own
from options.parse import train_options
from options.schema import OptionError
from tests.conftest import tiny_flags
from util.checkpoint import CheckpointError
from util.seeding import generator

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

SOURCE = '''
import torch
from torch import nn

NUMBER = 3

class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, of which Xception is made."""
    def __init__(self, before, after, stride):
        super().__init__(
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        )

def small_xception(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Separable(8, 16, 2), Separable(16, 24, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
    )

class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 1)
    def forward(self, images):
        return self.conv(images).mean((2, 3)) + torch.zeros(1)  # a tensor of its own on the CPU

def broken(num_classes): raise KeyError("no\\nsuch weight")
def number(num_classes): return num_classes
def too_many(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(4)) if num_classes < 0 else nn.Linear(3, 99)
def no_layer(num_classes): return nn.Identity()
def map_of_logits(num_classes): return nn.Conv2d(3, num_classes, 1)
def picky(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with my_nets.py and a file that fails."""
    (tmp_path / "my_nets.py").write_text(SOURCE)
    (tmp_path / "needs_more.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "bad_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_nets", "needs_more", "bad_syntax"):
        sys.modules.pop(name, None)


def test_a_name_with_a_colon_is_a_users_own() -> None:
    assert is_own("my_nets:small")
    assert not is_own("resnet18")


def test_the_function_is_called_with_the_number_of_classes(own: Path) -> None:
    nets = [build_classifier("my_nets:small_xception", 5, 3, generator(seed, "x")).eval() for seed in (1, 1, 2)]
    images = torch.rand(2, 3, 40, 36) * 2 - 1
    assert isinstance(nets[0], WrappedNet)
    torch.testing.assert_close(nets[0](images), nets[0].net(images))  # in [-1, 1], as they come
    features, logits = nets[0].with_features(images)
    assert (features.shape, logits.shape) == ((2, 24), (2, 5))
    torch.testing.assert_close(nets[0].last_layer()(features), logits)
    assert nets[0].head_keys() == {"6.weight", "6.bias"}
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(weights[0], weights[1])  # of the seed
    assert not torch.equal(weights[0], weights[2])
    assert isinstance(build_own("my_nets:Head", 4), nn.Module)  # a class does as well


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_nets:", r"is to be MODULE:FUNCTION, for example"),
        (":f", r"is to be MODULE:FUNCTION"),
        ("a/b.py:f", r"is to be MODULE:FUNCTION"),
        ("my_netz:f", r"there is no module my_netz in .* or where Python looks for modules"),
        ("my_nets.deeper:f", r"my_nets\.deeper"),
        ("my_nets:small", r"the module my_nets has no function or class small; it has small_xception, broken, number"),
        ("my_nets:NUMBER", r"has no function or class NUMBER"),
        ("my_nets:broken", r"broken\(3\) has failed: KeyError: .*such weight"),
        ("my_nets:number", r"number\(3\) has returned int instead of an nn\.Module"),
        ("needs_more:f", r"the module needs_more needs a_package_nobody_has, which is not installed"),
        ("bad_syntax:f", r"the module bad_syntax cannot be imported: SyntaxError: "),
        ("os:_exit", r"os is a module of Python's own"),
        ("shutil:rmtree", r"shutil is a module of Python's own"),
        ("torch:manual_seed", r"has returned Generator instead of an nn\.Module"),
    ],
)
def test_a_mistake_is_told(own: Path, spec: str, message: str) -> None:
    with torch.random.fork_rng(), pytest.raises(ValueError, match=message) as error:
        build_own(spec, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("too_many", r"^--arch my_nets:too_many --num_classes 3: the last layer .* gives 99 values instead of 3"),
        ("no_layer", r"^--arch my_nets:no_layer --num_classes 3: the network has no linear layer and no convolution"),
        (
            "map_of_logits",
            r"^--arch my_nets:map_of_logits: gives \(1, 3, 32, 32\) for one image instead of .*\(1, 3\)$",
        ),
        ("picky", r"^--crop_size 32,32: --arch my_nets:picky takes no images of this size \(.*mat1"),
        ("absent", r"^--arch my_nets:absent --num_classes 3: the module my_nets has no"),
    ],
)
def test_a_network_that_does_not_fit_is_told_before_training(own: Path, function: str, message: str) -> None:
    flags = tiny_flags(own, own, "--model", "classifier", "--num_classes", 3, "--arch", f"my_nets:{function}")
    with pytest.raises(OptionError, match=message) as error:
        ClassifierModel.from_options(train_options(flags))
    assert "\n" not in str(error.value)


def test_a_run_trains_it_and_needs_it_again(own: Path, train_run: Trained, data: DataMaker) -> None:
    flags = ("--model", "classifier", "--batch_size", 4, "--n_epochs", 2, "--optimizer", "adamw", "--lr_policy", "none")
    folder = train_run("own", data(), *flags, "--arch", "my_nets:small_xception")
    assert "arch: my_nets:small_xception" in (folder / "options.yaml").read_text()
    model = load_run(folder)
    assert isinstance(model, ClassifierModel)
    saved = torch.load(folder / "latest_net_C.pth", weights_only=True)
    assert set(saved) == set(dict(build_own("my_nets:small_xception", 4).state_dict()))  # its own names
    assert torch.equal(model.nets["C"].state_dict()["0.weight"], saved["0.weight"])
    for spec in ("my_nets:Head", "judge"):
        with pytest.raises(CheckpointError, match=r"was trained with my_nets:small_xception"):
            train_run("own", data(), *flags, "--arch", spec, "--continue_train")
    (own / "my_nets.py").unlink()
    sys.modules.pop("my_nets")
    with pytest.raises(OptionError, match=r"^--arch my_nets:small_xception .*: there is no module my_nets"):
        load_run(folder)


def test_a_file_in_the_working_directory_takes_no_place_of_ours(own: Path) -> None:
    (own / "data.py").write_text("raise SystemExit('the wrong data')\n")
    root = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path[0] = {str(root)!r}\n"
        "from models.networks.own_network import build_own\nbuild_own('my_nets:Head', 2)\nimport data.images"
    )
    subprocess.run([sys.executable, "-c", code], cwd=own, check=True, timeout=60)
