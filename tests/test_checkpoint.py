"""States that are whole or refused, and plain weights with CUT's names."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.networks import PatchSampleF, build_discriminator, build_generator
from util.checkpoint import MAGIC, CheckpointError, export_weights, load_state, load_weights, save_state

STATE: dict[str, Any] = {
    "nets": {"G": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}},
    "optimizers": {
        "G": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.5, 0.9)}]}
    },
    "position": {"epoch": 2, "step": 7},
    "loss_sum": 1.25,
    "none": None,
}


class Evil:
    """A pickle that runs a command when it is loaded: here, one that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self._mark}'",)


def framed(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).digest() + payload


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run" / "latest_state.pt"
    save_state(path, STATE)
    loaded = load_state(path)
    assert loaded.keys() == STATE.keys()
    for name, tensor in STATE["nets"]["G"].items():
        assert loaded["nets"]["G"][name].dtype == tensor.dtype
        assert torch.equal(loaded["nets"]["G"][name], tensor)
    assert loaded["optimizers"]["G"]["param_groups"] == STATE["optimizers"]["G"]["param_groups"]
    assert (loaded["position"], loaded["loss_sum"], loaded["none"]) == (STATE["position"], 1.25, None)
    assert [file.name for file in path.parent.iterdir()] == ["latest_state.pt"]  # no temporary file is left


def test_a_failed_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest_state.pt"
    save_state(path, STATE)

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="No space"):
        save_state(path, STATE | {"loss_sum": 2.0})
    assert load_state(path)["loss_sum"] == 1.25
    assert [file.name for file in tmp_path.iterdir()] == ["latest_state.pt"]


def test_every_truncation_and_every_kind_of_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "latest_state.pt"
    save_state(path, STATE)
    whole = path.read_bytes()
    for length in (0, 3, 7, 8, 20, 40, 41, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"latest_state\.pt: (is damaged or truncated|is no training state)"):
            load_state(path)
    for place in (9, 45, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"is damaged or truncated.*restore a copy"):
            load_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(path)


def test_foreign_files_and_other_versions_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "latest_state.pt"
    for content in (saved({"G": torch.zeros(2)}), b"\x89PNG\r\n\x1a\n" + b"\0" * 60, b"just text"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"latest_state\.pt: is no training state of this project"):
            load_state(path)
    path.write_bytes(MAGIC[:6] + b"02" + framed(saved(STATE))[8:])
    with pytest.raises(CheckpointError, match=r"latest_state\.pt: has format 02, this program reads 01"):
        load_state(path)
    with pytest.raises(CheckpointError, match=r"absent\.pt: cannot be read: No such file"):
        load_state(tmp_path / "absent.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("wrap", [saved, pickle.dumps])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, wrap: Any) -> None:
    """Also with a checksum that fits, and in exported weights, which have none."""
    mark = tmp_path / "executed"
    payload = wrap({"nets": Evil(mark)})
    state, weights = tmp_path / "latest_state.pt", tmp_path / "latest_net_G.pth"
    state.write_bytes(framed(payload))
    weights.write_bytes(payload)
    with pytest.raises(CheckpointError, match=r"latest_state\.pt: cannot be loaded as plain weights"):
        load_state(state)
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: cannot be loaded as plain weights"):
        load_weights(weights, nn.Linear(2, 2))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # the pickle is a live one
    assert mark.exists()


# --- exported weights


def networks() -> dict[str, nn.Module]:
    generator = build_generator("resnet_6blocks", ngf=4)
    return {
        "G": generator,
        "D": build_discriminator("basic", ndf=4),
        "F": PatchSampleF(generator.feature_channels((0, 4, 8, 12, 16)), "mlp_sample", 16),
    }


def test_an_export_is_a_plain_state_dict_with_the_published_names(tmp_path: Path) -> None:
    published: dict[str, set[str]] = {}
    lines = (Path(__file__).parent / "golden" / "cut_state_dict_keys.txt").read_text().splitlines()
    for line in lines:
        if line.startswith("## "):
            name = line.split()[1]
        elif line.startswith("   "):
            published.setdefault(name, set()).add(line.split()[0])
    for name, net in networks().items():
        path = tmp_path / f"latest_net_{name}.pth"
        export_weights(path, net.state_dict())
        content = torch.load(path, weights_only=True)
        assert list(content) == list(net.state_dict())
        assert all(isinstance(value, torch.Tensor) and not value.requires_grad for value in content.values())
        if name != "G":
            assert set(content) == published[name]
        else:  # six blocks: the names up to the last of them
            assert {key for key in published[name] if int(key.split(".")[1]) < 18} <= set(content)
        other = networks()[name]
        load_weights(path, other)
        assert all(torch.equal(other.state_dict()[key], value) for key, value in content.items())


def test_weights_that_do_not_fit_say_what_and_which_flags(tmp_path: Path) -> None:
    path = tmp_path / "latest_net_G.pth"
    small, wide = build_generator("resnet_6blocks", ngf=4), build_generator("resnet_6blocks", ngf=8)
    deep = build_generator("resnet_9blocks", ngf=4)
    export_weights(path, small.state_dict())
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    words = r"latest_net_G\.pth: does not fit.*has model\.1\.weight of shape \(4, 3, 7, 7\) instead of \(8, 3, 7, 7\)"
    with pytest.raises(CheckpointError, match=words + r".*and \d+ more.*--ngf"):
        load_weights(path, wide)
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())
    with pytest.raises(CheckpointError, match=r"lacks model\.1[0-9]"):
        load_weights(path, deep)
    torch.save({**small.state_dict(), "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"has the unknown extra\.weight; check"):
        load_weights(path, small)


def test_counters_of_old_batch_norms_do_not_matter(tmp_path: Path) -> None:
    path, net = tmp_path / "latest_net_D.pth", build_discriminator("basic", ndf=4, norm="batch")
    weights = net.state_dict()
    counters = [key for key in weights if key.endswith("num_batches_tracked")]
    assert counters
    torch.save({key: value for key, value in weights.items() if key not in counters}, path)
    load_weights(path, net)
    torch.save(weights | {"model.99.num_batches_tracked": torch.tensor(1)}, path)
    load_weights(path, net)


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    path, net = tmp_path / "latest_net_G.pth", nn.Linear(2, 2)
    export_weights(path, net.state_dict())
    whole = path.read_bytes()
    for length in (0, 1, 2, 10, 30, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: "):
            load_weights(path, net)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: "):
        load_weights(path, net)
    for content in (b"<html>404</html>", b"\x80\x02garbage", b"version https://git-lfs", os.urandom(64)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: "):
            load_weights(path, net)
    for value in ([1, 2], torch.zeros(2), {"weight": 3}):
        torch.save(value, path)
        with pytest.raises(CheckpointError, match="holds no state dict"):
            load_weights(path, net)
    with pytest.raises(CheckpointError, match=r"absent\.pth: does not exist"):
        load_weights(tmp_path / "absent.pth", net)
