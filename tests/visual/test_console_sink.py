"""The console line is CUT's, on screen and in loss_log.txt."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from tqdm import tqdm

from util.visual.base import Moment
from util.visual.console import ConsoleSink, console_line

MOMENT = Moment(epoch=1, epoch_iters=100, step=25, total_iters=100, seconds=0.1234, data_seconds=0.002)
LINE = "(epoch: 1, iters: 100, time: 0.123, data: 0.002) G_GAN: 0.412 D_real: 0.250"
VALUES = {"G_GAN": 0.4123, "D_real": 0.25}


def test_line_is_cuts() -> None:
    assert console_line(MOMENT, VALUES) == LINE


def test_line_parses_as_scripts_for_cut_do() -> None:
    values = {"NCE": float("nan"), "CAM": -1.5, "lr": 2e-4}
    number = r"-?(\d+\.\d{3}|nan|inf)"
    form = rf"\(epoch: \d+, iters: \d+, time: {number}, data: {number}\)( \w+: {number})+"
    rate = " lr: 0.0002"
    line = console_line(MOMENT, values)
    assert line.endswith(rate)
    assert re.fullmatch(form, line.removesuffix(rate))


def test_printed_and_kept_under_a_dated_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # a run and its continuation
        sink = ConsoleSink(tmp_path / "run")
        sink.scalars(MOMENT, VALUES)
        sink.close()
    assert capsys.readouterr().out == f"{LINE}\n{LINE}\n"
    lines = (tmp_path / "run" / "loss_log.txt").read_text().splitlines()
    assert lines[1::2] == [LINE, LINE]
    for header in lines[::2]:
        assert re.fullmatch(r"=+ Training Loss \(\w{3} \w{3} .\d \d\d:\d\d:\d\d \d{4}\) =+", header)


def test_monitors_are_kept_but_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleSink(tmp_path).scalars(MOMENT, {**VALUES, "CAM_corr": 0.5, "grad_NCE": 2.0, "lr": 0.1})
    assert capsys.readouterr().out == LINE + "\n"
    assert f"{LINE} CAM_corr: 0.500 grad_NCE: 2.000 lr: 0.1\n" in (tmp_path / "loss_log.txt").read_text()


def test_quiet_writes_the_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleSink(tmp_path, quiet=True).scalars(MOMENT, VALUES)
    assert capsys.readouterr().out == ""
    assert LINE in (tmp_path / "loss_log.txt").read_text()


def test_a_bar_does_not_run_into_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar_text = io.StringIO()
    with tqdm(total=3, file=bar_text) as bar:
        bar.update()
        ConsoleSink(tmp_path).scalars(MOMENT, VALUES)
    assert capsys.readouterr().out == LINE + "\n"
