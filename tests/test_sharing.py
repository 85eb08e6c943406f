"""One command by several processes: files, tables and errors are those of one."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from options.groups import Evaluation, MeasuredInference
from options.parse import extra, inference_options
from scripts.evaluating import images
from scripts.evaluating.bench import Bench
from tests import commands
from tests.conftest import make_data
from tests.processes import as_ranks, meet_at, meeting_places
from tests.runs import CUTCAM, make_run
from util import sharing
from util.engine.inference import explain_images
from util.errors import UserError, exit_code

MINUTE = re.compile(rb"\d\d \w{3} \d{4} \d\d:\d\d")  # when a page was made
Command = tuple[str, tuple[object, ...]]  # script, flags
SKIP = ("--on_bad_image", "skip")
COMMANDS: dict[str, Command] = {
    "test": ("test", ("--batch_size", "2", *SKIP)),
    "few": ("test", ("--num_test", "1")),
    "broken": ("test", ("--num_test", "7")),
    "looked": ("cam_infer", ("--save_raw", *SKIP)),
    "measured": ("evaluate", ("--batch_size", "2", *SKIP)),
    "no class": ("cam_infer", ("--class_idx", "9")),
    "grid": ("cam_infer", ("--grid", "--epochs", "latest", "--grid_images", "3", *SKIP)),
    "given": ("test", ("--input", "HOME/data/testA/00.png", "--output", "OUT")),  # the first process works alone
}
BY_THREE = ("test", "looked")


def words(home: Path, place: Path, flags: tuple[object, ...]) -> list[str]:
    places = ["--dataroot", home / "data", "--checkpoints_dir", home, "--name", "run", "--results_dir", place / "out"]
    found = [str(word) for word in (*places, "--gpu_ids", "-1", "--num_threads", "0", "--quiet", *flags)]
    return [word.replace("HOME", str(home)).replace("OUT", str(place / "out")) for word in found]


def translate_to_measure() -> int:
    """What evaluate.py has the processes translate; the first keeps what it knows then in files."""
    run = inference_options((MeasuredInference, Evaluation), sys.argv[1:], "evaluate.py")
    bench, folder = Bench(run, torch.device("cpu")), Path(extra(run, MeasuredInference).results_dir)
    if not sharing.is_first():
        bench.help_translating()
        return 0
    for found in (bench.translated(run), bench.translated(run)):  # as for two epochs
        assert found.maps is not None
        for kind, maps in enumerate((found.maps.source, found.maps.fake, found.maps.randomised)):
            np.save(folder / f"{kind}.npy", np.concatenate([one.ravel() for one in maps]))
        words = [*found.names, *(str(file.relative_to(folder)) for file in found.images.files)]
        words += map(str, [*found.source.labels, *found.maps.classes])
        (folder / "names.txt").write_text("\n".join(words))
    bench.end_translating()
    return 0


MAINS = {**commands.MAINS, "evaluate": sharing.as_one(translate_to_measure)}


def call(main: Callable[[], int], argv: list[str], place: Path, said: str) -> None:
    """Run a script, and keep its status and what it says in files."""
    place.mkdir(parents=True, exist_ok=True)
    before = sys.argv
    sys.argv = argv
    try:
        with (
            (place / f"{said}.out").open("w") as out,
            (place / f"{said}.err").open("w") as err,
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            status = exit_code(main)
    finally:
        sys.argv = before
    (place / f"{said}.status").write_text(str(status))


def as_rank(rank: int, home: Path, world: int, names: list[str], ports: list[int]) -> None:
    for port, name in zip(ports, names, strict=True):
        meet_at(port)
        place, (script, flags) = home / str(world) / name, COMMANDS[name]
        call(MAINS[script], [script, *words(home, place, flags)], place, str(rank))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with an image that only shows its fault when it is decoded; every command by one process, two and three."""
    home = tmp_path_factory.mktemp("shared")
    data = make_data(home / "data", count=(7, 2))
    (data / "trainA").rename(data / "testA")
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("trainA", "testA"))
    (data / "testB").mkdir()
    for number in range(7):
        shutil.copy(data / "testA" / f"{number:02d}.png", data / "testB" / f"{number:02d}.png")
    picture = cv2.imread(str(data / "testA" / "03.png"))
    assert picture is not None
    cv2.imwrite(str(data / "testA" / "03.png"), picture[:32, :36])  # another size
    # Two inputs of one stem, the first unreadable; and a target that is. Both look whole from outside.
    whole = bytearray((data / "testA" / "05.png").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    cv2.imwrite(str(data / "testA" / "05.tif"), picture)
    for broken in ("testA/05.png", "testB/04.png"):
        (data / broken).write_bytes(bytes(whole))
    make_run(home / "run", *CUTCAM, classes={0: "disc", 1: "frame", 2: "bars", 3: "cross"})
    for file in (home / "run").glob("latest_net_*.pth"):
        shutil.copy(file, file.with_name(file.name.replace("latest", "1")))
    for world, names in ((2, list(COMMANDS)), (3, list(BY_THREE))):
        with meeting_places(len(names)) as ports:
            as_ranks(world, as_rank, home, world, names, ports)
    for name, (script, flags) in COMMANDS.items():
        call(MAINS[script], [script, *words(home, home / "1" / name, flags)], home / "1" / name, "0")
    return home


def contents(folder: Path) -> dict[str, bytes]:
    """Everything written, without what names the place or the minute."""
    place = str(folder.parent).encode()
    return {
        file.relative_to(folder).as_posix(): MINUTE.sub(b"", file.read_bytes().replace(place, b""))
        for file in folder.rglob("*")
        if file.is_file()
    }


def equal(file: str, one: bytes, other: bytes) -> bool:
    return one == other


def equal_up_to_rounding(file: str, one: bytes, other: bytes) -> bool:
    """Of batches, which are other images in each process: within one count, and maps within float32's."""
    if file.endswith(".npy"):
        found, expected = (np.load(io.BytesIO(content)) for content in (one, other))
        return np.allclose(found, expected, rtol=0, atol=1e-4 * abs(expected).max())
    if not file.endswith(".png"):
        return one == other
    first, second = (cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) for content in (one, other))
    assert first is not None
    assert second is not None
    return first.shape == second.shape and bool(abs(first.astype(int) - second.astype(int)).max() <= 1)


