"""The training loop as a user sees it: when things happen, how it stops, what it refuses."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

from data.base import Batch, DataError
from data.sampler import SampleKey
from options.yaml_config import read_yaml
from tests.conftest import make_data
from util.checkpoint import CheckpointError, load_state
from util.engine import trainer
from util.engine.faults import NonFiniteLossError
from util.engine.signals import StopRequest
from util.engine.step import train_step
from util.engine.trainer import Trainer, _crossed

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker, Trained

CUT = ("--model", "cut", "--n_epochs", 2, "--n_epochs_decay", 1)
CUTCAM = ("--model", "cutcam", "--num_classes", 4, "--n_epochs", 2, "--n_epochs_decay", 1)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# --- how often


def test_multiples_are_crossed_whatever_the_batch_size() -> None:
    """Once for each step that reaches or passes a multiple, for every batch size and frequency."""
    for batch in range(1, 12):
        for every in range(1, 30):
            seen = range(0, 200, batch)
            expected = [any(n % every == 0 for n in range(before + 1, before + batch + 1)) for before in seen]
            assert [_crossed(before, before + batch, every) for before in seen] == expected
    assert not any(_crossed(n, n + 1, 0) for n in range(50))


def test_log_lines_with_batches_that_do_not_divide(train_run: Trained, data: DataMaker) -> None:
    """5 images in batches of 3: 6 samples an epoch, 18 in three; a line wherever a multiple of 4 is passed."""
    run = train_run("run", data(), *CUT, "--batch_size", 3, "--print_freq", 4)
    lines = log_of(run)
    assert [line["total_iters"] for line in lines] == [6, 9, 12, 18]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert [line["epoch"] for line in lines] == [1, 2, 2, 3]
    assert [line["epoch_iters"] for line in lines] == [6, 3, 6, 6]
    assert [line["lr"] for line in lines] == pytest.approx([2e-4, 2e-4, 2e-4, 1e-4])


def test_checkpoints_come_when_asked(train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[int] = []
    save = Trainer.save

    def watching(self: Trainer, label: str, must: bool = False) -> None:
        saves.append(self.position.step)
        save(self, label, must)

    monkeypatch.setattr(Trainer, "save", watching)
    flags = ("--batch_size", 2, "--save_latest_freq", 5, "--save_by_iter", "--save_epoch_freq", 2)
    run = train_run("run", data(), *CUT, *flags)
    # Three epochs of 3 steps and 6 samples: 5, 10 and 15 are passed by steps 3, 5 and 8; epoch 2 and the end are saved,
    # and the start, so that no other run takes the folder.
    assert saves == [0, 3, 5, 6, 8, 9]
    names = {file.name for file in run.glob("*_net_G.pth")}
    assert names == {f"{label}_net_G.pth" for label in ("iter_6", "iter_10", "iter_16", "2", "latest")}
    assert {file.name for file in run.glob("latest_net_*")} == {f"latest_net_{name}.pth" for name in "GFD"}
    state = load_state(run / "latest_state.pt")
    assert state["position"] == {"epoch": 4, "step_in_epoch": 0, "step": 9, "total_iters": 18}


def test_monitors_and_gradient_norms_by_steps(train_run: Trained, data: DataMaker) -> None:
    flags = (*CUTCAM, "--batch_size", 2, "--print_freq", 1000, "--monitor_freq", 4)
    lines = log_of(train_run("run", data(), *flags))
    assert [line["step"] for line in lines] == [4, 8, 9]  # and the last
    assert {"grad_NCE", "grad_G_GAN", "grad_D_fake", "grad_CLS", "grad_CAM"} <= set(lines[0])
    assert {"head_classes", "CAM_corr", "CAM_corr_gain", "CAM_entropy", "CAM_weight", "lr"} <= set(lines[0])


def test_pictures_panels_and_page(train_run: Trained, data: DataMaker) -> None:
    flags = (*CUTCAM, "--batch_size", 2, "--panel_freq", 2, "--update_html_freq", 6, "--no_html", False)
    run = train_run("run", data(), *flags)
    panels = sorted(file.name for file in (run / "panels").iterdir())
    assert panels == ["epoch_001.png", "epoch_002.png", "epoch_003.png"]  # the first, every second, the last
    page = (run / "web" / "index.html").read_text()
    assert "cam_fake" in page
    assert len(list((run / "web").rglob("*fake_B*.png"))) == 3
    assert (run / "loss_log.txt").read_text().count("G_GAN") == 9
    assert (run / "options.yaml").is_file()
    assert "torch==" in (run / "environment.txt").read_text()


def test_a_run_says_how_it_was_started(
    train_run: Trained, data: DataMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("platform.node", lambda: pytest.fail("names the machine"))
    train_run("run", data(), *CUT, "--max_iters", 1)
    run = train_run("run", data(), *CUT, "--max_iters", 2, "--continue_train")
    lines = (run / "environment.txt").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[: len(comments)] == comments, "then the packages, as pip reads them"
    commands = [line for line in comments if line.startswith("# command: train.py ")]
    assert [("--continue_train" in line, " ~/run" in line) for line in commands] == [(False, True), (True, True)]
    assert str(tmp_path) not in "".join(commands)
    assert f"# python: {platform.python_version()}" in comments
    assert comments.count("# device: cpu") == 2
    assert all(re.match(r"# commit: [0-9a-f]{40}(-dirty)?$", line) for line in comments if "commit" in line)


def test_the_last_step_is_always_logged(train_run: Trained, data: DataMaker) -> None:
    short = (*CUT, "--max_iters", 3, "--print_freq", 1000)
    assert [line["step"] for line in log_of(train_run("short", data(), *short))] == [3]
    page = train_run("page", data(), *short, "--no_html", False) / "web" / "index.html"
    assert "G_GAN" in page.read_text()


# --- how long


def test_max_iters_stops_after_that_many_steps(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(), *CUT, "--max_iters", 7, "--panel_freq", 5)
    assert [line["step"] for line in log_of(run)] == list(range(1, 8))
    state = load_state(run / "latest_state.pt")
    assert state["position"] == {"epoch": 2, "step_in_epoch": 2, "step": 7, "total_iters": 7}
    assert (run / "panels" / "epoch_002.png").is_file()  # also where a run ends inside an epoch
    train_run("run", data(), *CUT, "--max_iters", 9, "--continue_train")
    assert [line["step"] for line in log_of(run)] == list(range(1, 10))
    train_run("run", data(), *CUT, "--max_iters", 9, "--continue_train")  # nothing left to do
    assert [line["step"] for line in log_of(run)] == list(range(1, 10))


def test_epoch_count_begins_later(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(), *CUT, "--epoch_count", 3)
    lines = log_of(run)
    assert [line["epoch"] for line in lines] == [3] * 5
    assert lines[0]["lr"] == pytest.approx(1e-4)


def test_a_finished_run_can_be_made_longer(train_run: Trained, data: DataMaker) -> None:
    short = ("--model", "cut", "--batch_size", 5, "--n_epochs_decay", 0)
    run = train_run("run", data(), *short, "--n_epochs", 2)
    train_run("run", data(), *short, "--n_epochs", 4, "--continue_train")
    whole = train_run("whole", data(), *short, "--n_epochs", 4)
    assert [line["epoch"] for line in log_of(run)] == [1, 2, 3, 4]
    assert [line["G"] for line in log_of(run)] == [line["G"] for line in log_of(whole)]


# --- stopping early


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def interrupted(model: Any, batch: Batch, info: Any, *rest: Any) -> Any:
        if info.step == 3:
            os.kill(os.getpid(), number)
        return train_step(model, batch, info, *rest)

    monkeypatch.setattr(trainer, "train_step", interrupted)
    run = train_run("run", data(), *CUT)
    assert load_state(run / "latest_state.pt")["position"]["step"] == 4  # the step under way is finished
    said = capsys.readouterr().out
    (last,) = [line for line in said.splitlines() if line.startswith("stopped after step 4; to continue: ")]
    assert " train.py " in last
    assert "--name run" in last
    assert last.endswith("--continue_train")
    assert (run / "latest_net_G.pth").is_file()


def test_a_second_ctrl_c_is_not_held_back() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest().listen()
    try:
        assert not stop.agreed()
        signal.raise_signal(signal.SIGINT)
        assert stop.agreed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


# --- what is refused


def test_a_run_that_exists_is_not_overwritten(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(), *CUT, "--max_iters", 1)
    before = (run / "latest_state.pt").read_bytes()
    with pytest.raises(CheckpointError, match=r"run already holds a run: add --continue_train.*--name, or delete"):
        train_run("run", data(), *CUT)
    assert (run / "latest_state.pt").read_bytes() == before


def test_a_run_that_does_not_exist_is_not_continued(train_run: Trained, data: DataMaker) -> None:
    with pytest.raises(ValueError, match=r"--continue_train: there is no run run in .*nothing; correct --name or"):
        train_run("nothing", data(), *CUT, "--continue_train")


def test_weights_are_not_written_over(train_run: Trained, data: DataMaker) -> None:
    run = train_run("run", data(), *CUT, "--max_iters", 1)
    (run / "latest_state.pt").unlink()
    with pytest.raises(CheckpointError, match=r"run already holds weights \(latest_net_.*choose another --name"):
        train_run("run", data(), *CUT)


# --- starts that fail, and runs that are over


def test_a_start_that_failed_can_be_corrected(
    train_run: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_data(tmp_path / "data")
    for file in (root / "trainB").iterdir():
        cv2.imwrite(str(file), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(DataError, match="A and B need one height and one width"):
        train_run("runs", root, *CUT, "--preprocess", "none", "--serial_batches")  # else it is known before
    run = tmp_path / "runs/run"
    assert not [*run.glob("*.pth"), *run.glob("*.pt")]
    (run / "mine.txt").write_text("notes")
    capsys.readouterr()
    train_run("runs", root, *CUT, "--max_iters", 1)
    note = f"{run}: an earlier start has left no checkpoint there; the run begins anew with this command's options\n"
    assert capsys.readouterr().out.count(note) == 1
    assert read_yaml(run / "options.yaml")["preprocess"] == "resize_and_crop"
    assert (run / "mine.txt").read_text() == "notes"
    assert [line["step"] for line in log_of(run)] == [1]


@pytest.mark.parametrize(
    ("fault", "at", "saves", "kept"),
    [
        (ZeroDivisionError(), 0, (), False),
        (ZeroDivisionError(), 1, (), False),  # the first checkpoint holds nothing of the one step
        (ZeroDivisionError(), 1, ("--save_latest_freq", 1), True),
        (NonFiniteLossError("the loss of G is not finite"), 0, (), True),  # says that it is kept
    ],
)
def test_an_error_keeps_a_checkpoint_that_has_learned_something(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: Exception,
    at: int,
    saves: tuple[object, ...],
    kept: bool,
) -> None:
    def failing(model: Any, batch: Batch, info: Any, *rest: Any) -> Any:
        if info.step == at:
            raise fault
        return train_step(model, batch, info, *rest)

    run = tmp_path / "run/run"
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "train_step", failing)
        with pytest.raises(type(fault)):
            train_run("run", data(), *CUT, *saves)
    assert (run / "latest_state.pt").is_file() == kept
    assert bool([*run.glob("*.pth")]) == kept
    if not kept:
        train_run("run", data(), *CUT, "--max_iters", 2)
        assert [line["step"] for line in log_of(run)] == [1, 2]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max_iters", 2), "all 2 steps of --max_iters are done; a greater --max_iters makes the run longer"),
        ((), "all 3 epochs are done; a greater --n_epochs or --n_epochs_decay makes the run longer"),
    ],
)
def test_a_run_that_is_over_says_so(
    train_run: Trained, data: DataMaker, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], told: str
) -> None:
    train_run("run", data(), *CUT, *flags)
    assert "nothing is left" not in capsys.readouterr().out
    train_run("run", data(), *CUT, *flags, "--continue_train")
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing is left to do for 'run': {told}"


# --- data in the decay epochs


def test_images_come_at_crop_size_in_the_decay_epochs(bench: BenchMaker, data: DataMaker) -> None:
    """Until epoch n_epochs a random crop of load_size; afterwards the whole image, as in a test."""
    flags = ("--model", "cut", "--load_size", 48, "--crop_size", 32, "--no_flip")
    made = bench(*flags, "--n_epochs", 2, "--n_epochs_decay", 2, data=data())
    whole = [made.dataset.whole_source(n).A for n in range(5)]
    for epoch, cropped in ((1, True), (2, True), (3, False), (4, False)):
        samples = [made.dataset[SampleKey(epoch, position, position)] for position in range(5)]
        assert all(sample.A.shape == (3, 32, 32) for sample in samples)
        same = [np.allclose(sample.A, image, atol=1e-5) for sample, image in zip(samples, whole, strict=True)]
        assert not any(same) if cropped else all(same)


def test_the_learning_rate_falls_and_the_scale_changes_in_the_same_epoch(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, bool]] = []

    def watching(model: Any, batch: Batch, info: Any, optimizers: Any, *rest: Any) -> Any:
        whole = any(torch.allclose(batch.A[0], image, atol=1e-5) for image in wholes)
        seen.append((optimizers["G"].param_groups[0]["lr"], whole))
        return train_step(model, batch, info, optimizers, *rest)

    from data.unaligned_dataset import UnalignedDataset

    wholes: list[torch.Tensor] = []
    from_options = UnalignedDataset.from_options.__func__  # type: ignore[attr-defined]

    def remembering(cls: Any, run: Any, size_multiple: int = 4, kept: Any = None) -> Any:
        dataset = from_options(cls, run, size_multiple, kept)
        wholes.extend(dataset.whole_source(n).A for n in range(5))
        return dataset

    monkeypatch.setattr(UnalignedDataset, "from_options", classmethod(remembering))
    monkeypatch.setattr(trainer, "train_step", watching)
    train_run("run", data(), *CUT, "--no_flip", "--load_size", 48, "--lr", 0.001)
    assert [rate for rate, _ in seen] == pytest.approx([0.001] * 10 + [0.0005] * 5)
    assert [whole for _, whole in seen] == [False] * 10 + [True] * 5


def test_max_iters_at_the_end_of_an_epoch_leaves_nothing_of_it_out(train_run: Trained, data: DataMaker) -> None:
    flags = (*CUT, "--n_epochs", 2, "--n_epochs_decay", 0, "--save_epoch_freq", 1)
    whole, bounded = train_run("whole", data(), *flags), train_run("bounded", data(), *flags, "--max_iters", 10)
    assert {file.name for file in whole.iterdir()} == {file.name for file in bounded.iterdir()}
    one, two = (load_state(run / "latest_state.pt") for run in (whole, bounded))
    assert one["position"] == two["position"] == {"epoch": 3, "step_in_epoch": 0, "step": 10, "total_iters": 10}


def test_places_in_an_epoch_follow_the_batch_size_of_today(train_run: Trained, data: DataMaker) -> None:
    train_run("run", data(count=(6, 6)), *CUT, "--n_epochs", 1, "--n_epochs_decay", 0, "--batch_size", 1)
    more = ("--n_epochs", 2, "--batch_size", 3, "--continue_train")
    run = train_run("run", data(count=(6, 6)), *CUT, "--n_epochs_decay", 0, *more)
    assert [line["epoch_iters"] for line in log_of(run)] == [1, 2, 3, 4, 5, 6, 3, 6]
