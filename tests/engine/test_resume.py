"""Save, stop, continue: bit for bit what an unbroken run gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import train
from data.base import Batch
from tests.models.fcam_bench import JUDGE, SMALL, classifier_run
from util.checkpoint import CheckpointError, load_state
from util.engine import trainer
from util.engine.signals import StopRequest
from util.engine.step import train_step

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

ROOT = Path(__file__).parents[2]
Order = list[tuple[str, ...]]

CUTCAM = (
    *("--model", "cutcam", "--num_classes", 4, "--lambda_IDT", 10, "--lambda_EDGE", 5, "--cam_weight_adv"),
    *("--cls_start_epoch", 0, "--cam_start_epoch", 0, "--monitor_freq", 4),
)
SRUNIT = ("--model", "srunit", "--inact_epochs", 1, "--D_noise", 0.1, "--monitor_freq", 4)
SINCUT = (
    *("--model", "sincut", "--netG", "stylegan2", "--ngf", 1, "--ndf", 1),
    *("--monitor_freq", 4, "--mbstd_group", 2),
)
CLASSIFIER = ("--model", "classifier", "--monitor_freq", 4)
FCAM = ("--model", "fcam", "--classifier_run", classifier_run(*JUDGE), *SMALL, "--monitor_freq", 4)
# Three steps an epoch (5 images in batches of 2; where 4 are held out, 9) and three epochs: every kind of randomness.
RUN = ("--batch_size", 2, "--n_epochs", 2, "--n_epochs_decay", 1)
CASES: dict[str, tuple[tuple[object, ...], bool, int]] = {  # flags, labelled, steps before the stop
    "cut in mid-epoch": (("--model", "cut"), True, 4),
    "cut at an epoch's end": (("--model", "cut", "--lr_policy", "cosine"), True, 3),
    "cut, epochs of more samples than images, mid-epoch": (("--model", "cut", "--samples_per_epoch", 6), True, 5),
    "FastCUT, dropout, bf16, workers": (
        ("--model", "cut", "--CUT_mode", "FastCUT", "--no_dropout", False, "--amp", "bf16", "--num_threads", 2),
        True,
        5,
    ),
    "batch norm, wgangp, step": (
        ("--normG", "batch", "--gan_mode", "wgangp", "--lr_policy", "step", "--lr_decay_iters", 1),
        True,
        4,
    ),
    "cutcam in mid-epoch": (CUTCAM, True, 4),
    "cutcam, k-means, dropout, plateau, mid-epoch": (
        (*CUTCAM, "--no_dropout", False, "--head_dropout", 0.2, "--lr_policy", "plateau"),
        False,
        5,
    ),
    "cutcam, k-means, dropout, epoch's end": (
        (*CUTCAM, "--no_dropout", False, "--head_dropout", 0.2, "--pseudo_every", 1),
        False,
        3,
    ),
    "cutcam, k-means, bf16, workers": ((*CUTCAM, "--amp", "bf16", "--num_threads", 2), False, 4),
    "cutcam, fast, bf16, forgetful blocks, cached images": (
        (*CUTCAM, "--fast", "--amp", "bf16", "--checkpoint_blocks", "--no_dropout", False, "--cache", "ram"),
        True,
        4,
    ),
    "cutcam, taught by both, judged by a classifier, maps told apart": (
        (*CUTCAM, "--cam_norm", "contrast", "--head_learns", "both", "--classifier_run", classifier_run(*JUDGE)),
        False,
        4,
    ),
    "srunit in mid-epoch": (SRUNIT, True, 4),
    "srunit, quotient, bf16, before it begins": ((*SRUNIT, "--reg_mode", "quotient", "--amp", "bf16"), True, 2),
    "cycle_gan, pools, mid-epoch": (("--model", "cycle_gan", "--pool_size", 3, "--monitor_freq", 4), True, 4),
    "cycle_gan, pools, bf16, workers": (
        ("--model", "cycle_gan", "--pool_size", 2, "--amp", "bf16", "--num_threads", 2),
        True,
        7,
    ),
    "dclgan, pool, epoch's end": (("--model", "dclgan", "--pool_size", 3), True, 3),
    "pix2pix, batch norm, dropout, five pairs": (("--model", "pix2pix", "--normG", "batch"), True, 4),
    "sincut, one image, mid-epoch": ((*SINCUT, "--max_dataset_size", 1, "--crops_per_epoch", 5), True, 4),
    "sincut, lazy R1, bf16, workers": (
        (*SINCUT, "--dataset_mode", "unaligned", "--r1_every", 2, "--amp", "bf16", "--num_threads", 2),
        True,
        3,
    ),
    "classifier, held-out images, mid-epoch": ((*CLASSIFIER, "--val_share", 0.4), True, 4),
    "std_cl, best epoch of held-out images, mid-epoch": (
        ("--model", "std_cl", "--arch", "judge", "--monitor_freq", 4, "--val_share", 0.4, "--select", "best_cls"),
        True,
        4,
    ),
    "classifier, plateau, epoch's end": ((*CLASSIFIER, "--lr_policy", "plateau", "--val_share", 0), True, 3),
    "fcam, held-out images, mid-epoch": ((*FCAM, "--val_share", 0.4), True, 4),
    "fcam, terms that come and go, epoch's end": (
        (*FCAM, "--decoder_norm", "batch", "--crf_start_ep", 2, "--sl_end_ep", 1, "--elb_mulcoef", 2, "--val_share", 0),
        True,
        3,
    ),
    "cutcam, warm-up and flips": (
        (
            *("--model", "cutcam", "--num_classes", 4, "--CUT_mode", "FastCUT", "--n_epochs", 2),
            *("--n_epochs_decay", 1, "--pseudo_labels", "sinkhorn", "--amp", "fp16"),
        ),
        False,
        4,
    ),
}


class StopAfter(StopRequest):
    """Asks to leave after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def listen(self) -> StopRequest:
        return self

    def agreed(self) -> bool:
        self._left -= 1
        return self._left <= 0


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    """Names of the images of every step, in order."""
    seen: Order = []

    def watching(model: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch.path_A + batch.path_B)
        return train_step(model, batch, *rest)

    monkeypatch.setattr(trainer, "train_step", watching)
    return seen


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    """Two nested states agree bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(whole: Path, broken: Path) -> None:
    assert_equal(load_state(whole / "latest_state.pt"), load_state(broken / "latest_state.pt"))
    names = {file.name for file in whole.glob("*_net_*.pth")}
    assert names
    for name in names:
        kept = [torch.load(run / name, weights_only=True) for run in (whole, broken)]
        assert_equal(kept[0], kept[1], name)
    assert logged(whole) == logged(broken)


def logged(folder: Path) -> list[dict[str, Any]]:
    """Lines of the log without what a clock measured."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "data_seconds")} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_continued_equals_unbroken(
    train_run: Trained, data: DataMaker, order: Order, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    flags, labelled, stop = CASES[case]
    if "pairs" in case:
        images = data(count=(5, 5))
    else:
        images = data(count=(9, 4)) if "held-out" in case else data() if labelled else data(labelled=())
    whole = train_run("whole", images, *RUN, *flags)
    unbroken = list(order)
    assert len(unbroken) == 9
    assert len(set(unbroken)) > 3 or "one image" in case  # another order and other targets in every epoch
    order.clear()
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", lambda: StopAfter(stop))
        broken = train_run("broken", images, *RUN, *flags)
    assert len(order) == stop
    train_run("broken", images, *RUN, *flags, "--continue_train")
    assert order == unbroken
    assert_same_run(whole, broken)
    assert len([line for line in logged(whole) if "lr" in line]) == 9
    assert len([line for line in logged(whole) if "val_acc" in line]) == (3 if "held-out" in case else 0)