@pytest.mark.parametrize(("name", "world"), [*((n, 2) for n in COMMANDS), *((n, 3) for n in BY_THREE)])
def test_files_and_words_are_those_of_one_process(home: Path, name: str, world: int) -> None:
    one, several = home / "1" / name, home / str(world) / name
    expected, found = contents(one / "out"), contents(several / "out")
    if name != "broken":  # how far the others came is their own affair
        assert sorted(found) == sorted(expected)
        same = equal if "--batch_size" not in COMMANDS[name][1] else equal_up_to_rounding
        assert [file for file in expected if not same(file, found[file], expected[file])] == []
    for kind in ("status", "out", "err"):
        said = (one / f"0.{kind}").read_text().replace(str(one), "")
        assert sorted((several / f"0.{kind}").read_text().replace(str(several), "").splitlines()) == sorted(
            said.splitlines()
        ), kind
    for rank in range(1, world):
        assert (several / f"{rank}.out").read_text() == (several / f"{rank}.err").read_text() == ""


def test_what_was_compared(home: Path) -> None:
    """The commands have done what the comparison is about."""
    files = {name: contents(home / "2" / name / "out") for name in COMMANDS}
    status = {name: (home / "2" / name / "0.status").read_text() for name in COMMANDS}
    assert status == dict.fromkeys(status, "0") | {"broken": "2", "no class": "2"}
    listed = files["test"]["run/test_latest/bad_images.txt"].decode()
    assert listed.count("05.png") == 1
    rows = files["looked"]["run/latest/cams.csv"].decode().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["00.png", "01.png", "02.png", "03.png", "04.png", "05.tif", "06.png"]
    assert "run/epochs/overlay_input.png" in files["grid"]
    assert "run/latest/05_tif_fake.png" in files["looked"]
    err = (home / "2" / "broken" / "0.err").read_text()
    assert (err.count("error: "), err.count("05.png")) == (1, 1)
    assert "real_B is left out for 1 image," in (home / "2" / "test" / "0.out").read_text()


