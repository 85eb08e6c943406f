"""Published weights become runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models import load_run
from models.networks import build_generator
from scripts.import_weights import main
from tests.conftest import picture
from util.checkpoint import export_weights
from util.errors import UserError

# As the authors of CycleGAN and of CUT give them out: one file, G's state dict.
KINDS = {"cycle_gan": (False, "G_A"), "cut": (True, "G")}
FLAGS = ("--ngf", "8", "--netG", "resnet_6blocks")


def published(place: Path, antialias: bool, channels: int = 3) -> Path:
    torch.manual_seed(0)
    net = build_generator(
        "resnet_6blocks",
        input_nc=channels,
        output_nc=channels,
        ngf=8,
        norm="instance",
        dropout=False,
        antialias=antialias,
        antialias_up=antialias,
        init_type="normal",
        init_gain=0.2,
        generator=torch.Generator().manual_seed(0),
    )
    export_weights(place / "latest_net_G.pth", net.state_dict())
    return place / "latest_net_G.pth"


@pytest.mark.parametrize("model", list(KINDS))
def test_a_run_is_made_of_them_and_computes_what_they_do(model: str, tmp_path: Path) -> None:
    antialias, net = KINDS[model]
    file = published(tmp_path, antialias)
    place = ["--name", "zoo", "--checkpoints_dir", str(tmp_path / "ck")]
    assert main([str(file), *place, "--model", model, *FLAGS]) == 0
    folder = tmp_path / "ck/zoo"
    assert sorted(one.name for one in folder.iterdir()) == ["domains.json", f"latest_net_{net}.pth", "options.yaml"]
    loaded = load_run(folder)  # without any flag
    weights = torch.load(file, weights_only=True)
    assert all(torch.equal(loaded.nets[net].state_dict()[key], value) for key, value in weights.items())
    assert loaded.translate(picture(0, 0, (33, 40), 3)).shape == (33, 40, 3)


def test_windows_of_16_bits(tmp_path: Path) -> None:
    place = ["--name", "deep", "--checkpoints_dir", str(tmp_path)]
    grey = ["--input_nc", "1", "--output_nc", "1", "--window_A", "1000,3000", "--window_B", "0,9000"]
    assert main([str(published(tmp_path, True, 1)), *place, *FLAGS, *grey]) == 0
    reader = load_run(tmp_path / "deep").pictures
    assert reader is not None
    assert reader.source is not None
    assert reader.target is not None
    assert reader.source.to_dict() == {"window": [1000, 3000], "depth": "uint16"}
    assert reader.target.to_dict() == {"window": [0, 9000], "depth": "uint16"}


def test_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    file = published(tmp_path, True)
    place = ["--name", "x", "--checkpoints_dir", str(tmp_path / "ck")]
    for words, message in (
        ([str(tmp_path / "absent.pth"), *place], "absent.pth: does not exist"),
        ([str(file), *place, "--ngf", "16", "--netG", "resnet_6blocks"], f"{file}: does not fit the network"),
        ([str(file), *place, "--model", "cycle_gan", *FLAGS], "does not fit the network"),
        ([str(file), *place, *FLAGS, "--window_A", "1%,99%"], "there are no images to take it from"),
        ([str(file), "--name", "../x", *FLAGS], "leads into another folder"),
        ([str(file), *place, "--model", "cutcam", *FLAGS], "--model cutcam: has G and C; a file"),
    ):
        with pytest.raises(UserError) as caught:
            main(words)
        assert message in str(caught.value)
        assert not (tmp_path / "ck").exists()
    assert main([str(file), *place, *FLAGS]) == 0
    with pytest.raises(UserError, match="exists; give another name"):
        main([str(file), *place, *FLAGS])
