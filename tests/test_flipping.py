"""The flipping benchmark: what it starts, that it goes on, and its table; and the whole of it in miniature."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import make_infrared
import pytest

from options.parse import train_options
from options.schema import OptionError
from scripts import evaluate, flipping
from scripts.flipping import METHODS, Bench, Settings, main
from scripts.reproducing.launching import launch
from tests.commands import ROOT, run
from tests.comparing.conftest import content, number, write
from util.errors import UserError

# Confusions of the classes car, bus and tank, of four inputs each, by method and seed.
COUNTS = {
    ("cut", 0): [[4, 0, 0], [2, 2, 0], [1, 1, 2]],
    ("cut", 1): [[4, 0, 0], [4, 0, 0], [1, 1, 2]],
    ("srunit", 0): [[0, 4, 0], [0, 4, 0], [0, 0, 4]],
    ("srunit", 1): [[4, 0, 0], [0, 4, 0], [1, 0, 3]],
}


class Programs:
    """Stands in for the programs: notes what was started, and leaves what each would."""

    def __init__(self, last: int = 16) -> None:
        self.started: list[tuple[str, ...]] = []
        self.last, self.dies_at = last, 0

    def __call__(self, script: str, *arguments: object) -> None:
        words = tuple(map(str, arguments))
        self.started.append((script, *words))
        if len(self.started) == self.dies_at:
            raise UserError("interrupted")
        given = dict(pairwise(words))
        if script.startswith("datasets"):
            return
        folder = Path(given["--checkpoints_dir"]) / given["--name"]
        folder.mkdir(parents=True, exist_ok=True)
        if script == "train.py":
            (folder / "latest_state.pt").touch()
            (folder / f"{self.last}_net_G.pth").touch()
        else:
            self.measure(folder)

    def measure(self, folder: Path) -> None:
        method, seed = folder.name.rsplit("_s", 1)
        counts = COUNTS[method, int(seed)]
        kept = sum(counts[k][k] for k in range(3)) / 12
        metrics = {"flip_rate": number(1 - kept), "acc_fake_real_judge": number(kept, "higher")}
        metrics |= {"acc_source_real_judge": number(0.5, "higher"), "ssim": number(0.4, "higher")}
        metrics |= {"ssim_input": number(0.6, ""), "acc_real_real_judge": number(0.9, "higher")}
        tables: dict[str, Any] = {"flips": {"classes": ["car", "bus", "tank"], "counts": counts}}
        found = content(folder.name, int(seed), str(self.last), metrics=metrics, tables=tables)
        write(folder.parent, found)

    def kinds(self) -> Counter[str]:
        return Counter(script for script, *_ in self.started)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    stand_in = Programs()
    monkeypatch.setattr(flipping, "launch", stand_in)
    return stand_in


def flags(folder: Path, *more: object) -> list[str]:
    return [str(word) for word in ("--out", folder, "--methods", "cut,srunit", "--seeds", "0,1", *more)]


def test_the_table_has_mean_and_spread_as_measured(
    tmp_path: Path, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path, "--format", "json", "--output", tmp_path / "table.json")) == 0
    found = json.loads((tmp_path / "table.json").read_text())
    by_hand = {"cut": [(2 + 1) / 8, (4 + 1) / 8], "srunit": [0 / 8, 1 / 8]}
    assert found["seen_as_leading"] == by_hand
    assert main(flags(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "Of the inputs of another class, those seen as car, which leads in B" in said
    assert "0.500 ± 0.177" in said  # of 3/8 and 5/8
    assert "0.062 ± 0.088" in said
    line = next(line for line in said.splitlines() if line.startswith("flip_rate"))
    assert re.search(r"0\.42 ± 0\.12", line)  # of cut: 4 and 6 of 12


def test_seeds_go_before_methods_and_nothing_is_done_twice(tmp_path: Path, programs: Programs) -> None:
    main(flags(tmp_path))
    assert programs.kinds() == {"datasets/make_infrared.py": 2, "train.py": 4, "scripts/evaluate.py": 4}
    names = [words[words.index("--name") + 1] for words in programs.started if "--name" in words]
    assert names == [name for name in ("cut_s0", "srunit_s0", "cut_s1", "srunit_s1") for _ in range(2)]
    roots = {w[0]: Path(w[w.index("--dataroot") + 1]).name for w in programs.started if "--dataroot" in w}
    assert roots == {"train.py": "unmatched", "scripts/evaluate.py": "matched"}
    first, second = programs.started[:2]
    assert "--prior_B" in first
    assert "--prior_B" not in second
    before = len(programs.started)
    main(flags(tmp_path))
    assert len(programs.started) == before


@pytest.mark.parametrize("dies_at", range(1, 11))
def test_whatever_interrupts_it_the_same_command_goes_on(tmp_path: Path, programs: Programs, dies_at: int) -> None:
    programs.dies_at = dies_at
    with pytest.raises(UserError, match="interrupted"):
        main(flags(tmp_path))
    assert main(flags(tmp_path)) == 0
    expected = {"datasets/make_infrared.py": 2, "train.py": 4, "scripts/evaluate.py": 4}
    again = programs.started[dies_at - 1][0]
    assert programs.kinds()["scripts/evaluate.py"] == 4 + (again == "scripts/evaluate.py")
    assert programs.kinds()["train.py"] == 4 + (again == "train.py")
    assert set(programs.kinds()) == set(expected)


def test_a_training_that_was_stopped_is_continued_and_not_measured(tmp_path: Path, programs: Programs) -> None:
    programs.last = 7  # no weights of the last epoch come to be
    with pytest.raises(UserError, match=r"cut_s0: the training was stopped; the same command goes on"):
        main(flags(tmp_path))
    assert "scripts/evaluate.py" not in programs.kinds()
    programs.last = 16
    assert main(flags(tmp_path)) == 0
    trained = [words for words in programs.started if words[0] == "train.py" and "cut_s0" in words]
    assert ["--continue_train" in words for words in trained] == [False, True]


def test_other_settings_need_another_folder(tmp_path: Path, programs: Programs) -> None:
    main(flags(tmp_path))
    with pytest.raises(OptionError, match=r"was begun with --prior_B 8,1,1, not 1,1,8; give the same"):
        main(flags(tmp_path, "--prior_B", "1,1,8"))
    assert Settings(prior_B="1,1,8").leading == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(("--methods", "cut,sr"), "--methods sr: choose of cut, "), (("--seeds", "0,a"), "--seeds 0,a: give whole")],
)
def test_what_cannot_be_is_said_before_any_work(
    tmp_path: Path, programs: Programs, wrong: tuple[str, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        main(flags(tmp_path, *wrong))
    assert programs.started == []


@pytest.mark.parametrize("method", METHODS)
def test_the_flags_of_every_method_are_valid(method: str) -> None:
    run = train_options(["--dataroot", "data", *Settings(flags="--ngf 8").flags_of(method)])
    assert run.schedule.last_epoch == run.log.save_epoch_freq == 16
    assert run.networks.ngf == 8
    assert run.experiment.model == METHODS[method].split()[1]
    if run.terms:
        assert run.terms[0].inact_epochs == 4  # type: ignore[attr-defined]


def test_a_program_that_fails_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"make_infrared.py ended with status 2"):
        launch("datasets/make_infrared.py", "--out", tmp_path / "x", "--size", 3)
    assert "--size 3" in capfd.readouterr().err


SMALL = (
    "--ngf 8 --ndf 8 --netF_nc 16 --num_patches 16 --load_size 36 --crop_size 32 --gpu_ids -1 --num_threads 0 "
    "--quiet --print_freq 4"
)


def in_this_process(script: str, *arguments: object) -> None:
    """What `launch` does, without the start of a process: `test_a_program_that_fails_ends_it` starts one."""
    words = [str(word) for word in arguments]
    if script == "train.py":
        status = run("train", words, ROOT).status
    elif script == "scripts/evaluate.py":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [script, *words])
            status = evaluate.main()
    else:
        assert script == "datasets/make_infrared.py"
        status = make_infrared.main(words)
    assert status == 0, script


@pytest.mark.slow
def test_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flipping, "launch", in_this_process)
    sizes = ("--size", 40, "--train", 18, "--test", 6, "--epochs", 2, "--flags", f"{SMALL} --netG resnet_4blocks")
    command = ["--out", tmp_path, "--methods", "srunit", "--seeds", 3, "--format", "json", *sizes]
    assert main([*map(str, command), "--output", str(tmp_path / "table.json")]) == 0
    shares = {}
    for kind in ("unmatched", "matched"):
        with (tmp_path / "data" / kind / "labels.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        shares[kind] = Counter(row["label"] for row in rows if row["file"].startswith("trainB"))
        even = Counter(row["label"] for row in rows if row["file"].startswith("trainA"))
        assert min(even.values()) >= 5
        assert len(even) == 3
    assert shares["unmatched"]["car"] >= 13
    assert min(shares["matched"].values()) >= 5
    bench = Bench(tmp_path, Settings())
    log = (bench.runs / "srunit_s3" / "log.jsonl").read_text().splitlines()
    assert {json.loads(line)["epoch"] for line in log if "SR" in json.loads(line)} == {1, 2}
    table = json.loads((tmp_path / "table.json").read_text())
    assert 0 <= table["seen_as_leading"]["srunit"][0] <= 1
    record = json.loads((bench.runs / "srunit_s3" / "evaluations" / "test_2.json").read_text())
    assert record["metrics"]["flip_rate"]["value"] is not None
    assert "trainB" in record["metrics"]["flip_rate"]["kind"]