class PowerCutError(Exception):
    """The machine dies in the middle of a step."""


def die_at(step: int) -> Callable[..., Any]:
    def dying(model: Any, batch: Batch, info: Any, *rest: Any) -> Any:
        if info.step == step:
            raise PowerCutError
        return train_step(model, batch, info, *rest)

    return dying


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("saved", [("--save_latest_freq", 3), ("--save_epoch_freq", 1)])
def test_a_crash_goes_back_to_the_last_checkpoint(
    train_run: Trained,
    data: DataMaker,
    monkeypatch: pytest.MonkeyPatch,
    saved: tuple[object, ...],
    labelled: bool,
) -> None:
    """Saved in mid-epoch (every 3 images, in batches of 2) or at the end of epochs 1 and 2; dead in step 8."""
    images, flags = data() if labelled else data(labelled=()), (*RUN, *CUTCAM, "--no_dropout", False, *saved)
    whole = train_run("whole", images, *flags)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", die_at(7))
        with pytest.raises(PowerCutError):
            train_run("broken", images, *flags)
    broken = whole.parents[1] / "broken" / "run"
    assert len(logged(broken)) == 7
    position = load_state(broken / "latest_state.pt")["position"]
    assert (position["step"], position["step_in_epoch"]) == ((6, 0) if "--save_epoch_freq" in saved else (6, 3))
    train_run("broken", images, *flags, "--continue_train")
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_killed_and_continued_equals_unbroken(train_run: Trained, data: DataMaker, tmp_path: Path) -> None:
    """`kill -9` on a process of its own, in step 5, one step after a checkpoint in mid-epoch."""
    from tests.conftest import tiny_flags

    images, flags = data(labelled=()), (*RUN, *CUTCAM, "--save_latest_freq", 4)
    whole = train_run("whole", images, *flags)
    program = (
        "import os, signal, sys, torch, train\n"
        "from util.engine import trainer\n"
        "step = trainer.train_step\n"
        "def dying(model, batch, info, *rest):\n"
        "    result = step(model, batch, info, *rest)\n"
        "    if info.step == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return result\n"
        "torch.set_num_threads(1)\n"
        "trainer.train_step = dying\n"
        "sys.exit(train.main())\n"
    )
    command = [sys.executable, "-c", program, *tiny_flags(tmp_path / "broken", images, *flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    broken = tmp_path / "broken" / "run"
    assert load_state(broken / "latest_state.pt")["position"]["step"] == 4
    train_run("broken", images, *flags, "--continue_train")
    assert_same_run(whole, broken)


def test_workers_change_nothing(train_run: Trained, data: DataMaker) -> None:
    runs = [train_run(str(n), data(), *RUN, "--max_iters", 5, "--num_threads", n) for n in (0, 2)]
    states = [load_state(run / "latest_state.pt") for run in runs]
    assert_equal(states[0], states[1])


def test_how_often_is_logged_changes_nothing(train_run: Trained, data: DataMaker) -> None:
    """Monitors and gradient norms are looked at only: with batch norm and dropout too."""
    flags = (*RUN, *CUTCAM, "--normG", "batch", "--no_dropout", False, "--panel_freq", 1)
    often = train_run("often", data(labelled=(0, 1)), *flags, "--monitor_freq", 1)
    rarely = train_run("rarely", data(labelled=(0, 1)), *flags, "--monitor_freq", 0, "--print_freq", 1000)
    assert len(logged(often)) == 9
    assert (rarely / "log.jsonl").read_text().count("\n") == 1  # the last step
    assert_equal(load_state(often / "latest_state.pt"), load_state(rarely / "latest_state.pt"))


def test_a_state_inside_an_epoch_needs_the_same_batches(
    train_run: Trained, data: DataMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", lambda: StopAfter(4))
        train_run("run", data(), *RUN)
    with pytest.raises(
        CheckpointError, match=r"inside an epoch of 3 steps and 5 samples, and an epoch now has 5 and 5;"
    ):
        train_run("run", data(), *RUN, "--batch_size", 1, "--continue_train")
    with pytest.raises(CheckpointError, match=r"of 3 steps and 5 samples, and an epoch now has 3 and 6; .*_per_epoch"):
        train_run("run", data(), *RUN, "--samples_per_epoch", 6, "--continue_train")  # another place in the data
    with pytest.raises(CheckpointError, match=r"does not fit the options.*leave out the changed flags"):
        train_run("run", data(), *RUN, "--ngf", 4, "--continue_train")


def test_a_network_that_the_state_lacks_is_named(train_run: Trained, data: DataMaker) -> None:
    train_run("run", data(), *RUN, "--lambda_GAN", 0, "--max_iters", 1)
    with pytest.raises(CheckpointError, match=r"holds no network D, which the options of this command ask for"):
        train_run("run", data(), *RUN, "--lambda_GAN", 1, "--max_iters", 2, "--continue_train")


def test_a_loss_may_be_taken_back(train_run: Trained, data: DataMaker) -> None:
    """The run's own options then hold flags that no option of this run has."""
    train_run("run", data(), *RUN, "--extra_losses", "src", "--lambda_SRC", 0.1, "--max_iters", 1)
    run = train_run("run", data(), *RUN, "--extra_losses", "", "--max_iters", 2, "--continue_train")
    assert load_state(run / "latest_state.pt")["position"]["step"] == 2
    assert "lambda_SRC" not in (run / "options.yaml").read_text()
