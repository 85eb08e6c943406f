"""Good and bad files of every kind, through the data sets: right pixels, or named and, where asked, passed over."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data import checkup
from data.bad_images import BAD_IMAGES_FILE
from data.base import DataError
from data.checkup import check_kept, check_up, other_channels, require_usable, say_other_channels, say_skipped
from tests.data.image_files import pillow
from tests.data.kinds_of_files import (
    GOOD,
    GRAY16,
    KINDS,
    PICTURE,
    WINDOWS,
    big_endian_tiff,
    fill,
    one_line,
    open_set,
    put,
    read_all,
)
from util.errors import UserError

if TYPE_CHECKING:
    from tests.conftest import BenchMaker, DataMaker


@pytest.mark.parametrize("case", [case for case in KINDS if KINDS[case].want is not None])
def test_every_kind_that_is_read_gives_its_own_pixels(tmp_path: Path, case: str) -> None:
    kind = KINDS[case]
    dataset = open_set(fill(tmp_path, kind), depth=kind.depth)
    (sample,) = [sample for sample in read_all(dataset) if sample.path_A == f"trainA/{kind.name}"]
    low, high = WINDOWS[kind.depth]
    assert kind.want is not None
    want = torch.from_numpy((kind.want.astype(np.float64) - low) / (high - low) * 2 - 1)
    want = want.permute(2, 0, 1) if want.ndim == 3 else want.expand(3, -1, -1)
    torch.testing.assert_close(sample.A.double(), want, atol=2 * kind.off / (high - low) + 1e-6, rtol=0)
    assert (sample.skipped, dataset.bad_images) == ((), [])


@pytest.mark.parametrize("case", [case for case in KINDS if KINDS[case].want is None])
def test_every_kind_that_cannot_be_read_is_named_or_passed_over(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = KINDS[case]
    started, shown = time.monotonic(), kind.name.encode("unicode_escape").decode()
    fill(tmp_path, kind)
    with pytest.raises(UserError, match=re.escape(shown)) as caught:
        read_all(open_set(tmp_path, depth=kind.depth))
    assert "--on_bad_image skip" in str(caught.value)
    assert all(one_line(line) for line in str(caught.value).split("\n"))

    dataset = open_set(tmp_path, "--on_bad_image", "skip", depth=kind.depth)
    samples = read_all(dataset)
    assert {sample.path_A for sample in samples} == set(dataset.file_names["source"]) - {f"trainA/{kind.name}"}
    lines = [*dataset.bad_images, *dict.fromkeys(line for sample in samples for line in sample.skipped)]
    assert len(lines) == 1
    assert lines[0].startswith(f"trainA/{shown}: ")
    assert len(lines[0]) > len(f"trainA/{shown}: ") + 8  # with a reason
    assert one_line(lines[0])
    assert ("WARNING: 1 bad image is left out" in capsys.readouterr().err) == bool(dataset.bad_images)
    assert time.monotonic() - started < 5  # bombs and pipes would take for ever


# --- the look at the headers


def names_of(files: Sequence[Path]) -> list[str]:
    return [file.name for file in files]


def test_one_error_names_every_bad_file_of_both_domains(tmp_path: Path) -> None:
    fill(tmp_path)
    put(tmp_path, "trainA/sub/b.png trainA/a.png")
    put(tmp_path, "trainB/page.png", b"<html>")
    with pytest.raises(DataError) as caught:
        open_set(tmp_path)
    first, *lines = str(caught.value).split("\n")
    assert first == (
        f"2 of 5 files of {tmp_path / 'trainA'} and 1 of 4 files of {tmp_path / 'trainB'} cannot be used; "
        "repair or remove them, or leave them out with --on_bad_image skip:"
    )
    assert [line.split(": ")[0] for line in lines] == ["  trainA/a.png", "  trainA/sub/b.png", "  trainB/page.png"]
    assert lines[0] == "  trainA/a.png: it is empty (0 bytes)"


def test_where_no_file_is_left_skipping_is_an_error_too(tmp_path: Path) -> None:
    fill(tmp_path)
    put(tmp_path, "testA/a.png testA/b.png")
    found = check_up(tmp_path / "testA", most=50)
    with pytest.raises(
        DataError, match=r"2 of 2 files of .*testA cannot be used; none is left: .*\n .*a.png: .*\n .*b"
    ):
        require_usable([check_up(tmp_path / "trainA", most=50), found], skip=True)


def test_leaving_out_gives_what_the_folder_without_them_gives(tmp_path: Path) -> None:
    """The same files, numbers, window and samples: also with a limit, a window of percentiles, and labels."""
    for name in ("with", "without"):
        root = tmp_path / name
        for side, number in itertools.product("AB", range(6)):
            image = (GRAY16 // 3 + 500 * number + 100 * (side == "B")).astype(np.uint16)
            (root / f"train{side}").mkdir(parents=True, exist_ok=True)
            (root / f"train{side}/{number}.png").write_bytes(pillow(Image.fromarray(image), "png"))
        (root / "labels.csv").write_text("file,label_id\n" + "".join(f"trainA/{n}.png,{n}\n" for n in range(6)))
    put(tmp_path / "with", "trainA/00.png trainA/2b.png trainB/1a.png trainB/9.png")
    put(tmp_path / "with", "trainA/2a.png trainB/+.png", GOOD["uint8"])  # of another depth
    flags = ("--on_bad_image", "skip", "--window_A", "10%,90%", "--window_B", "auto", "--max_dataset_size", 4)
    one, other = (open_set(tmp_path / name, *flags) for name in ("with", "without"))
    assert one.file_names == other.file_names
    assert one.file_names["source"] == [f"trainA/{n}.png" for n in range(4)]
    assert (one.source, one.target, one.labels) == (other.source, other.target, [0, 1, 2, 3])
    for a, b in zip(read_all(one), read_all(other), strict=True):
        assert torch.equal(a.A, b.A)
        assert (a.path_A, a.path_B, a.label_A) == (b.path_A, b.path_B, b.label_A)
    assert [line.split(": ")[0] for line in one.bad_images] == [
        *("trainA/00.png", "trainA/2a.png", "trainA/2b.png"),
        *("trainB/+.png", "trainB/1a.png"),  # 9.png is beyond the limit
    ]
    assert "it is uint8 and its domain uint16" in one.bad_images[1]


def test_only_files_that_will_be_read_are_looked_at(tmp_path: Path) -> None:
    put(tmp_path, "a.png b.png c.png", GOOD["uint8"])
    put(tmp_path, "0.png x.png")
    found = check_up(tmp_path, most=2)
    assert (names_of(found.files), found.numbers, found.examined) == (["a.png", "b.png"], [1, 2], 3)
    assert [bad.path.name for bad in found.bad] == ["0.png"]
    assert check_up(tmp_path, most=99).examined == 5


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.decoders._decode_cv2", None)
    monkeypatch.setattr("data.decoders._decode_pillow", None)
    put(tmp_path, "a.png", GOOD["uint8"])
    put(tmp_path, "b.tif", pillow(PICTURE, "tiff"))
    assert len(check_up(tmp_path, most=9).files) == 2


def test_a_split_of_another_depth_than_the_run_is_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.png b.png", GOOD["uint8"])
    for skip in (False, True):
        with pytest.raises(DataError, match=r"its 2 files are uint8 and the run's window is for uint16; .*$") as caught:
            require_usable([check_up(tmp_path, most=9, depth="uint16")], skip)
        assert "\n" not in str(caught.value)
    put(tmp_path, "c.png")
    with pytest.raises(DataError, match=r"3 of 3 files of .*\n  .*a.png: it is uint8 and its domain uint16"):
        require_usable([check_up(tmp_path, most=9, depth="uint16")], skip=False)


class TestDenied:
    """What the system does not let us read is named. Root may read everything: then only the first test can run."""

    def test_in_place_of_the_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "a.png closed.png sub/b.png sub/deep/c.png", GOOD["uint8"])
        scan, read = os.scandir, Path.open

        def scandir(path: Any) -> Any:
            if Path(path).name == "sub":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        def opened(self: Path, *rest: Any, **more: Any) -> Any:
            if self.name == "closed.png":
                raise PermissionError(13, "Permission denied", str(self))
            return read(self, *rest, **more)

        monkeypatch.setattr(os, "scandir", scandir)
        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(os, "listdir", scandir)
        found = check_up(tmp_path, most=9)
        assert names_of(found.files) == ["a.png"]
        assert [bad.path.name for bad in found.bad] == ["closed.png", "sub"]
        assert "Permission denied" in found.bad[0].reason
        assert found.bad[1].reason == "it is a folder that cannot be listed (Permission denied)"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read what its permissions deny")
    def test_by_the_system(self, tmp_path: Path) -> None:
        put(tmp_path, "a.png closed.png sub/b.png half/c.png", GOOD["uint8"])
        modes = {"closed.png": 0o000, "sub": 0o000, "half": 0o400}  # half: listed, but its files cannot be reached
        for name, mode in modes.items():
            (tmp_path / name).chmod(mode)
        try:
            found = check_up(tmp_path, most=9)
        finally:
            for name in modes:
                (tmp_path / name).chmod(0o700)
        assert names_of(found.files) == ["a.png"]
        assert [bad.path.name for bad in found.bad] == ["closed.png", "c.png", "sub"]
        assert all("ermission denied" in bad.reason for bad in found.bad)


def test_the_console_shows_ten_and_the_file_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    put(tmp_path, " ".join(f"trainA/x{n:02d}.png" for n in range(13)))
    dataset = open_set(tmp_path, "--on_bad_image", "skip", "--name", "r")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "WARNING: 13 bad images are left out (--on_bad_image skip):"
    assert lines[1:11] == [f"  trainA/x{n:02d}.png: it is empty (0 bytes)" for n in range(10)]
    assert lines[11:] == ["  ... and 3 more"]
    dataset.list_bad_images(tmp_path, ["trainA/y.png: later"])
    assert capsys.readouterr().err == f"the bad images are named in {tmp_path / BAD_IMAGES_FILE}\n"
    kept = (tmp_path / BAD_IMAGES_FILE).read_text().splitlines()
    assert kept == [*(f"trainA/x{n:02d}.png: it is empty (0 bytes)" for n in range(13)), "trainA/y.png: later"]
    dataset.bad_images.clear()
    dataset.list_bad_images(tmp_path)
    assert not (tmp_path / BAD_IMAGES_FILE).exists()
    say_skipped([])
    assert capsys.readouterr().err == ""


def test_a_bar_appears_where_it_takes_long_and_never_when_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, " ".join(f"{n}.png" for n in range(30)), GOOD["uint8"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    check_up(tmp_path, most=99)
    assert capsys.readouterr().err == ""
    look = checkup._look_at_one

    def slowly(file: Path) -> checkup.Kind | checkup.BadImage:
        time.sleep(0.01)
        return look(file)

    monkeypatch.setattr("util.visual.progress.PATIENCE", 0.05)
    monkeypatch.setattr(checkup, "_look_at_one", slowly)
    check_up(tmp_path, most=99, quiet=True)
    assert capsys.readouterr().err == ""
    check_up(tmp_path, most=99)
    assert "headers of" in capsys.readouterr().err


def test_looking_leaves_the_warnings_of_the_process_alone(tmp_path: Path) -> None:
    """Pillow's TIFF reader is told by a setting of the whole process to be strict, which threads would leave behind."""
    put(tmp_path, " ".join(f"{n}.tif" for n in range(300)), big_endian_tiff(GRAY16))
    before = list(warnings.filters)
    assert len(check_up(tmp_path, most=999).files) == 300
    assert list(warnings.filters) == before


