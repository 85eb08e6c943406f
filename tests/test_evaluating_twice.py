"""An evaluation of what was evaluated before: no number is lost, and no figure stands beside another's numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from options.groups import Evaluation
from options.schema import OptionError
from scripts.evaluating.earlier import with_earlier
from scripts.evaluating.pictures import check_figures
from scripts.evaluating.record import write_record
from tests.comparing.conftest import content, number, per_image
from tests.conftest import make_data, make_splits
from tests.test_evaluate import read, run_script
from util.evaluations import read_evaluation, read_evaluations, read_features

if TYPE_CHECKING:
    from tests.conftest import Trained

BASIS = {"weights": "w", "eval": False, "tile": 0, "pairs": "p", "boxes": None, "features": "f"}


def evaluation(values: dict[str, float | None], **changes: Any) -> dict[str, Any]:
    """The content of a file with these numbers, each with a column and a table of its own."""
    columns = {name: value for name, value in values.items() if value is not None}
    per = {key: column for name, value in columns.items() for key, column in per_image(name, [value] * 2).items()}
    made = content("run", metrics={name: number(value, note="n") for name, value in values.items()}, per_image=per)
    made |= {"per_image_better": dict.fromkeys(columns, "lower"), "tables": dict(columns), "versions": {"torch": "2"}}
    return made | {"basis": BASIS, "seconds": dict(columns), **changes}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A file that an evaluation has left, with features and figures."""
    path = write_record(tmp_path / "run", evaluation({"fid": 5.0, "ssim": 0.5, "lpips": None, "old": None}), None)
    path.with_suffix("").mkdir()
    (path.with_suffix("") / "t-sne.png").write_bytes(b"figure")
    path.with_name("test_10_features.npz").write_bytes(b"features")
    return path


def test_numbers_of_the_same_weights_and_images_stand_together(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = evaluation({"ssim": 0.75, "lpips": 0.25, "fid": None}, basis=BASIS | {"features": None, "boxes": "b"})
    found = with_earlier(first, new | {"features": ""}, ["ssim", "lpips", "old", "fid"])
    assert {name: value["value"] for name, value in found["metrics"].items()} == {"fid": 5, "ssim": 0.75, "lpips": 0.25}
    assert list(found["metrics"]) == ["fid", "ssim", "lpips"], "in the earlier order"
    assert found["per_image"] == {
        **per_image("fid", [5.0, 5.0]),
        **{"ssim": [0.75, 0.75], "lpips": [0.25, 0.25]},
    }
    assert found["tables"] == found["seconds"] == {"fid": 5.0, "ssim": 0.75, "lpips": 0.25}
    assert set(found["per_image_better"]) == {"fid", "ssim", "lpips"}
    assert found["basis"] == BASIS | {"boxes": "b"}
    assert found["features"] == "inception"
    said = capsys.readouterr().out
    assert said == "kept of the earlier evaluation of the same weights and images: fid\n"
    assert sorted(item.name for item in first.parent.iterdir()) == ["test_10", "test_10.json", "test_10_features.npz"]
    again = read_evaluation(write_record(first.parent.parent, found, None))
    assert again.metrics["fid"].value == 5


def test_a_reason_for_no_number_stays_until_it_is_tried_again(first: Path) -> None:
    new = evaluation({"ssim": 0.75})
    assert set(with_earlier(first, new, ["ssim"])["metrics"]) == {"fid", "ssim", "lpips", "old"}
    assert set(with_earlier(first, new, ["ssim", "old"])["metrics"]) == {"fid", "ssim", "lpips"}


OTHERS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"basis": BASIS | {"weights": "other"}}, "measured by other weights"),
    ({"basis": BASIS | {"pairs": "other"}}, "measured by other pairs"),
    ({"basis": BASIS | {"tile": 64}}, "had --tile 0, not 64"),
    ({"data": content("run")["data"] | {"source": {"count": 2, "digest": "cc"}}}, r"measured other images \(source\)"),
    ({"per_image": per_image("ssim", [1.0])}, "measured images of another file"),
    ({"versions": {"torch": "3"}}, "was made with torch 2, not 3"),
    ({"options": content("run")["options"] | {"load_size": [64, 64]}}, r"had --load_size null, not \[64, 64\]"),
)


