"""--input and --output: one picture, a folder, a pattern or a video, without a data set."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cam_infer
import test as entry_test
from data.bad_images import BAD_IMAGES_FILE
from data.decoders import read_raw
from models import load_run
from options.groups import Explanation, Given, Inference
from options.parse import inference_options
from options.schema import OptionError
from tests.conftest import picture
from tests.data.kinds_of_files import short_png
from tests.runs import COUNTS, CUTCAM, make_run
from util.errors import exit_code

Main = Callable[..., tuple[int, str, str]]
GREY = ("--input_nc", "1", "--output_nc", "1")
NAMES = {0: "disc", 1: "frame", 2: "bars", 3: "cross"}


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("ck") / "colour", *CUTCAM, classes=NAMES)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("ck") / "deep", *CUTCAM, *GREY, formats=COUNTS)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """`command(module, *words)` -> status, stdout, stderr, in this process."""

    def go(module: object, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x.py", *map(str, words), "--gpu_ids", "-1"])
        status = exit_code(module.main)  # type: ignore[attr-defined]
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return go


def test_one_picture_of_16_bits_becomes_one_of_16_bits(deep: Path, command: Main, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(900, 3100, (37, 45)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "photo.tif"), counts)
    status, out, err = command(
        entry_test, "--checkpoint", deep, "--input", tmp_path / "photo.tif", "--output", tmp_path / "out"
    )
    assert (status, out) == (0, f"1 picture translated: {tmp_path / 'out' / 'photo.png'}\n"), err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["photo.png"]
    written = read_raw(tmp_path / "out" / "photo.png")
    assert written.dtype == np.uint16
    assert written.shape == (37, 45)
    # By hand: A's window in, sides brought to multiples of 4 and back, B's window out.
    model = load_run(deep)
    unit = torch.from_numpy((counts.astype(np.float32) - 1000) / 2000).clamp(0, 1)[None, None]
    taken = torch.nn.functional.interpolate(unit, (36, 44), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        fake = model.nets["G"](taken * 2 - 1)
    own = torch.nn.functional.interpolate(fake, (37, 45), mode="bicubic", antialias=True).clamp(-1, 1)
    expected = 2000 + (own[0, 0].double().numpy() + 1) / 2 * 4000
    assert abs(written - expected).max() <= 1.0
    assert written.std() > 20


def test_a_folder_keeps_its_folders_and_a_pattern_picks(colour: Path, command: Main, tmp_path: Path) -> None:
    for i, name in enumerate(["a.png", "sub/b.png", "sub/c.png"]):
        (tmp_path / "in/sub").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), picture(i, 0, (33, 40), 3))
    (tmp_path / "in/notes.txt").write_text("no picture")
    words = ["--checkpoint", f"{colour}/", "--output", tmp_path / "out", "--input"]
    assert command(entry_test, *words, tmp_path / "in")[0] == 0
    found = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.png", "sub/b.png", "sub/c.png"]
    assert read_raw(tmp_path / "out/sub/b.png").shape == (33, 40, 3)
    assert command(entry_test, *words[:-2], tmp_path / "two", "--input", tmp_path / "in/sub/*.png")[0] == 0
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == ["b.png", "c.png"]
    status, out, _ = command(entry_test, *words[:-2], tmp_path / "few", "--input", tmp_path / "in", "--num_test", 2)
    assert (status, len(list((tmp_path / "few").rglob("*.png")))) == (0, 2)
    assert "2 of 3 images of --input are taken (--num_test)" in out


def test_cam_infer_explains_a_picture_given(colour: Path, command: Main, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture(0, 0, (33, 40), 3))
    words = ["--checkpoint", colour, "--input", tmp_path / "x.png", "--output", tmp_path / "out", "--class_idx", "2"]
    status, out, err = command(cam_infer, *words)
    assert status == 0, err
    assert "1 picture translated and explained" in out
    kinds = ("cam_input", "cam_output", "fake", "overlay_input", "overlay_output")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {*(f"x_{kind}.png" for kind in kinds), "cams.csv", "index.html", "page"}
    fake, cam = load_run(colour).translate(tmp_path / "x.png", explain=True, class_id=2)
    overlay_input, overlay_output = cam.overlays()
    for kind, expected in (("fake", fake), ("overlay_input", overlay_input), ("overlay_output", overlay_output)):
        written = read_raw(tmp_path / f"out/x_{kind}.png")
        assert abs(written.astype(int) - expected.astype(int)).max() <= 1, kind
    (row,) = csv.DictReader((tmp_path / "out/cams.csv").open())
    assert "2" in row.values()
    assert f"{cam.probability:.3f}"[:4] in "".join(row.values())


def test_explainers_take_the_picture_too(colour: Path, command: Main, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture(0, 0, (32, 40), 3))
    words = ["--checkpoint", colour, "--input", tmp_path / "x.png", "--output", tmp_path / "out"]
    status, _, err = command(cam_infer, *words, "--cam_method", "gradcam")
    assert status == 0, err
    assert (tmp_path / "out/colour/latest/explain_head/x_input_gradcam_overlay.png").is_file()


def test_a_video_becomes_videos_of_its_size_and_length(colour: Path, command: Main, tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (48, 32))
    for i in range(5):
        writer.write(picture(0, i, (32, 48), 3))
    writer.release()
    words = ["--checkpoint", colour, "--input", file, "--output", tmp_path / "out"]
    assert command(entry_test, *words)[0] == 0
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["clip_fake.mp4"]
    status, _, err = command(cam_infer, *words, "--batch_size", 2)
    assert status == 0, err
    for kind, width in (("fake", 48), ("overlay_input", 48), ("overlay_output", 48), ("all", 192)):
        video = cv2.VideoCapture(str(tmp_path / f"out/clip_{kind}.mp4"))
        assert video.get(cv2.CAP_PROP_FPS) == 10
        frames = []
        while (read := video.read())[0]:
            frames.append(read[1])
        assert len(frames) == 5
        assert frames[0].shape == (32, width, 3)
    rows = list(csv.DictReader((tmp_path / "out/clip_cams.csv").open()))
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("module", "name"), [(entry_test, "{}.png"), (cam_infer, "{}_fake.png")])
def test_amp_and_batches_hold_for_pictures_given(
    colour: Path, command: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    from models.cutcam_model import CutCamModel

    translate, seen = CutCamModel.translate_batch, list[int]()

    def watched(self: CutCamModel, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return translate(self, images)

    monkeypatch.setattr(CutCamModel, "translate_batch", watched)
    (tmp_path / "in").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"in/{number}.png"), picture(number, 0, (32 + 8 * (number == 1), 40), 3))

    def pictures(*flags: object) -> list[np.ndarray]:
        seen.clear()
        out = tmp_path / "_".join(["out", *map(str, flags)])
        status, said, err = command(module, "--checkpoint", colour, "--input", tmp_path / "in", "--output", out, *flags)
        assert status == 0, err
        assert said.startswith("5 pictures translated")
        return [read_raw(out / name.format(number)).astype(int) for number in range(5)]

    plain = pictures()
    assert seen == [1] * 5
    batched = pictures("--batch_size", 3)
    assert sorted(seen) == [1, 1, 3]
    rough = pictures("--amp", "bf16")
    assert max(abs(a - b).max() for a, b in zip(plain, batched, strict=True)) <= 1
    assert 0 < max(abs(a - b).max() for a, b in zip(plain, rough, strict=True)) < 40


def test_mistakes_are_one_line(colour: Path, deep: Path, command: Main, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture(0, 0, (32, 40), 3))
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    (tmp_path / "empty").mkdir()
    here = ["--checkpoint", colour]
    for words, message in (
        ([*here, "--input", tmp_path / "absent.png"], f"--input {tmp_path / 'absent.png'}: no such file or folder"),
        ([*here, "--input", ""], "--input '': is empty"),
        ([*here, "--output", "out"], "--output out: belongs to --input"),
        (
            [*here, "--input", tmp_path / "x.png", "--output", tmp_path / "y.PNG"],
            "y.PNG: is a file's name; give a folder",
        ),
        ([*here, "--input", tmp_path / "empty"], f"--input {tmp_path / 'empty'}: holds no image"),
        ([*here, "--input", tmp_path / "x.png", "--output", tmp_path], "x.png would be overwritten; give another"),
        ([*here, "--input", tmp_path / "clip.mp4", "--output", tmp_path / "o"], "cannot be opened as a video"),
        (["--checkpoint", deep, "--input", tmp_path / "clip.mp4"], "a video has 8 bits, and this run was trained on"),
        (["--checkpoint", deep, "--input", tmp_path / "x.png"], "it is uint8, and the run's images are uint16"),
        ([*here, "--name", "y", "--input", "x"], "stands for --name; give one of them"),
        (["--checkpoint", colour / "latest_net_G.pth", "--input", "x"], f"is a file; give its folder, {colour}"),
        (["--checkpoint", tmp_path / "none", "--input", "x"], "does not exist; give --name"),
        ([*here, "--input", tmp_path / "x.png", "--phase", "train"], "names the pictures, and so does --phase"),
        ([*here, "--input", "x", "--output", "o", "--results_dir", "r"], "and so does --results_dir; give one"),
    ):
        status, _, err = command(entry_test, *words)
        assert (status, err.count("\n")) == (2, 1), (words, err)
        assert message in err, (words, err)
    status, _, err = command(cam_infer, *here, "--input", tmp_path / "x.png", "--random", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert "names the pictures, and so does --random" in err


def test_checkpoint_stands_for_its_two_flags(colour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(colour)
    for words in ([f"--checkpoint={colour}"], ["--checkpoint", f"{colour}/../colour/"], ["--checkpoint", "."]):
        run = inference_options((Inference, Explanation, Given), words)
        assert run.folder.resolve() == colour.resolve()
        assert run.experiment.name == "colour"
    with pytest.raises(OptionError, match="is empty"):
        inference_options((), ["--checkpoint", ""])


@pytest.mark.parametrize(
    ("module", "flags", "below"),
    [
        (entry_test, (), ""),
        (cam_infer, (), ""),
        (cam_infer, ("--explain", "head", "--explain_with", "gradcam"), "colour/latest/explain_head"),
    ],
)
def test_bad_pictures_are_listed_beside_the_results(
    colour: Path, command: Main, tmp_path: Path, module: object, flags: tuple[str, ...], below: str
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), picture(number, 0, (40, 44), 3))
    (tmp_path / "photos/empty.png").touch()
    (tmp_path / "photos/short.png").write_bytes(short_png())
    words = ("--input", tmp_path / "photos", "--output", tmp_path / "out", "--on_bad_image", "skip", *flags)
    status, out, err = command(module, "--checkpoint", colour, *words)
    assert status == 0, err
    assert re.search(r"^2 (pictures translated|images explained)", out, re.M), "those that were written"
    lines = (tmp_path / "out" / below / BAD_IMAGES_FILE).read_text().splitlines()
    assert lines[0] == "photos/empty.png: it is empty (0 bytes)"
    assert [line.split(": ")[0] for line in lines] == ["photos/empty.png", "photos/short.png"]
    assert f"the bad images are named in {tmp_path / 'out' / below / BAD_IMAGES_FILE}\n" in err
