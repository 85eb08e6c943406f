"""The fan-out to sinks, and which losses share a chart."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from util.visual.base import Moment, Sinks, group_of, grouped

MOMENT = Moment(epoch=1, epoch_iters=100, step=50, total_iters=100, seconds=0.123, data_seconds=0.002)


class Recorder:
    """Keeps the names of its calls; raises `error` in the call named `fails_in`."""

    def __init__(self, fails_in: str = "", error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.fails_in, self.error = fails_in, error or TypeError("a bug")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails_in:
            raise self.error

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        self._note("scalars")

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        self._note("images")

    def close(self) -> None:
        self._note("close")


def test_every_sink_gets_every_call_in_order() -> None:
    first, second = Recorder(), Recorder()
    with Sinks([first, second]) as sinks:
        sinks.scalars(MOMENT, {"NCE": 1.0})
        sinks.images(MOMENT, {})
    assert first.calls == second.calls == ["scalars", "images", "close"]
    sinks.close()
    assert first.calls[-2:] == ["images", "close"], "a second close does nothing"


def test_a_sink_that_raises_is_named_once_and_switched_off() -> None:
    bad, good, said = Recorder(fails_in="scalars"), Recorder(), list[str]()
    sinks = Sinks([bad, good], report=said.append)
    for _ in range(3):
        sinks.scalars(MOMENT, {})
    sinks.images(MOMENT, {})
    sinks.close()
    assert bad.calls == ["scalars", "close"]
    assert good.calls == ["scalars"] * 3 + ["images", "close"]
    assert said == ["WARNING: Recorder failed and is switched off, training goes on (TypeError: a bug)"]


def test_a_sink_that_cannot_write_is_named_once_and_tried_again() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "folder/file")
    bad, good, said = Recorder("scalars", full), Recorder(), list[str]()
    sinks = Sinks([bad, good], report=said.append)
    for _ in range(3):
        sinks.scalars(MOMENT, {})
    bad.fails_in = ""
    sinks.images(MOMENT, {})
    sinks.close()
    assert bad.calls == good.calls == ["scalars"] * 3 + ["images", "close"]
    why = f"folder/file: {os.strerror(errno.ENOSPC)}"
    assert said == [f"WARNING: Recorder failed and will be tried again, training goes on ({why})"]


def test_a_sink_that_fails_in_close_does_not_end_the_run() -> None:
    said: list[str] = []
    last = Recorder()
    Sinks([Recorder(fails_in="close"), last], report=said.append).close()
    assert len(said) == 1
    assert last.calls == ["close"]


def test_the_usual_report_is_a_line_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    Sinks([Recorder(fails_in="images")]).images(MOMENT, {})
    assert capsys.readouterr().err.startswith("WARNING: Recorder failed and is switched off")


def test_an_error_stream_that_is_gone_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    sink = Recorder(fails_in="images")
    Sinks([sink]).images(MOMENT, {})
    assert sink.calls == ["images", "close"]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("G_GAN", "adversarial"),
        ("D_real", "adversarial"),
        ("D_A", "adversarial"),
        ("G", "total"),
        ("G_A", "adversarial"),
        ("D", "adversarial"),
        ("GAN_B", "adversarial"),
        ("NCE", "contrastive"),
        ("NCE_Y", "contrastive"),
        ("CAM", "cam"),
        ("CLS", "cam"),
        ("CLS_B", "cam"),
        ("head_acc_A", "attention"),
        ("header", "monitors"),
        ("cam_entropy", "monitors"),
        ("grad_GAN", "gradients"),
        ("head_share_car", "class shares"),
        ("head_classes", "monitors"),
        ("lr", "learning rate"),
        ("lrs", "monitors"),
        ("eval_kid", "KID"),
        ("eval_fid", "FID"),
        ("eval_lpips", "evaluation"),
        ("eval_CAM_energy_fake", "evaluation of maps"),
        ("eval_flip_rate", "evaluation of classes"),
        ("eval_f_score", "evaluation of variety"),
        ("DCL", "monitors"),
        ("idt", "monitors"),
    ],
)
def test_groups(name: str, group: str) -> None:
    assert group_of(name) == group


def test_grouped_keeps_the_order_and_drops_empty_groups() -> None:
    assert grouped(["lr", "NCE", "D_real", "NCE_Y"]) == {
        "adversarial": ["D_real"],
        "contrastive": ["NCE", "NCE_Y"],
        "learning rate": ["lr"],
    }
    assert grouped(["a", "b"], {"first": "a"}) == {"first": ["a"], "monitors": ["b"]}