@pytest.mark.parametrize(("change", "words"), OTHERS)
def test_what_cannot_stand_together_is_kept_apart(
    first: Path, change: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = evaluation({"ssim": 0.75}, **change)
    assert with_earlier(first, new, ["ssim"]) == new
    aside = first.parent / "earlier" / "1"
    assert re.fullmatch(rf".*test_10\.json: an earlier evaluation {words}; it is kept as .*\n", capsys.readouterr().out)
    assert read_evaluation(aside / "test_10.json").metrics["fid"].value == 5
    assert (aside / "test_10" / "t-sne.png").read_bytes() == b"figure"
    assert (aside / "test_10_features.npz").read_bytes() == b"features"
    assert [item.name for item in first.parent.iterdir()] == ["earlier"], "nothing stale stands beside the new numbers"
    write_record(first.parent.parent, new, None)
    assert with_earlier(first, evaluation({"ssim": 0.5}), ["ssim"])["metrics"].keys() == {"ssim"}
    assert (first.parent / "earlier" / "2" / "test_10.json").is_file()


@pytest.mark.parametrize("damaged", ["{", "{}", None, "basis"])
def test_what_cannot_be_read_is_kept_too(first: Path, damaged: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if damaged is None:
        first.unlink()  # figures whose numbers are gone
    elif damaged == "basis":
        old = json.loads(first.read_text())
        del old["basis"]  # as evaluations were written that did not say which weights they are of
        first.write_text(json.dumps(old))
    else:
        first.write_text(damaged)
    new = evaluation({"ssim": 0.75})
    assert with_earlier(first, new, ["ssim"]) == new
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert (first.parent / "earlier" / "1" / "test_10").is_dir()
    assert not first.exists()


def test_options_of_no_effect_do_not_matter(first: Path) -> None:
    new = evaluation({"ssim": 0.75})
    new["options"] |= {"gpu_ids": "0", "dataroot": "elsewhere/scenes", "print_freq": 7}
    assert with_earlier(first, new, ["ssim"])["metrics"]["fid"]["value"] == 5


@pytest.mark.slow
def test_a_narrower_evaluation_adds_to_a_fuller_one(
    train_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_splits(tmp_path / "data", count=(8, 8))
    run = train_run("run", data, "--model", "cut", "--n_epochs", 1, "--n_epochs_decay", 0)
    full = ("--metrics", "fid,kid,semantics", "--features", "classifier", "--judge_epochs", 1)
    assert run_script(monkeypatch, run, data, *full) == 0
    before, folder = read(run, "test_latest.json"), run / "evaluations" / "test_latest"
    figures = {file.name for file in folder.iterdir()}
    assert {"t-sne.png", "features.png", "semantic_flips.png"} <= figures
    capsys.readouterr()

    assert run_script(monkeypatch, run, data, "--metrics", "ssim") == 0
    after = read(run, "test_latest.json")
    assert (
        "kept of the earlier evaluation of the same weights and images: fid, fid_source, kid, "
        in capsys.readouterr().out
    )
    assert {name: after["metrics"][name] for name in before["metrics"]} == before["metrics"]
    assert set(after["metrics"]) - set(before["metrics"]) == {"ssim_input"}
    assert after["tables"] == before["tables"]
    assert after["features"] == before["features"]
    assert {file.name for file in folder.iterdir()} == figures
    page = (folder / "report.html").read_text()
    for title in ("t-SNE", "Features", "Semantic flips", "Intensities"):
        assert f"<figcaption>{title}" in page
    (found,) = read_evaluations(run, "test")
    kept = read_features(found)
    assert kept is not None
    assert np.isfinite(kept.fake).all()

    assert run_script(monkeypatch, run, data, "--metrics", "ssim", "--num_test", 4) == 0
    assert "measured other images (source); it is kept as " in capsys.readouterr().out
    assert set(read(run, "test_latest.json")["metrics"]) == {"ssim_input"}
    left = {file.stem for file in folder.iterdir()}
    assert left == {"report", "intensities", "examples"}
    assert read(run, "earlier/1/test_latest.json") == after
    (found,) = read_evaluations(run, "test")
    assert read_features(found) is None


# --- --umap


def test_umap_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.evaluating.pictures.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"^--umap: draws the features of fid, kid, .*add one to --metrics"):
        check_figures(Evaluation(umap=True, metrics=("ssim", "psnr")))
    for metrics in ((), ("ssim", "kid")):
        with pytest.raises(OptionError, match=r"^--umap: needs the package umap-learn: pip install umap-learn"):
            check_figures(Evaluation(umap=True, metrics=metrics))
        check_figures(Evaluation(metrics=metrics))
    monkeypatch.setattr("scripts.evaluating.pictures.find_spec", lambda name: name)
    check_figures(Evaluation(umap=True))


@pytest.mark.slow
def test_umap_is_refused_or_said_by_the_program(
    train_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "data", count=(2, 2), labelled=())
    (data / "trainA").rename(data / "testA")
    make_data(tmp_path / "train", count=(2, 2), labelled=())
    (tmp_path / "train" / "trainA").rename(data / "trainA")
    run = train_run("run", data, "--model", "cut", "--n_epochs", 1, "--n_epochs_decay", 0)
    with pytest.raises(OptionError, match="--umap: draws the features"):
        run_script(monkeypatch, run, data, "--metrics", "ssim", "--umap")
    assert not (run / "evaluations").exists()
    monkeypatch.setattr("scripts.evaluating.pictures.find_spec", lambda name: name)
    assert run_script(monkeypatch, run, data, "--umap") == 0
    assert "--umap: there is no UMAP, as nothing gave features" in capsys.readouterr().out
