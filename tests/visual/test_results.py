"""Results: where pictures of inputs go, at which depth, and what the page shows."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import pytest
import torch

from data.images import DomainFormat, Window
from util.visual.results import Results

BYTES = DomainFormat(Window(0, 255), "uint8")
COUNTS = DomainFormat(Window(1000, 2000), "uint16")
FLOATS = DomainFormat(Window(-10, 40), "float32")
RAMP = torch.linspace(0, 1, 12).reshape(1, 3, 4)
DRAWING = np.full((3, 4, 3), 9, np.uint8)


def read(path: Path) -> np.ndarray:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array is not None, path
    return array


def written(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_files_mirror_the_inputs_folders(tmp_path: Path) -> None:
    results = Results(tmp_path, "images/{kind}/{stem}")
    results.add(Path("town/day/a.b.png"), {"real_A": (RAMP, BYTES), "drawn": DRAWING})
    results.add(Path("c.tif"), {"real_A": (RAMP, BYTES)})
    expected = {"images/real_A/town/day/a.b.png", "images/drawn/town/day/a.b.png", "images/real_A/c.png"}
    assert written(tmp_path) == expected
    np.testing.assert_array_equal(read(tmp_path / "images/drawn/town/day/a.b.png"), DRAWING)
    np.testing.assert_array_equal(read(tmp_path / "images/real_A/c.png").squeeze(), np.rint(RAMP[0].numpy() * 255))


def test_a_pattern_may_put_the_kind_behind_the_stem(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    results.add(Path("x/a.jpg"), {"fake": (RAMP, BYTES), "cam_input": DRAWING})
    assert written(tmp_path) == {"x/a_fake.png", "x/a_cam_input.png"}
    assert results.path("cam_input", "x/a", ".npy") == tmp_path / "x/a_cam_input.npy"


def test_inputs_of_one_stem_are_kept_apart_and_keep_their_names(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}")
    files = [Path(name) for name in ("a.PNG", "a.png", "a.tif", "sub/a.png")]
    stems = ["a", "a_png", "a_tif", "sub/a"]
    assert [results.stem_of(file) for file in files] == stems
    assert [results.stem_of(file) for file in files] == stems, "asking again changes nothing"


def test_no_two_inputs_share_a_stem_however_they_are_named(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}")
    files = [Path(name) for name in ("a_tif.bmp", "a_tif.png", "a.png", "a.tif", "a_tif_png.png", "a.jpg")]
    stems = [results.stem_of(file) for file in files]
    assert len(set(stems)) == len(files), stems


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "..", "a/.."])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results"
    results = Results(folder, "{stem}_{kind}")
    with pytest.raises(ValueError, match="may not be written outside"):
        results.add(Path(name), {"fake": DRAWING})
    assert written(tmp_path) == set()


def test_names_with_braces_or_percent_signs_are_names(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    results.add(Path("{kind} 100%.png"), {"fake": DRAWING})
    assert written(tmp_path) == {"{kind} 100%_fake.png"}
    page = results.write_page("x").read_text()
    assert 'src="%7Bkind%7D%20100%25_fake.png"' in page


def test_windows_paths_become_forward_slashes() -> None:
    assert PureWindowsPath("a\\b.png").as_posix() == "a/b.png"  # what stem_of relies on


def test_sixteen_bits_are_stored_whole_and_shown_by_a_preview(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    results.add(Path("x/a.png"), {"fake": (RAMP, COUNTS)})
    assert written(tmp_path) == {"x/a_fake.png", "page/fake/x/a.png"}
    stored = read(tmp_path / "x/a_fake.png").squeeze()
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, np.rint(1000 + 1000 * RAMP[0].double().numpy()))
    preview = read(tmp_path / "page/fake/x/a.png")
    assert preview.dtype == np.uint8
    np.testing.assert_array_equal(preview[:, :, 0], np.rint(RAMP[0].numpy() * 255))
    page = results.write_page("x").read_text()
    assert "page/fake/x/a.png" in page
    assert "x/a_fake.png" not in page


def test_float_data_is_stored_as_tiff_beside_its_preview(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    results.add(Path("a.npy"), {"fake": (RAMP, FLOATS)})
    assert written(tmp_path) == {"a_fake.png", "a_fake.tif"}
    np.testing.assert_allclose(read(tmp_path / "a_fake.tif"), -10 + 50 * RAMP[0].numpy(), atol=1e-5)
    assert read(tmp_path / "a_fake.png").dtype == np.uint8


def test_the_page_lists_every_input_with_its_caption_escaped(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    results.add(Path("a.png"), {"fake": DRAWING})
    results.add(Path("b.png"), {"fake": DRAWING}, caption="class <b> & more")
    path = results.write_page("title", "some text", {"seed": "3"})
    page = path.read_text()
    assert path == tmp_path / "index.html"
    assert page.index("a_fake.png") < page.index("class &lt;b&gt; &amp; more") < page.index("b_fake.png")
    assert "some text" in page
    assert "seed" in page
