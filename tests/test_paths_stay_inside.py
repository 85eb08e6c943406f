"""Nothing is written outside the folder of the run or of the results: whatever files, tables, runs and links say."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import yaml

from data.labels import labels_from_table, read_labels
from tests.commands import SHORT, make_home, run, tree
from tests.conftest import TINY, picture
from util.visual.html import Row, write_results_page
from util.visual.results import LONGEST_FILE, Results, ResultsError

DRAWING = np.full((3, 4, 3), 9, np.uint8)
KINDS = ("fake", "cam_input", "cam_output", "overlay_input", "overlay_output")
SHOWN = len(KINDS) + 1  # and the input, on the page
LINUX_ALONE = pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes on Linux alone")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("made"))


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of a folder with data and runs, which the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "deep" / "home"))


def write_images(folder: Path, *names: str | bytes) -> None:
    """Pictures below testA of a data folder, by names that are whatever a file system takes."""
    content = cv2.imencode(".png", picture(0, 0, (32, 32), 3))[1].tobytes()
    for name in names:
        path = os.path.join(os.fsencode(folder / "testA"), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(content)


def use(script: str, home: Path, *flags: str) -> Path:
    """Run test.py or cam_infer.py on `odd`; the folder of its results."""
    outcome = run(script, ["--dataroot", "odd", "--name", "run", "--gpu_ids", "-1", *flags], home)
    assert outcome.status == 0, outcome.err
    return home / "results/run" / ("test_latest" if script == "test" else "latest")


# --- runs from strangers


@pytest.mark.parametrize("script", ["test", "cam_infer", "train"])
def test_a_stranger_s_run_writes_where_the_command_says(home: Path, script: str) -> None:
    file, outside = home / "checkpoints/run/options.yaml", home.parent / "outside"
    told = {"name": "../../../outside", "checkpoints_dir": str(outside), "suffix": "_{name}"}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | told))
    inside, others = home / ("checkpoints/run" if script == "train" else "results/run"), tree(home.parent)
    flags = ["--dataroot", "data", "--name", "run", "--gpu_ids", "-1"]
    outcome = run(script, [*flags, *(["--continue_train", "--max_iters", "3"] if script == "train" else [])], home)
    assert outcome.status == 0, outcome.err
    changed = {path for path, stamp in tree(home.parent).items() if others.get(path) != stamp}
    assert changed
    assert {path for path in changed if not Path(path).is_relative_to(inside)} <= {str(home / "results")}
    assert not outside.exists()


@pytest.mark.parametrize(
    "line", ["name: ../../outside", "name: /outside", 'name: "a\\nb"', "name: x\nepoch: ../../outside", "name: ''"]
)
def test_a_stranger_s_config_names_no_other_folder(home: Path, line: str) -> None:
    (home / "config.yaml").write_text(f"{line}\nmodel: cut\n")
    before = tree(home.parent)
    outcome = run("train", ["--config", "config.yaml", "--dataroot", "data", *TINY, *SHORT.split()], home)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert tree(home.parent) == before


@pytest.mark.parametrize("link", ["log.jsonl", "loss_log.txt", "web", "panels/x.png"])
@pytest.mark.parametrize("again", [True, False])
def test_a_link_in_a_run_is_not_written_through(home: Path, link: str, again: bool) -> None:
    victim = home.parent / "victim"
    victim.mkdir()
    folder = home / "checkpoints" / ("run" if again else "new")
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).unlink(missing_ok=True)
    (folder / link).symlink_to(victim)
    before = tree(home.parent)
    flags = ["--continue_train"] if again else ["--model", "cut", *TINY, *SHORT.split()]
    outcome = run("train", ["--dataroot", "data", "--name", folder.name, "--gpu_ids", "-1", *flags], home)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert f"{link}: is a link that leads out of the run's folder; put a copy in its place" in outcome.err
    assert tree(home.parent) == before


def test_a_run_s_folder_may_be_a_link_itself(home: Path) -> None:
    """To a larger disk, say; and a link inside that stays inside is nobody's concern."""
    disk = home.parent / "disk"
    disk.mkdir()
    (disk / "logs").mkdir()
    (disk / "log.jsonl").symlink_to("logs/log.jsonl")
    (home / "checkpoints/new").symlink_to(disk)
    flags = ["--dataroot", "data", "--name", "new", "--model", "cut", *TINY, *SHORT.split()]
    outcome = run("train", flags, home)
    assert outcome.status == 0, outcome.err
    assert (disk / "latest_net_G.pth").is_file()
    assert (disk / "logs/log.jsonl").is_file()


