"""Mistakes as the shell sees them, and what is no mistake."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from options.parse import train_options
from tests.commands import ROOT, run, tree
from tests.mistakes.one_line import TRAIN, USE
from util.errors import exit_code

# --- what is no mistake


def test_the_last_of_two_equal_flags_counts_everywhere() -> None:
    flags = "--dataroot x --name a --lr 1 --model cut --nce_idt --lr 2 --model cutcam --name b"
    options = train_options(shlex.split(flags))
    assert (options.experiment.name, options.experiment.model, options.optim.lr) == ("b", "cutcam", 2.0)


def test_a_size_that_is_rounded_is_said(home: Path) -> None:
    flags = f"{TRAIN} --model cut --name rounded --preprocess resize --load_size 33 --max_iters 1"
    outcome = run("train", flags, home)
    assert outcome.status == 0, outcome.err
    assert "--load_size 33,33: resnet_6blocks needs multiples of 4; images come to 32,32" in outcome.out


# --- as real commands


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("train.py", f"{TRAIN} --model cutcam --cam_layer 9", "--cam_layer 9: --nce_layers names 5 layers"),
        ("cam_infer.py", f"{USE} --epoch 500", "--epoch 500: *does not exist; there are: latest"),
    ],
)
def test_a_real_command_prints_one_line_and_ends_with_2(home: Path, script: str, flags: str, expected: str) -> None:
    before = tree(home)
    command = [sys.executable, str(ROOT / script), *shlex.split(flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert all(word in result.stderr for word in expected.split("*"))
    assert tree(home) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise error

    assert exit_code(fails) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: out of memory: lower --batch_size, --crop_size or --ngf")


def test_a_bug_is_no_mistake_of_the_user() -> None:
    def fails() -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        exit_code(fails)
