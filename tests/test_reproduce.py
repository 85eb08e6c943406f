"""The experiment: its plan, its data, its order, its statistics by hand, and the whole of it in miniature."""

from __future__ import annotations

import csv
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data.base import DataError
from models import MODELS
from options.groups import Evaluation
from options.parse import train_options
from options.schema import OptionError
from scripts import reproduce
from scripts.reproducing import bench, data, plan
from scripts.reproducing.bench import Stage, finish_all, flags_of
from scripts.reproducing.data import fitted, held_out, prepare, spread, window_of
from scripts.reproducing.launching import Quiet, Run
from scripts.reproducing.listing import arms_of, describe
from scripts.reproducing.plan import ARMS, BUDGETS, OUTCOMES, QUESTIONS, SUITES, Budget, seeds_of
from scripts.reproducing.report import write_report
from scripts.reproducing.results import chosen, family, guards, ranking, read_results, suites_won
from tests.comparing.conftest import content, number, write
from util.errors import UserError

CPU = BUDGETS["cpu"]
TINY = replace(CPU, iterations=4, size=32, ngf=8, train=12, test=6, judge_epochs=1)


# --- the plan


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ARMS)
def test_the_flags_of_every_arm_are_valid_and_mean_what_they_say(name: str, budget: str) -> None:
    arm, suite = ARMS[name], SUITES["sar"]
    run = train_options(["--dataroot", "data", *flags_of(arm, suite, BUDGETS[budget], 5)])
    assert run.experiment.model == arm.model
    assert (run.schedule.n_epochs, run.schedule.n_epochs_decay, run.log.save_epoch_freq) == (3, 2, 5)
    assert (run.networks.ngf, run.data.batch_size) == (BUDGETS[budget].ngf, BUDGETS[budget].batch)
    assert run.networks.input_nc == run.networks.output_nc == 1
    if arm.model == "cutcam":
        assert run.model.num_classes == 10  # type: ignore[attr-defined]


def test_colour_suites_have_three_channels() -> None:
    run = train_options(["--dataroot", "data", *flags_of(ARMS["cutcam"], SUITES["horse2zebra"], CPU, 4)])
    assert (run.networks.input_nc, run.networks.output_nc) == (3, 3)


def test_the_plan_is_consistent() -> None:
    assert {number for arm in ARMS.values() for number in arm.questions} == set(QUESTIONS)
    assert all(arm.against in ARMS for arm in ARMS.values())
    for arm in ARMS.values():  # the same seconds
        assert arm.iterations == 1 or 0.9 < arm.iterations * arm.cost < 1.1
    assert set(plan.SHORT) <= set(ARMS)
    assert set(plan.VERDICT_SUITES) <= {name for name, suite in SUITES.items() if suite.labelled}
    assert {item.metric for item in OUTCOMES if item.role == plan.PRIMARY} == {"flip_rate", "acc_train_fake"}
    assert not set(seeds_of("screen", 2)) & set(seeds_of("confirm", 99))
    assert len({(arm.flags, arm.labels, arm.iterations) for arm in ARMS.values()}) == len(ARMS)
    shown = describe(CPU)
    assert all(name in shown for name in (*ARMS, *SUITES, *(item.metric for item in OUTCOMES)))