# --- results


@pytest.mark.parametrize(
    ("script", "link"),
    [
        ("test", "test_latest/images"),
        ("test", "test_latest/images/fake_B"),
        ("test", "test_latest/images/fake_B/sub"),
        ("cam_infer", "latest/sub"),
    ],
)
def test_a_folder_that_leads_out_of_the_results_is_refused(home: Path, script: str, link: str) -> None:
    write_images(home / "odd", "sub/a.png")
    outside, planted = home.parent / "outside", home / "results/run" / link
    outside.mkdir()
    planted.parent.mkdir(parents=True)
    planted.symlink_to(outside)
    outcome = run(script, ["--dataroot", "odd", "--name", "run", "--gpu_ids", "-1"], home)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "leads out of the results folder by a link; remove it, or give another --results_dir" in outcome.err
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_a_preview_s_folder_is_checked_too(tmp_path: Path, depth: str) -> None:
    import torch

    from data.images import DomainFormat, Window

    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results/page").symlink_to(outside)
    results = Results(tmp_path / "results", "{stem}_{kind}")
    stored = (torch.zeros(1, 4, 4), DomainFormat(Window(0, 255), depth))
    if depth == "uint8":  # has none
        results.add(Path("a.png"), {"fake": stored})
    else:
        with pytest.raises(ResultsError, match=r"page/fake: leads out of the results folder"):
            results.add(Path("a.png"), {"fake": stored})
    assert list(outside.iterdir()) == []


def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").symlink_to("sub")
    results = Results(tmp_path, "{stem}_{kind}")
    with pytest.raises((ResultsError, OSError)):
        results.add(Path("sub/a.png"), {"fake": DRAWING})
    assert [path.name for path in tmp_path.iterdir()] == ["sub"]


def test_the_results_folder_may_be_a_link_itself(home: Path) -> None:
    write_images(home / "odd", "a.png")
    disk = home.parent / "disk"
    disk.mkdir()
    (home / "results").symlink_to(disk)
    assert (use("test", home) / "images/fake_B/a.png").is_file()
    assert (disk / "run/test_latest/index.html").is_file()


def test_a_file_that_is_a_link_is_replaced_and_not_followed(home: Path) -> None:
    write_images(home / "odd", "a.png")
    victim, folder = home.parent / "victim", home / "results/run/latest"
    victim.write_text("keep me")
    folder.mkdir(parents=True)
    names = [*(f"a_{kind}.png" for kind in KINDS), "a_cam_input.npy", "a_cam_output.npy", "cams.csv", "index.html"]
    for name in names:
        (folder / name).symlink_to(victim)
    use("cam_infer", home, "--save_raw")
    assert victim.read_text() == "keep me"
    assert [name for name in names if (folder / name).is_symlink()] == []