def test_an_evaluation_translates_in_batches_what_it_translates_one_by_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    explain = explain_images

    def watched(model: Any, samples: Any, *rest: Any) -> Any:
        together.append(len(samples))
        return explain(model, samples, *rest)

    monkeypatch.setattr(images, "explain_images", watched)
    found = {}
    for size in (1, 3):
        flags = words(home, home / f"by {size}", ("--batch_size", size, "--eval", *SKIP))
        bench = Bench(inference_options((MeasuredInference, Evaluation), flags, "evaluate.py"), torch.device("cpu"))
        found[size] = bench.translated(bench.run)
        assert max(together) == size
    one, three = found[1], found[3]
    assert (three.names, three.source.labels) == (one.names, one.source.labels)
    assert one.maps is not None
    assert three.maps is not None
    assert three.maps.classes == one.maps.classes
    for kind in ("source", "fake", "randomised"):
        for a, b in zip(getattr(one.maps, kind), getattr(three.maps, kind), strict=True):
            assert b == pytest.approx(a, rel=1e-2, abs=1e-4)
    for number in range(len(one.names)):
        difference = one.images.read(number) - three.images.read(number)
        assert difference.abs().max() <= 1 / 255 + 1e-6


# --- what the processes tell each other


def report(rank: int, folder: Path, ports: list[int]) -> None:
    for port, (name, main) in zip(ports, MEETINGS.items(), strict=True):
        meet_at(port)
        try:
            call(sharing.as_one(main), [name], folder / name, str(rank))
        except ValueError:
            (folder / name / f"{rank}.status").write_text("defect")


def _number() -> int:
    return int(os.environ["RANK"])


def _all_well() -> int:
    assert list(sharing.mine(7)) == [[0, 3, 6], [1, 4], [2, 5]][_number()]
    numbers = sharing.mine(7)
    assert sharing.in_order(numbers, [f"n{n}" for n in numbers]) == [f"n{n}" for n in range(7)]
    assert [sharing.from_first(10 * n + _number()) for n in range(3)] == [0, 10, 20]
    assert sharing.is_first() == (_number() == 0)
    print(f"by {_number()}")
    return 5


def _one_is_wrong() -> int:
    if _number() == 2:
        raise UserError("two.png: is not there")
    for _ in sharing.watched(iter(int, 1)):  # without an end
        pass
    return 0


def _one_has_a_defect() -> int:
    if _number() == 1:
        raise ValueError("a defect")
    return sharing.from_first(0)


def _wrong_when_all_is_done() -> int:
    if _number() == 1:
        raise OSError(28, "No space left on device", "one.png")
    return 0


MEETINGS: dict[str, Callable[[], int]] = {
    "well": _all_well,
    "wrong": _one_is_wrong,
    "defect": _one_has_a_defect,
    "late": _wrong_when_all_is_done,
}


@pytest.fixture(scope="module")
def meetings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meetings")
    with meeting_places(len(MEETINGS)) as ports:
        as_ranks(3, report, folder, ports)
    return folder


@pytest.mark.parametrize(
    ("name", "status", "out", "err"),
    [
        ("well", ["5", "5", "5"], "by 0\n", ""),
        ("wrong", ["2", "2", "2"], "", "error: two.png: is not there\n"),
        (
            "defect",
            ["2", "defect", "2"],
            "",
            "error: process 1: ValueError: a defect\n",
        ),
        ("late", ["2", "2", "2"], "", "error: one.png: No space left on device\n"),
    ],
)
def test_the_first_speaks_for_all(meetings: Path, name: str, status: list[str], out: str, err: str) -> None:
    folder = meetings / name
    assert [(folder / f"{rank}.status").read_text() for rank in range(3)] == status
    assert ((folder / "0.out").read_text(), (folder / "0.err").read_text()) == (out, err)
    for rank in (1, 2):
        assert (folder / f"{rank}.out").read_text() == (folder / f"{rank}.err").read_text() == ""


def test_alone_nothing_is_shared() -> None:
    assert list(sharing.mine(3)) == [0, 1, 2]
    assert sharing.in_order([2, 0, 1], "cab") == ["a", "b", "c"]
    assert sharing.from_first("x") == "x"
    assert sharing.is_first()
    assert list(sharing.watched(iter("ab"))) == ["a", "b"]
    assert sharing.as_one(lambda: 3)() == 3
