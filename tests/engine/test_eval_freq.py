"""`--eval_freq`: an epoch's weights are measured while training, which goes on as if it had not been."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from scripts.evaluating import while_training
from scripts.evaluating.while_training import EpochEvaluation
from tests.commands import run as run_script
from util.engine.signals import StopRequest

if TYPE_CHECKING:
    from tests.conftest import DataMaker, Trained

RUN = ("--model", "cut", "--n_epochs", 2, "--n_epochs_decay", 0, "--eval_phase", "train")


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same_weights(one: Path, two: Path, name: str) -> bool:
    ours, theirs = (torch.load(run / f"latest_net_{name}.pth", weights_only=True) for run in (one, two))
    return all(torch.equal(value, theirs[key]) for key, value in ours.items())


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    """What was logged of each evaluation, by epoch."""
    return {
        line["epoch"]: {name: value for name, value in line.items() if name.startswith("eval_")}
        for line in logged(folder)
        if any(name.startswith("eval_") for name in line)
    }


@pytest.mark.slow
def test_training_is_the_same_and_the_log_has_the_numbers_of_evaluate_py(train_run: Trained, data: DataMaker) -> None:
    asked = ("--eval_freq", 2, "--eval_metrics", "ssim,cc", "--eval_num", 3)
    watched = train_run("watched", data(), *RUN, *asked)
    alone = train_run("alone", data(), *RUN)
    for name in "GDF":
        assert same_weights(watched, alone, name)
    found = evaluations(watched)
    assert list(found) == [2]  # after every second epoch
    record = json.loads((watched / "evaluations/train_2.json").read_text())
    assert len(record["per_image"]["file"]) == 3
    measured = {
        f"eval_{name}": entry["value"] for name, entry in record["metrics"].items() if entry["value"] is not None
    }
    assert found[2] == pytest.approx(measured)
    assert {"eval_ssim_input", "eval_cc_input"} <= set(measured)
    assert (watched / "evaluations/train_2/report.html").is_file()


def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(text)
    monkeypatch.setattr(while_training, "PROGRAM", file)


def test_one_that_fails_is_a_warning(
    train_run: Trained,
    data: DataMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program(tmp_path, monkeypatch, "import sys\nsys.exit('error: the judge has gone home\\n')")
    run = train_run("fails", data(), *RUN, "--eval_freq", 1)
    said = capsys.readouterr().err
    for epoch in (1, 2):
        assert f"WARNING: the evaluation of epoch {epoch} failed, training goes on: error: the judge" in said
    assert evaluations(run) == {}
    assert logged(run)[-1]["epoch"] == 2


def test_it_is_left_off_when_the_training_is_asked_to_stop(
    train_run: Trained, data: DataMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    steps = 5  # of an epoch; the request comes with the second question of the evaluation

    class Later(StopRequest):
        asked = 0

        def listen(self) -> StopRequest:
            return self

        def agreed(self) -> bool:
            self.asked += 1
            return self.asked >= steps + 2

    monkeypatch.setattr("train.StopRequest", Later)
    flags = (*RUN, "--eval_freq", 1, "--save_epoch_freq", 1)
    run = train_run("left", data(), *flags)
    assert evaluations(run) == {}
    assert not (run / "2_net_G.pth").exists()
    monkeypatch.undo()
    program(tmp_path, monkeypatch, "raise SystemExit(0)")
    train_run("left", data(), *flags, "--continue_train")
    other = train_run("other", data(), *RUN)
    assert same_weights(run, other, "G")


def test_what_it_lacks_is_said_before_the_first_step(data: DataMaker, tmp_path: Path) -> None:
    start = f"--dataroot {data()} --name run --gpu_ids -1 --display_id 0 --eval_freq 1"
    for flags, words in (
        ("", "has no testA"),
        ("--eval_phase val", "has no valA"),
        ("--eval_phase train --eval_metrics ssim,sim", "'ssim'"),
        ("--model classifier", "--eval_freq 1: --model classifier does not translate"),
    ):
        outcome = run_script("train", f"{start} {flags}", tmp_path)
        assert outcome.status == 2
        assert words in outcome.err
        assert not (tmp_path / "checkpoints").exists()


def test_the_command_is_one_a_user_could_type(data: DataMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from options.parse import train_options

    (data() / "valA").mkdir(exist_ok=True)
    run = train_options(["--dataroot", str(data()), "--name", "n", "--eval_freq", "3", "--gpu_ids", "-1"])
    command = EpochEvaluation(run).command(3)
    (data() / "valA").rmdir()
    assert command[:2] == [sys.executable, str(while_training.PROGRAM)]
    assert {"--phase=val", "--epochs=3", "--name=n", "--skip_metrics=transfer", "--gpu_ids=-1"} <= set(command)
    assert "--on_bad_image=error" in command  # the run's own: an evaluation does not read it from the run
