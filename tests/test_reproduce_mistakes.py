"""What the experiment does with mistakes in its command, and with a signal at a bad moment."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from options.schema import OptionError
from scripts import reproduce
from scripts.reproducing.bench import Stage
from scripts.reproducing.listing import arms_of
from scripts.reproducing.plan import BUDGETS
from scripts.reproducing.report import write_report
from tests.commands import ROOT
from tests.comparing.conftest import content, number, write

# A program that takes a while to save, started from a main thread as reproduce.py starts the first run and the data.
_PROGRAM = """
import signal, sys, time
from pathlib import Path
def save(number, frame):
    time.sleep(1)
    Path({folder!r}, "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
Path({folder!r}, "ready").touch()
time.sleep(60)
"""
_PARENT = """
import signal
from pathlib import Path
from scripts.reproduce import _stop
from scripts.reproducing.launching import Quiet, launch
from util.errors import exit_code
signal.signal(signal.SIGTERM, _stop)
start = {start}
raise SystemExit(exit_code(lambda: start({program!r}) or 0))
"""


@pytest.mark.parametrize("start", ["launch", "Quiet(1).into(Path('console.txt'))"])
def test_sigterm_lets_the_program_save_and_leaves_none_behind(start: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM.format(folder=str(tmp_path)))
    code = _PARENT.format(start=start, program=str(program))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) as parent:
        until = time.monotonic() + 120
        while not (tmp_path / "ready").exists():
            assert parent.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 130
    assert (tmp_path / "saved").exists(), "it was waited for"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--jobs 0", "--jobs 0: give a whole number of at least 1"),
        ("--seeds -1", "--seeds -1: --stage screen has the seeds 101 to 102; give 1 to 2"),
        ("--seeds 0", "--seeds 0: --stage screen has the seeds 101 to 102; give 1 to 2"),
        ("--seeds 6", "--seeds 6: --stage screen has the seeds 101 to 102; give 1 to 2"),
        ("--stage confirm --seeds 101", "--seeds 101: --stage confirm has the seeds 1 to 100; give 1 to 100"),
        ("--iterations 0", "--iterations 0: give a whole number of at least 1"),
        ("--size -4", "--size -4: give a whole number of at least 1"),
        ("--ngf 0", "--ngf 0: give a whole number of at least 1"),
        ("--train 0", "--train 0: give a whole number of at least 1"),
        (
            "--flags '--lr \"1'",
            '--flags --lr "1: No closing quotation; write them as in a shell, in one pair of quotes',
        ),
        ("--flags=--help", "--flags --help: --help trains nothing; leave it out"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_any_work(flags: str, message: str, tmp_path: Path) -> None:
    words = ["--suite", "infrared", "--arms", "cls", "--out", str(tmp_path / "out"), *shlex.split(flags)]
    with pytest.raises(OptionError) as raised:
        reproduce.main(words)
    assert str(raised.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("suite", "arms", "flags", "who"),
    [
        ("infrared", ("cut",), "--gpu_idss 0", "cut"),
        ("infrared", ("cut",), "--lr fast", "cut"),
        ("infrared", ("cut", "cycle_gan"), "--num_patches 8", "cycle_gan"),
        ("infrared", ("teacher",), "--lambda_NCE 2", "the classifier"),
    ],
)
def test_flags_that_train_py_refuses_are_refused_before_data_are_made(
    suite: str, arms: tuple[str, ...], flags: str, who: str, tmp_path: Path
) -> None:
    def never(script: str, *arguments: object) -> None:
        raise AssertionError(script)

    stage = Stage(tmp_path / "out", suite, "screen", BUDGETS["cpu"], arms, (101,), None, flags)
    with pytest.raises(OptionError) as raised:
        stage.begin(never)
    assert str(raised.value).startswith(f"--flags {flags}: train.py refuses them for {who}: --")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def fill(out: Path, arms: Mapping[str, float], steps: Mapping[str, int]) -> None:
    """A screen of one seed: by arm, its KID and its steps; all but CUT gain as much over it."""
    for arm, kid in arms.items():
        gain = 0.0 if arm == "cut" else 0.1
        metrics = {"flip_rate": number(0.5 - gain), "acc_train_fake": number(0.5 + gain, "higher"), "kid": number(kid)}
        found = content(f"{arm}_s101", 101, "4", metrics=metrics, step=steps.get(arm, 720))
        write(out / "sar" / "screen" / "checkpoints", found)
    settings = {"size": 32, "ngf": 8, "batch": 2, "iterations": 720}
    (out / "sar" / "screen" / "settings.json").write_text(json.dumps(settings))


def test_a_choice_that_no_longer_holds_is_not_confirmed(tmp_path: Path) -> None:
    fill(tmp_path, {"cut": 0.1, "cls": 0.1}, {})
    write_report(tmp_path)
    assert arms_of("", "confirm", tmp_path)[-1] == "cls"
    fill(tmp_path, {"cut": 0.1, "cls": 0.9}, {})
    assert "None is chosen" in write_report(tmp_path).read_text()
    with pytest.raises(
        OptionError, match=r"choice.json is missing: .* no arm was chosen; run --stage screen first, or"
    ):
        arms_of("", "confirm", tmp_path)


def test_the_report_says_the_steps_that_were_done(tmp_path: Path) -> None:
    fill(tmp_path, {"cut": 0.1, "cls": 0.1}, {"cut": 600, "cls": 600})
    assert "- sar, screen: 2 runs of 600 steps (" in write_report(tmp_path).read_text()
    fill(tmp_path, {"cut": 0.1, "cls": 0.1}, {"cls": 480})
    assert "- sar, screen: 2 runs of 480 to 720 steps (" in write_report(tmp_path).read_text()