@pytest.mark.parametrize(
    ("wanted", "stage", "message"),
    [
        ("cut,cute", "screen", "--arms cute: choose of"),
        (" , ", "screen", "--arms ,: choose of"),
        ("", "confirm", "choice.json"),
    ],
)
def test_arms_that_cannot_be_are_refused(wanted: str, stage: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        arms_of(wanted, stage, tmp_path)


def test_arms_by_name_start_with_cut(tmp_path: Path) -> None:
    assert arms_of("cls,cut,cls", "confirm", tmp_path) == ("cut", "cls")
    assert arms_of(" cls, ,cls_5,", "screen", tmp_path) == ("cut", "cls", "cls_5")
    assert arms_of("short", "screen", tmp_path) == plan.SHORT
    (tmp_path / "choice.json").write_text('{"arm": "cls_5"}')
    assert arms_of("", "confirm", tmp_path) == ("cut", plan.DEFAULT, "cls_5")


# --- the data


def test_held_out_images_keep_scenes_and_classes_apart() -> None:
    files = [f"trainA/{n}.png" for n in range(100)]
    rows = {file: {"label_id": str(n % 2), "scene": str(n // 4)} for n, file in enumerate(files)}
    train, held = held_out(files, rows)
    assert sorted(train + held) == sorted(files)
    scenes = [{rows[file]["scene"] for file in part} for part in (train, held)]
    assert not scenes[0] & scenes[1]
    assert Counter(rows[file]["label_id"] for file in held) == {"0": 10, "1": 10}
    alone = held_out(files, {file: {"label_id": row["label_id"]} for file, row in rows.items()})[1]
    assert Counter(rows[file]["label_id"] for file in alone) == {"0": 10, "1": 10}
    assert held_out(files, rows) == (train, held)


def test_a_subset_keeps_the_shares_of_the_classes() -> None:
    files = [f"{n:02}.png" for n in range(60)]
    rows = {file: {"label_id": str(n % 3)} for n, file in enumerate(files)}
    few = spread(files, rows, 12)
    assert Counter(rows[file]["label_id"] for file in few) == {"0": 4, "1": 4, "2": 4}
    assert spread(files, rows, 0) == files


def test_windows_and_boxes_by_hand() -> None:
    middle = window_of("crop", (128, 128), 64, [])
    assert middle == (32, 32, 96, 96)
    assert fitted((40, 50, 60, 70), middle, 64) == (8, 18, 28, 38)
    assert fitted((0, 0, 40, 40), middle, 64) == (0, 0, 8, 8)
    assert fitted((0, 0, 30, 30), middle, 64) is None
    whole = window_of("resize", (100, 200), 50, [])
    assert fitted((10, 20, 30, 40), whole, 50) == (2.5, 10, 7.5, 20)


def test_a_target_lies_in_its_window_not_always_in_the_middle() -> None:
    boxes = [(x, 50.0, x + 20, 80.0) for x in (0.0, 20.0, 50.0, 70.0, 108.0)]
    windows = [window_of("target", (128, 128), 64, [box]) for box in boxes]
    for box, window in zip(boxes, windows, strict=True):
        assert window[0] <= box[0] < box[2] <= window[2]
        assert (window[2] - window[0], window[3] - window[1]) == (64, 64)
        assert min(window) >= 0
        assert max(window) <= 128
    inner = [(x, 50.0, x + 20, 80.0) for x in np.arange(42.0, 66.0)]
    aside = [box[0] - window_of("target", (128, 128), 64, [box])[0] - 22 for box in inner]
    assert len(set(aside)) >= 8
    assert max(map(abs, aside)) <= 9
    assert windows[2] == window_of("target", (128, 128), 64, [boxes[2]])


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of 48 px chips; trainA and trainB have 40, testA and testB 10 that are pairs."""
    root = tmp_path_factory.mktemp("chips")
    random, labels, boxes, pairs = np.random.default_rng(0), [], [], []
    for folder, count in (("trainA", 40), ("trainB", 40), ("testA", 10), ("testB", 10)):
        (root / folder).mkdir()
        for n in range(count):
            name = f"{folder}/c{n:02}.png"
            cv2.imwrite(str(root / name), random.integers(0, 255, (48, 48), np.uint8))
            labels.append((name, f"k{n % 10}", n % 10))
            boxes.append((name, 12, 12, 36, 30))
            if folder == "testA":
                pairs.append((name, name.replace("A", "B")))
    for file, head, rows in (
        ("labels.csv", ("file", "label", "label_id"), labels),
        ("boxes.csv", ("file", "x0", "y0", "x1", "y1"), boxes),
        ("pairs_test.csv", ("A", "B"), pairs),
    ):
        with (root / file).open("w", newline="") as stream:
            csv.writer(stream).writerows([head, *rows])
    return root


def grey(file: Path) -> NDArray[Any]:
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image)


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_the_confirmation_has_the_test_split_cropped(chips: Path, tmp_path: Path) -> None:
    made = prepare(SUITES["sar"], "confirm", TINY, chips, tmp_path / "data", _never)
    assert made.measure == made.train
    ours, theirs = (grey(root / "testA" / "c00.png") for root in (made.train, chips))
    assert np.array_equal(ours, theirs[8:40, 8:40])
    files = {folder: len(list((made.train / folder).iterdir())) for folder in ("trainA", "trainB", "testA", "testB")}
    assert files == {"trainA": 12, "trainB": 12, "testA": 6, "testB": 6}
    assert len(table(made.train / "labels.csv")) == 36
    assert table(made.train / "boxes.csv")[0] | {"file": ""} == {
        "file": "", "x0": "4.0", "y0": "4.0", "x1": "28.0", "y1": "22.0"
    }  # fmt: skip
    assert all(Path(row["A"]).name == Path(row["B"]).name for row in table(made.train / "pairs_test.csv"))
    assert not (made.unlabelled / "labels.csv").exists()
    assert len(list((made.unlabelled / "trainA").iterdir())) == 12


def test_the_screen_never_sees_a_test_image(chips: Path, tmp_path: Path) -> None:
    made = prepare(SUITES["sar"], "screen", replace(TINY, train=0, test=0), chips, tmp_path / "data", _never)
    given = {
        phase: {grey(file)[8:40, 8:40].tobytes() for domain in "AB" for file in (chips / f"{phase}{domain}").iterdir()}
        for phase in ("train", "test")
    }
    ours = {grey(file).tobytes() for file in made.train.rglob("*.png")}
    assert ours == given["train"]
    assert not ours & given["test"]
    assert len(list((made.train / "testA").iterdir())) == 10  # one of four of each of ten classes
    assert not (made.train / "pairs_test.csv").exists()


def test_chips_smaller_than_asked_are_refused(chips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"48 x 48, smaller than --size 64; it is cut to that"):
        prepare(SUITES["sar"], "confirm", replace(TINY, size=64), chips, tmp_path / "data", _never)


def _never(script: str, *arguments: object) -> None:
    raise AssertionError(script)


# --- the order of runs


class Programs(Quiet):
    """Stands in for the programs: notes what was started, and leaves what each would."""

    def __init__(self) -> None:
        super().__init__(1)
        self.started: list[tuple[str, ...]] = []
        self.fails: set[str] = set()
        self._guard = threading.Lock()

    def into(self, console: Path) -> Callable[..., None]:
        return self.start

    def start(self, script: str, *arguments: object) -> None:
        words = tuple(map(str, arguments))
        with self._guard:
            self.started.append((script, *words))
        given = dict(pairwise(words))
        name = given["--name"]
        folder = Path(given["--checkpoints_dir"]) / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latest_state.pt").touch()
        if f"{script} {name}" in self.fails:
            raise UserError("out of luck")
        if script == "train.py":
            last = int(given["--save_epoch_freq"])
            for net in MODELS.get(given["--model"]).inference_nets:
                (folder / f"{last}_net_{net}.pth").touch()
        else:
            metrics = {"flip_rate": number(0.5), "acc_train_fake": number(0.5, "higher"), "kid": number(0.1)}
            seed = int(name.rpartition("_s")[2])
            write(folder.parent, content(name, seed, given["--epochs"], metrics=metrics))


@pytest.fixture
def stage(chips: Path, tmp_path: Path) -> Stage:
    made = Stage(tmp_path, "sar", "confirm", TINY, ("cut", "cls", "cycle_gan"), (1, 2), chips)
    made.begin(_never)
    return made


def names(started: list[tuple[str, ...]], script: str) -> list[str]:
    return [dict(pairwise(words))["--name"] for name, *words in started if name == script]


def test_seeds_go_before_arms_and_nothing_is_done_twice(stage: Stage) -> None:
    programs = Programs()
    assert finish_all(stage, 1, programs) == {}
    expected = [f"{arm}_s{seed}" for seed in (1, 2) for arm in ("cut", "cls", "cycle_gan")]
    assert names(programs.started, "train.py") == names(programs.started, "scripts/evaluate.py") == expected
    again = Programs()
    assert finish_all(stage, 2, again) == {}
    assert again.started == []


def test_a_run_that_fails_stops_no_other_and_is_continued(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    programs = Programs()
    programs.fails = {"train.py cls_s1", "scripts/evaluate.py cycle_gan_s2"}
    assert finish_all(stage, 2, programs) == {"cls_s1": "out of luck", "cycle_gan_s2": "out of luck"}
    assert len(set(names(programs.started, "train.py"))) == 6
    again = Programs()
    assert finish_all(stage, 2, again) == {}
    assert sorted(names(again.started, "train.py")) == ["cls_s1"]
    assert ["--continue_train" in words for words in again.started if words[0] == "train.py"] == [True]
    assert sorted(names(again.started, "scripts/evaluate.py")) == ["cls_s1", "cycle_gan_s2"]
    assert "[2/2]" in capsys.readouterr().out


def test_arms_without_labels_are_trained_without_a_table(stage: Stage) -> None:
    roots = {arm: dict(pairwise(stage.train_flags(ARMS[arm], 1)))["--dataroot"] for arm in ("cls", "pseudo_kmeans")}
    assert {arm: Path(root).name for arm, root in roots.items()} == {"cls": "train", "pseudo_kmeans": "unlabelled"}


def test_a_confirmation_keeps_its_settings(stage: Stage, chips: Path) -> None:
    replace_arms = Stage(stage.out, "sar", "confirm", TINY, ("cut", "cls_5"), (1, 2), chips)
    with pytest.raises(OptionError, match=r"was begun with --arms \['cut', 'cls', 'cycle_gan'\], not"):
        replace_arms.begin(_never)
    other = Stage(stage.out, "sar", "confirm", replace(TINY, ngf=16), stage.arms, (1, 2), chips)
    with pytest.raises(OptionError, match=r"was begun with --ngf 8, not 16; give the same"):
        other.begin(_never)
    with pytest.raises(OptionError, match="needs --dataroot"):
        replace(stage, dataroot=None).begin(_never)
    with pytest.raises(OptionError, match="takes no --dataroot"):
        Stage(stage.out, "infrared", "screen", TINY, ("cut",), (1,), chips).begin(_never)


def test_a_training_that_was_stopped_is_not_measured(tmp_path: Path) -> None:
    def stop(script: str, *arguments: object) -> None:
        assert script == "train.py"

    with pytest.raises(UserError, match="was stopped; the same command goes on"):
        Run(tmp_path, "cut_s1", [], [], 3).finish(stop)


@pytest.mark.parametrize("name", bench.TEACHERS)
def test_a_teacher_that_was_stopped_teaches_nobody(name: str, chips: Path, tmp_path: Path) -> None:
    """A training that SIGTERM ends has status 0 and leaves its latest weights."""
    arms = ("cut", name)
    stage, started = Stage(tmp_path, "sar", "confirm", TINY, arms, (1,), chips), list[list[str]]()

    def start(script: str, *arguments: object) -> None:
        started.append([script, *map(str, arguments)])
        folder = stage.runs / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("latest_state.pt", "latest_net_C.pth", *(["1_net_C.pth"] if len(started) == 2 else [])):
            (folder / file).touch()

    with pytest.raises(UserError, match=f"{name}: the training was stopped; the same command goes on"):
        stage.begin(start)
    for _ in range(2):
        stage.begin(start)
    assert ["--continue_train" in words for words in started] == [False, True]
    assert all(("--cls_augment" in words) == (name == "teacher_augmented") for words in started)
    (flags,) = {tuple(stage.train_flags(ARMS[arm], 1)) for arm in arms if arm != "cut"}
    assert dict(pairwise(flags))["--classifier_run"] == name
    assert all(dict(pairwise(words))["--save_epoch_freq"] == "1" for words in started), "the last epoch is exported"


def test_consoles_go_into_files_and_an_end_is_an_end(tmp_path: Path) -> None:
    quiet, console = Quiet(1), tmp_path / "console.txt"
    with pytest.raises(UserError, match=r"make_infrared.py ended with status 2: make_infrared: .*--size 3"):
        quiet.into(console)("datasets/make_infrared.py", "--out", tmp_path / "x", "--size", 3)
    assert console.read_text().startswith("== datasets/make_infrared.py --out")
    quiet.end()
    with pytest.raises(UserError, match="interrupted"):
        quiet.into(console)("datasets/make_infrared.py", "--help")


def test_judges_follow_their_own_flags(tmp_path: Path) -> None:
    from scripts.evaluating.judges import Judges

    (tmp_path / "r").mkdir()
    run = train_options(["--dataroot", "d", "--name", "r", "--checkpoints_dir", str(tmp_path), "--seed", "5"])
    asked = replace(Evaluation(), judge_epochs=3, judge_seed=11)
    of_the_run = replace(Evaluation(), judge_seed=-1)
    for wanted, expected in ((Evaluation(), (0, 25)), (of_the_run, (5, 25)), (asked, (11, 3))):
        judges = Judges(replace(run, extra=(wanted,)), 3, {}, "cpu")  # type: ignore[arg-type]
        options = judges._options
        assert (options.experiment.seed, options.schedule.last_epoch) == expected


# --- statistics


def fill(out: Path, suite: str, stage: str, values: Mapping[str, Mapping[int, tuple[float, float, float]]]) -> None:
    """Evaluations of flip rate, accuracy and KID, by arm and seed."""
    for arm, seeds in values.items():
        for seed, (flips, right, kid) in seeds.items():
            metrics: dict[str, Any] = {"flip_rate": number(flips), "acc_train_fake": number(right, "higher")}
            metrics |= {"kid": number(kid), "acc_train_real": number(0.9, "higher")}
            write(out / suite / stage / "checkpoints", content(f"{arm}_s{seed}", seed, "4", metrics=metrics))
    settings = {"size": 32, "ngf": 8, "batch": 2, "iterations": 4}
    (out / suite / stage / "settings.json").write_text(json.dumps(settings))


def shifted(gain: float, kid: float, jitter: float = 0.01) -> dict[int, tuple[float, float, float]]:
    """Six seeds whose flip rate is 0.5 - gain and accuracy 0.5 + gain, give or take."""
    return {s: (0.5 - gain + jitter * (s % 3 - 1), 0.5 + gain + jitter * (s % 2), kid + s / 1000) for s in range(1, 7)}


def test_differences_are_paired_and_corrected_over_the_family(tmp_path: Path) -> None:
    fill(tmp_path, "sar", "confirm", {"cut": shifted(0, 0.1, 0), "cls": shifted(0.1, 0.1), "cutcam": shifted(0, 0.1)})
    (found,) = read_results(tmp_path)
    tests = {(item.arm, item.outcome.metric): item for item in family([found])}
    assert len(tests) == 4
    item = tests["cls", "flip_rate"]
    # Differences -0.1 + (0, 0.01, -0.01) twice: mean -0.1, deviation sqrt(4e-4 / 5), t of 5 degrees by hand.
    assert item.mean == pytest.approx(-0.1)
    error = np.sqrt(4e-4 / 5 / 6)
    assert item.interval == pytest.approx((-0.1 - 2.570582 * error, -0.1 + 2.570582 * error), rel=1e-5)
    assert item.better == 6
    ordered = sorted((test for test in tests.values()), key=lambda test: test.p or 1)
    expected, last = [], 0.0
    for rank, test in enumerate(ordered):
        assert test.p is not None
        last = max(last, min(1.0, (4 - rank) * test.p))
        expected.append(last)
    assert [test.corrected for test in ordered] == pytest.approx(expected)
    assert tests["cls", "flip_rate"].gains
    assert tests["cls", "acc_train_fake"].gains
    assert not tests["cutcam", "flip_rate"].gains


def test_the_verdict_asks_for_both_outcomes_and_spares_kid(tmp_path: Path) -> None:
    better, worse_kid = shifted(0.2, 0.1), {s: (f, a, k + 0.5 + s / 100) for s, (f, a, k) in shifted(0.2, 0.1).items()}
    fill(tmp_path, "sar", "confirm", {"cut": shifted(0, 0.1, 0), "cls": better, "cls_5": worse_kid})
    fill(tmp_path, "infrared", "confirm", {"cut": shifted(0, 0.1, 0), "cls": better})
    results = read_results(tmp_path)
    tests, guarded = family(results), guards(results)
    assert suites_won("cls", tests, guarded) == ["sar"]  # infrared is none of the verdict's
    assert suites_won("cls_5", tests, guarded) == []


def test_the_screen_chooses_by_the_rule(tmp_path: Path) -> None:
    arms = {"cut": (0.5, 0.5, 0.1), "cutcam": (0.4, 0.6, 0.12), "cls": (0.2, 0.9, 0.5), "dclgan": (0.1, 0.9, 0.1)}
    for suite in ("sar", "thermal"):
        fill(tmp_path, suite, "screen", {arm: {101: value} for arm, value in arms.items()})
    fill(tmp_path, "infrared", "screen", {"cut": {101: arms["cut"]}, "cutcam": {101: arms["cutcam"]}})
    ranked = ranking(read_results(tmp_path))
    assert [(arm, round(gain, 6), round(ratio, 6)) for arm, gain, ratio in ranked] == [("cutcam", 0.1, 1.2)]
    fill(tmp_path, "infrared", "screen", {"cls": {101: arms["cls"]}})
    screens = read_results(tmp_path)
    assert [arm for arm, _, _ in ranking(screens)] == ["cls", "cutcam"]
    assert chosen(screens) == "cutcam"  # the KID of cls is five times CUT's


def test_the_report_has_tables_plots_and_the_verdict(tmp_path: Path) -> None:
    fill(tmp_path, "sar", "confirm", {"cut": shifted(0, 0.1, 0), "cls": shifted(0.1, 0.1)})
    fill(tmp_path, "sar", "screen", {"cut": {101: (0.5, 0.5, 0.1)}, "cls": {101: (0.3, 0.6, 0.1)}})
    text = write_report(tmp_path).read_text()
    assert "| cls | 6 | **0.4000** ± 0.0089 |" in text
    assert "Question 2. Does class consistency alone help over CUT?" in text
    assert "- `cls` is not better than CUT by the rule: it wins sar." in text
    assert "Chosen: cls." in text
    assert json.loads((tmp_path / "choice.json").read_text()) == {"arm": "cls"}
    for stage in ("screen", "confirm"):
        picture = cv2.imread(str(tmp_path / "plots" / f"sar_{stage}.png"))
        assert picture is not None
        assert picture.std() > 5
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["screen"]["sar"]["values"]["cls"]["flip_rate"] == {"101": 0.3}


def test_numbers_of_different_images_are_not_mixed(tmp_path: Path) -> None:
    fill(tmp_path, "sar", "confirm", {"cut": shifted(0, 0.1), "cls": shifted(0, 0.1)})
    path = tmp_path / "sar" / "confirm" / "checkpoints" / "cls_s2" / "evaluations" / "test_4.json"
    found = json.loads(path.read_text())
    found["data"]["source"]["digest"] = "other"
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match="different images"):
        write_report(tmp_path)


def test_an_empty_folder_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        reproduce.main(["--report", "--out", str(tmp_path)])


# --- all of it


@pytest.mark.slow
def test_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "JUDGED", 12)
    small: Budget = replace(TINY, flags="--netG resnet_4blocks --num_patches 16 --netF_nc 16")
    monkeypatch.setitem(plan.BUDGETS, "cpu", small)
    words = ["--suite", "infrared_unmatched", "--arms", "cut,cls", "--seeds", "1", "--out", str(tmp_path)]
    assert reproduce.main([*words, "--flags", "--gpu_ids -1"]) == 0
    found = json.loads((tmp_path / "report.json").read_text())["screen"]["infrared_unmatched"]["values"]
    for arm in ("cut", "cls"):
        assert 0 <= found[arm]["flip_rate"]["101"] <= 1
        assert 0 <= found[arm]["acc_train_fake"]["101"] <= 1
        assert -1 <= found[arm]["ssim"]["101"] <= 1
    assert 0 <= found["cls"]["CAM_energy_fake"]["101"] <= 1
    labels = Counter(
        row["label"]
        for row in table(tmp_path / "infrared_unmatched" / "screen" / "data" / "train" / "labels.csv")
        if row["file"].startswith("trainB")
    )
    assert labels["car"] >= 8
    assert bench.DOMAINS_RUN not in {
        path.name for path in (tmp_path / "infrared_unmatched" / "screen" / "checkpoints").iterdir()
    }