def test_arrays_are_written_beside_the_pictures(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    results.add_array(Path("x/a.png"), "cam_input", values)
    np.testing.assert_array_equal(np.load(tmp_path / "x/a_cam_input.npy"), values)
    with pytest.raises(ResultsError, match="may not be written outside"):
        results.add_array(Path("../a.png"), "cam_input", values)


# --- names from data sets and tables


def test_images_behind_links_keep_their_places(home: Path) -> None:
    """What a link in the data leads to is written under the link's name."""
    elsewhere = home.parent / "elsewhere"
    write_images(elsewhere, "b.png")
    write_images(home / "odd", "a.png")
    (home / "odd/testA/link").symlink_to(elsewhere / "testA")
    before = tree(elsewhere)
    pictures = use("test", home) / "images/fake_B"
    assert {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")} == {"a.png", "link/b.png"}
    assert tree(elsewhere) == before


def test_rows_of_a_table_are_read_and_lead_nowhere(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = "../../etc/passwd,x,1\n/etc/passwd,y,2\ntrainA/../trainA/a.png,z,3\ntrainA/a.png,ok,0\n"
    table.write_text(f"file,label,label_id\n{rows}")
    assert labels_from_table([tmp_path / "trainA/a.png"], tmp_path, read_labels(table)) == ([0], {0: "ok"})


ODD = [
    "a\nb.png",
    "tab\t.png",
    "\x1b[31mred.png",
    "<script>alert(1)<\u2044script>.png",
    "\"' onerror='x'.png",
    "a b%20.png",
    "x#y?z=1&t.png",
    "-rf.png",
    "con.png",
    "a:b*c|.png",
]


@LINUX_ALONE
@pytest.mark.parametrize("script", ["test", "cam_infer"])
def test_odd_names_are_names(home: Path, script: str) -> None:
    write_images(home / "odd", *ODD, b"Ger\xe4t.png")
    folder = use(script, home)
    sources = [unquote(source) for source in page_of(folder).sources]
    assert len(sources) == len(set(sources)) == (len(ODD) + 1) * (2 if script == "test" else SHOWN)
    assert all((folder / source).is_file() for source in sources)
    if script == "cam_infer":
        with (folder / "cams.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            listed = {row["file"] for row in csv.DictReader(stream)}
        assert listed == {*ODD, os.fsdecode(b"Ger\xe4t.png")}


class Page(HTMLParser):
    """The tags and the sources of pictures of a page, as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> Page:
    page = Page()
    page.feed((folder / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert not {name for name in page.attributes if name.startswith("on")}
    return page


def test_a_page_shows_names_and_runs_none(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>\n\x01'
    row = Row(hostile, [(hostile, f"images/{hostile}.png")])
    write_results_page(tmp_path / "index.html", hostile, [row], text=hostile, facts={hostile: hostile})
    page = page_of(tmp_path)
    assert [unquote(source) for source in page.sources] == [f"images/{hostile}.png"]
    assert page.text.count("alert(1)</script>") >= 4


# --- names that are too long or too alike


@pytest.mark.parametrize("letter", ["x", "ä", "漢", "🙂"])
def test_the_longest_names_are_cut_and_the_page_says_so(home: Path, letter: str) -> None:
    longest = letter * ((LONGEST_FILE - 4) // len(letter.encode()))
    write_images(home / "odd", f"{longest}.png", f"{longest}/{longest[:-1]}y.png", "short.png")
    folder = use("cam_infer", home, "--save_raw")
    page = page_of(folder)
    assert all((folder / unquote(source)).is_file() for source in page.sources)
    assert len({*page.sources}) == 3 * SHOWN
    assert "2 names are too long for files made from them" in page.text
    assert len(list(folder.rglob("*.npy"))) == 6
    with (folder / "cams.csv").open(newline="", encoding="utf-8") as stream:
        assert {len(Path(row["file"]).stem) for row in csv.DictReader(stream)} == {len(longest), len("short")}


def test_long_names_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}_{kind}")
    stems = [results.stem_of(Path(f"{'x' * 246}{end}")) for end in ("1.png", "2.png", "1.tif")]
    assert len(set(stems)) == 3
    for stem in stems:
        assert len(f"{stem}_overlay_output.png".encode()) <= LONGEST_FILE
        assert stem.startswith("x" * 200)
    again = Results(tmp_path, "{stem}_{kind}")
    assert again.stem_of(Path(f"{'x' * 246}2.png")) == stems[1]  # a name follows from the file's own


def test_names_that_fit_are_left_alone(tmp_path: Path) -> None:
    results = Results(tmp_path, "images/{kind}/{stem}")
    assert results.stem_of(Path(f"{'x' * 251}.png")) == "x" * 251
    assert "too long" not in results.write_page("title").read_text()


def test_stems_that_some_systems_take_for_one_are_kept_apart(tmp_path: Path) -> None:
    results = Results(tmp_path, "{stem}")
    accent = [unicodedata.normalize(form, "Gerät") for form in ("NFC", "NFD")]
    files = ["A.png", "a.png", "Day/x.png", "day/X.png", f"{accent[0]}.png", f"{accent[1]}.png"]
    stems = [results.stem_of(Path(file)) for file in files]
    assert stems == ["A", "a_png", "Day/x", "day/X_png", accent[0], f"{accent[1]}_png"]
