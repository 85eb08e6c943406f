"""Every damage to a run costs one line. A row of the table is damage, and the words that the one line must hold."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.commands import run
from tests.mistakes.one_line import TRAIN, costs_one_line
from util.checkpoint import MAGIC, load_state, save_state
from util.engine.run_folder import OUTLINE

# --- run folders that are damaged, or come from strangers

Damage = Callable[[Path], object]
OPTIONS, DOMAINS, STATE, G = "options.yaml", "domains.json", "latest_state.pt", "latest_net_G.pth"


def content(name: str, text: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def option(**changed: Any) -> Damage:
    def damage(folder: Path) -> None:
        saved = yaml.safe_load((folder / OPTIONS).read_text())
        (folder / OPTIONS).write_text(yaml.safe_dump(saved | changed))

    return damage


def cut_at(word: str) -> Damage:
    """The options up to a word, as a copy on a full disk leaves them."""
    return lambda folder: content(OPTIONS, (folder / OPTIONS).read_text().partition(word)[0])(folder)


def as_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def gone(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def state(*path: str, value: Any = None) -> Damage:
    """One entry of the training state taken out, or changed; its checksum fits."""

    def damage(folder: Path) -> None:
        whole = load_state(folder / STATE)
        part = whole
        for name in path[:-1]:
            part = part[name]
        if value is None:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        save_state(folder / STATE, whole)

    return damage


def pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def framed(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).digest() + payload


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(folder: Path) -> None:
        saved = torch.load(folder / G, weights_only=True)
        torch.save({name: change(value) for name, value in saved.items()}, folder / G)

    return damage


def bomb() -> bytes:
    """8 MB of zeros in 8 kB, as PyTorch never writes them."""
    packed = io.BytesIO()
    plain = zipfile.ZipFile(io.BytesIO(pickled({"w": torch.zeros(2_000_000)})))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    return packed.getvalue()


def claims_too_much() -> bytes:
    """A tensor of seven numbers that says it has 10^13."""
    changed = io.BytesIO()
    plain = zipfile.ZipFile(io.BytesIO(pickled({"w": torch.zeros(7)})))
    with zipfile.ZipFile(changed, "w") as archive:
        for name in plain.namelist():
            part = plain.read(name)
            if name.endswith("data.pkl"):
                place = part.index(b"K\x07tq")
                part = part[:place] + b"\x8a\x06" + struct.pack("<Q", 10**13)[:6] + part[place + 2 :]
            archive.writestr(name, part)
    return changed.getvalue()


SLASHED = "--dataset_mode ../../x: unknown; known: "
BOMB = "a: &a [1,1,1,1]\nb: &b [*a,*a,*a,*a]\nnce_layers: *b\n"
ALL, USERS, TRAINING = ("test", "cam_infer", "train"), ("test", "cam_infer"), ("train",)
DAMAGES: list[tuple[str, Damage, tuple[str, ...], str]] = [
    ("no options", content(OPTIONS, ""), ALL, "options.yaml: must hold lines of the form `option: value`"),
    ("half of the options", cut_at("# networks"), ALL, "options.yaml: is damaged or truncated: it lacks input_nc"),
    ("no data set options", cut_at("# labels"), ALL, "options.yaml: is damaged or truncated: it lacks labels_A"),
    ("half a word", cut_at("alse\nnum_threads"), ALL, "options.yaml: --serial_batches f: expected True"),
    ("half a list", cut_at("]"), ALL, "options.yaml: is no valid YAML"),
    ("options that are bytes", content(OPTIONS, b"name: \xe4\n"), ALL, "options.yaml: is no valid YAML"),
    ("options of nested lists", content(OPTIONS, "a: " + "[" * 5000), ("test",), "options.yaml: is no"),
    ("options that grow", content(OPTIONS, BOMB), ("test",), "options.yaml: must hold lines"),
    ("options that run code", content(OPTIONS, "a: !!python/object:os.system {}"), ("test",), "is no valid YAML"),
    ("options with a strange tag", content(OPTIONS, "lr: !!int ''"), ("test",), "options.yaml: is no valid YAML"),
    (
        "options of another version",
        option(tomorrow=3),
        ALL,
        "options.yaml: tomorrow: no option of this run; correct or",
    ),
    ("a value of another type", option(ngf="many"), ALL, "options.yaml: --ngf many: expected a whole number"),
    ("a value out of range", option(ngf=-3), ALL, "options.yaml: --ngf -3: must be at least 1"),
    ("another program's model", option(model="other"), ALL, "--model other: unknown; known: "),
    ("a data set out of the folder", option(dataset_mode="../../x"), ALL, SLASHED),
    ("an option of inference", option(results_dir="x"), ALL, "options.yaml: results_dir: no option of this run"),
    ("options that are a folder", as_folder(OPTIONS), ALL, "options.yaml: cannot be read as a YAML file of options"),
    ("options that are gone", gone(OPTIONS), TRAINING, "--continue_train: checkpoints/bad/options.yaml does not exist"),
    ("no domains", gone(DOMAINS), ALL, "checkpoints/bad: holds no domains.json"),
    ("domains of nested lists", content(DOMAINS, "[" * 100_000), ("test",), "domains.json: is damaged"),
    ("empty domains", content(DOMAINS, ""), ALL, "domains.json: is damaged"),
    ("half of the domains", content(DOMAINS, '{"source": {}}'), ALL, "domains.json: is damaged"),
    ("domains that are a list", content(DOMAINS, "[]"), ALL, "domains.json: is damaged"),
    ("weights that are gone", gone(G), USERS, "--epoch latest: checkpoints/bad/latest_net_G.pth does not exist"),
    ("weights that are a folder", as_folder(G), USERS, "latest_net_G.pth does not exist; there are: none"),
    ("weights that are empty", content(G, ""), USERS, "latest_net_G.pth: cannot be loaded as plain weights"),
    (
        "weights that are NaN",
        weights(lambda w: w * float("nan")),
        USERS,
        "holds NaN or infinite values; use an earlier",
    ),
    (
        "weights that are whole",
        weights(torch.Tensor.int),
        ("test",),
        "has model.1.weight of type torch.int32 instead of",
    ),
    ("weights without names", content(G, pickled({1: torch.zeros(1)})), ("test",), "holds no state dict of a network"),
    ("weights elsewhere", weights(lambda w: w.to("meta")), ("test",), "holds no state dict of a network"),
    ("a bomb", content(G, bomb()), ("test",), "latest_net_G.pth: claims 8,0"),
    ("a tensor that claims too much", content(G, claims_too_much()), ("test",), "cannot be loaded as plain weights"),
    ("nested pickles", content(G, b"\x80\x02" + b"(" * 5000 + b"."), ("test",), "cannot be loaded as plain weights"),
    ("a state that is gone", gone(STATE), TRAINING, "latest_state.pt does not exist; start the run without the flag"),
    ("another program's state", content(STATE, pickled({"G": 1})), TRAINING, "is no training state of this project"),
    ("another version's state", content(STATE, MAGIC[:6] + b"02" + bytes(90)), TRAINING, "has format 02, this program"),
    ("an empty state", content(STATE, framed(pickled({}))), TRAINING, "is missing or is not what this version writes"),
    (
        "a state that is a list",
        content(STATE, framed(pickled([1]))),
        TRAINING,
        "latest_state.pt: holds no training state",
    ),
    ("a strange position", state("position", "x", value=1), TRAINING, "'position' is missing or is not what"),
    ("a position of words", state("position", "step", value="x"), TRAINING, "'position' is missing or is not what"),
]


@pytest.mark.parametrize(
    ("script", "damage", "expected"),
    [pytest.param(script, row[1], row[3], id=f"{script}: {row[0]}") for row in DAMAGES for script in row[2]],
)
def test_a_damaged_run(home: Path, script: str, damage: Damage, expected: str) -> None:
    spoil(home, damage)
    flags = "--dataroot data --name bad --gpu_ids -1" + (" --continue_train" if script == "train" else "")
    costs_one_line(script, flags, home, *expected.split("*"))


def spoil(home: Path, damage: Damage) -> Path:
    folder = home / "checkpoints/bad"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "checkpoints/run", folder)
    damage(folder)
    return folder


def test_a_state_that_lacks_a_part(home: Path) -> None:
    """Whatever the trainer saves may be missing in another version's file: it is asked for, or done without."""
    saved = load_state(home / "checkpoints/run" / STATE)
    assert set(OUTLINE) <= set(saved)
    flags = "--dataroot data --name bad --continue_train --gpu_ids -1"
    for key in saved:
        spoil(home, state(key))
        if key in OUTLINE:
            words = (f"latest_state.pt: '{key}' is missing or is not what this version writes", "begin a new run with")
            costs_one_line("train", flags, home, *words)
        else:
            outcome = run("train", flags, home)
            assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("path", [("nets", "G"), ("optimizers", "G"), ("schedulers", "G"), ("model", "cap")])