def test_the_few_files_of_other_channels_are_found_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.random.default_rng(0).integers(0, 65535, (8, 8)).astype(np.uint16)
    folder, colours, alike = tmp_path / "trainB", np.dstack([grey, grey // 2, grey]), np.dstack([grey] * 3)

    def few(*images: np.ndarray) -> list[str]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / f"{number}.png"), image)
        return [file.name for file in other_channels(check_up(folder, most=99))]

    assert few(grey, colours, grey) == ["1.png"]
    say_other_channels(check_up(folder, most=99))
    say_other_channels(check_kept(folder, sorted(folder.iterdir()), depth="uint16"))
    expected = (
        "WARNING: trainB: 1 of 3 images has 3 channels and the others 1: 1.png; convert it to 1 channel or take it out "
        "of the folder; a window that is chosen from the images is chosen from all of them\n"
    )
    assert capsys.readouterr().err == expected * 2
    assert few(colours, colours, grey) == ["2.png"]
    assert few(grey, alike, grey) == few(alike, alike, grey) == [], "equal channels are grey"
    assert few(grey, colours) == few(grey, grey) == few(colours) == []
    say_other_channels(check_up(folder, most=99))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("model", ["cut", "classifier --num_classes 4"])
def test_a_training_that_begins_names_the_files_of_other_channels(
    model: str, bench: BenchMaker, data: DataMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data(count=(12, 12)), root)
    file = root / "trainA" / "03.png"
    with Image.open(file) as picture:
        picture.convert("L").save(file)
    bench("--model", *model.split(), data=root)
    assert "WARNING: trainA: 1 of 12 images has 1 channel and the others 3: 03.png; " in capsys.readouterr().err


def test_a_spread_choice_is_a_sample_of_all_names_and_replaces_bad_files(tmp_path: Path) -> None:
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), np.full((8, 8), number, np.uint8))
    found = check_up(tmp_path, most=4, quiet=True, spread=True)
    assert [file.stem for file in found.files] == ["00", "03", "06", "09"]
    assert found.numbers == [0, 3, 6, 9]
    (tmp_path / "06.png").write_bytes(b"not an image")
    found = check_up(tmp_path, most=4, quiet=True, spread=True)
    assert [file.stem for file in found.files] == ["00", "01", "03", "09"]
    assert [bad.path.stem for bad in found.bad] == ["06"]
    assert check_up(tmp_path, most=99, quiet=True, spread=True).numbers == [*range(6), *range(7, 12)]


def test_files_of_several_pages_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, KINDS["several pages"])
    read_all(open_set(tmp_path))
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1
    assert "of several pages only the first is read; split these files to use all: trainA/x.tif" in said