def test_a_part_of_a_state_that_is_no_such_part(home: Path, path: tuple[str, ...]) -> None:
    spoil(home, state(*path, value="x"))
    outcome = run("train", "--dataroot data --name bad --continue_train --gpu_ids -1", home)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "the checkpoint does not fit the options of this command" in outcome.err


class Evil:
    """A pickle that runs a command when it is loaded: here, one that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self._mark}'",)


@pytest.mark.parametrize(
    ("script", "name"), [("test", G), ("cam_infer", "latest_net_C.pth"), ("train", STATE), ("train", "pretrained")]
)
@pytest.mark.parametrize("write", [pickled, pickle.dumps])
def test_code_in_a_checkpoint_is_not_run(
    home: Path, tmp_path: Path, script: str, name: str, write: Callable[[Any], bytes]
) -> None:
    mark = tmp_path / "mark"
    payload = write({"nets": Evil(mark)})
    folder = spoil(home, content(G if name == "pretrained" else name, framed(payload) if name == STATE else payload))
    flags = f"--dataroot data --name {folder.name} --gpu_ids -1" + (" --continue_train" if script == "train" else "")
    flags = f"{TRAIN} --model cut --pretrained_name bad" if name == "pretrained" else flags
    costs_one_line(script, flags, home, "checkpoints/bad/latest_", ": cannot be loaded as plain weights (")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # the pickle is a live one
    assert mark.exists()


def test_a_file_written_by_hand_may_leave_options_out(home: Path) -> None:
    lines = "model: cutcam\nngf: 8\nndf: 8\nnetG: resnet_6blocks\nnum_classes: 4\ncrop_size: 32\nload_size: 36\n"
    spoil(home, content(OPTIONS, lines + "netF_nc: 16\n"))
    outcome = run("test", f"--dataroot data --name bad --gpu_ids -1 --results_dir {home / 'by_hand'}", home)
    assert outcome.status == 0, outcome.err
