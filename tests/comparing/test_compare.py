"""Comparisons: runs grouped to methods, what is refused, intervals and tests, the script."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from options.schema import OptionError
from scripts.compare import main
from scripts.comparing.comparison import Comparison
from scripts.comparing.report import report_of
from scripts.comparing.tables import FORMATS
from tests.comparing.conftest import (
    IMAGES,
    Content,
    content,
    curve,
    methods,
    number,
    per_image,
    scores,
    seeds,
    shapes,
    write,
)
from util.errors import exit_code
from util.evaluations import (
    EvaluationError,
)
from util.statistics import sign_flip_test, t_interval, welch

# --- methods


def test_runs_that_differ_in_the_seed_alone_are_one_method(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write(tmp_path, content(f"cut_s{seed}", seed, options={"dataroot": f"disk{seed}/scenes"}))
    write(tmp_path, content("wide", 1, options={"lr": 0.1}))
    write(tmp_path, content("other_data", 2, options={"dataroot": "data/others"}))
    write(tmp_path, content("other_model", 4, model="cutcam"))
    found = methods(tmp_path, "wide", "cut_s1", "other_data", "cut_s2", "other_model", "cut_s3")
    assert shapes(found) == [
        ("wide", ["wide"]),
        ("cut", ["cut_s1", "cut_s2", "cut_s3"]),
        ("other_data", ["other_data"]),
        ("other_model", ["other_model"]),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cut_seed1", "cut_seed2"], "cut"),
        (["horses_1", "horses_2"], "horses"),
        (["cut-s01", "cut-s02"], "cut"),
        (["cut_s10", "cut_s11"], "cut"),
        (["s1", "s2"], "s"),
        (["alpha", "beta"], "alpha"),
    ],
)
def test_a_method_is_called_what_its_runs_share(tmp_path: Path, names: list[str], expected: str) -> None:
    for seed, name in enumerate(names):
        write(tmp_path, content(name, seed))
    assert [method.name for method in methods(tmp_path, *names)] == [expected]


def test_groups_override(tmp_path: Path) -> None:
    for seed, name in enumerate(["a1", "a2", "b1"]):
        write(tmp_path, content(name, seed))
    assert shapes(methods(tmp_path, "a1", "a2", "b1", groups=["mine=b1,a1"])) == [
        ("mine", ["b1", "a1"]),
        ("a2", ["a2"]),
    ]
    assert shapes(methods(tmp_path, groups=["x=a1", "y=a2,b1"])) == [("x", ["a1"]), ("y", ["a2", "b1"])]


@pytest.mark.parametrize(
    ("names", "groups", "message"),
    [
        (["a", "a"], [], "a is named twice"),
        (["a"], ["g=b", "h=b"], "b is named twice"),
        (["a"], ["g=a", "g=b"], "two groups have one name"),
        (["a"], ["g"], "--group g: should be NAME=RUN1,RUN2"),
        (["a"], ["=b"], "should be NAME=RUN1,RUN2"),
        (["a", "same"], [], "a and same are one method with one seed, 1"),
        (["a"], ["a=b"], "two methods have the name a"),
    ],
)
def test_what_cannot_be_grouped_is_named(tmp_path: Path, names: list[str], groups: list[str], message: str) -> None:
    for seed, name in enumerate(["b", "a"]):
        write(tmp_path, content(name, seed, options={"lr": seed}))
    write(tmp_path, content("same", 1, options={"lr": 1}))
    with pytest.raises(OptionError, match=message):
        methods(tmp_path, *names, groups=groups)


def test_a_missing_run_and_a_run_without_evaluations_say_so(tmp_path: Path) -> None:
    write(tmp_path, content("cutcam"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(OptionError, match=r"run cutcan: there is no folder.*did you mean 'cutcam'"):
        methods(tmp_path, "cutcan")
    with pytest.raises(EvaluationError, match=r"bare/evaluations: has no evaluation test_EPOCH\.json"):
        methods(tmp_path, "bare")
    with pytest.raises(OptionError, match="name at least one run"):
        methods(tmp_path)


def test_the_three_rules_stand_together(tmp_path: Path) -> None:
    curve(tmp_path, "a", {"1": 0.8, "2": 0.2, "3": 0.5})
    comparison = Comparison(methods(tmp_path, "a"))
    rows = report_of(comparison).tables[-1].rows
    assert [[cell.text for cell in row] for row in rows] == [
        ["a", "last", "0.5000"],
        ["a", "best", "0.8000"],
        ["a", "mean5", "0.5000"],
    ]
    assert len(report_of(Comparison(methods(tmp_path, "a"), "3")).tables) == 1


def test_a_missing_criterion_stops_best_alone(tmp_path: Path) -> None:
    for epoch in ("1", "2"):
        write(tmp_path, content("a", 1, epoch, metrics={"n": number(1.0, "")}))
    assert Comparison(methods(tmp_path, "a")).rules == ["last", "mean5"]
    with pytest.raises(OptionError, match="--epoch best"):
        Comparison(methods(tmp_path, "a"), "best")


# --- refusing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"source": {"count": IMAGES, "digest": "zz"}, "target": None}},
            r"different images \(source: 24 .*aa",
        ),
        (
            {"data": {"source": {"count": IMAGES, "digest": "aa"}, "target": None}},
            r"different images \(target: 20 .*none",
        ),
        ({"metrics": {"fid": number(50.0, kind="classifier")}}, r"different features \(fid is '' and 'classifier'\)"),
        ({"metrics": {"fid": number(50.0, "higher")}}, "different features"),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(tmp_path: Path, change: Content, message: str) -> None:
    write(tmp_path, content("one"))
    write(tmp_path, content("two", options={"lr": 1}, **change))
    with pytest.raises(EvaluationError, match=message) as caught:
        Comparison(methods(tmp_path, "one", "two"))
    assert "one/evaluations/test_10.json" in str(caught.value)
    assert "two/evaluations/test_10.json" in str(caught.value)


def test_images_in_another_order_are_other_images(tmp_path: Path) -> None:
    table = per_image("ssim", [0.1, 0.2])
    write(tmp_path, content("one", per_image=table))
    write(tmp_path, content("two", options={"lr": 1}, per_image=table | {"file": table["file"][::-1]}))
    with pytest.raises(EvaluationError, match="lists of files differ"):
        Comparison(methods(tmp_path, "one", "two"))


def test_numbers_by_different_classifiers_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a classifier has no seed in it: only the digests tell two of them apart."""
    metrics = {"fid": number(1.0, kind="of trainA"), "flip_rate": number(0.5, kind="of trainA"), "ssim": number(0.5)}
    for run, seed, digest in (("one", 1, "aa"), ("two", 2, "aa"), ("three", 3, "bb")):
        basis = {"weights": run, "features": digest, "classifier of the source": digest}
        write(tmp_path, content(run, seed, metrics=metrics, features="of trainA", basis=basis))
    where = ["--checkpoints_dir", str(tmp_path)]
    assert main(["one", "two", "three", *where, "--output", str(tmp_path / "table.txt")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert [line.split(":")[1] for line in lines] == [" fid", " flip_rate"]
    assert "(features: digests aa and bb)" in lines[0]
    assert "(classifier of the source: digests aa and bb)" in lines[1]
    assert all("the same --judge_seed" in line for line in lines)
    assert "WARNING: fid: " in (tmp_path / "table.txt").read_text()
    assert main(["one", "two", *where]) == 0
    assert main(["one", "three", *where, "--metrics", "ssim"]) == 0
    told = capsys.readouterr()
    assert "WARNING" not in told.out + told.err


def test_a_metric_of_another_kind_does_not_matter_where_it_is_not_asked_for(tmp_path: Path) -> None:
    write(tmp_path, content("one", metrics={"fid": number(1.0, kind="x"), "acc": number(1.0)}))
    write(tmp_path, content("two", 2, metrics={"fid": number(1.0, kind="y"), "acc": number(2.0)}))
    assert Comparison(methods(tmp_path, "one", "two"), metrics=["acc"]).metrics == ["acc"]
    with pytest.raises(OptionError, match=r"--metrics ac: was not measured.*did you mean 'acc'"):
        Comparison(methods(tmp_path, "one", "two"), metrics=["ac"])
    with pytest.raises(OptionError, match=r"--baseline three: no such method"):
        Comparison(methods(tmp_path, "one", "two"), metrics=["acc"], baseline="three")


# --- numbers


def test_one_seed_each_is_compared_image_by_image(tmp_path: Path) -> None:
    (a,), (b,) = scores(1, 1, 0.5), scores(2, 1, 0.52)
    seeds(tmp_path, "a", "cut", [a])
    seeds(tmp_path, "b", "cutcam", [b])
    comparison = Comparison(methods(tmp_path, "a_s1", "b_s1"))
    score, (difference,) = comparison.scores["a_s1", "ssim"], comparison.differences
    assert score.value == pytest.approx(a.mean())
    assert score.spread is None
    reach = 1.96 * a.std() / math.sqrt(IMAGES)
    assert score.interval == pytest.approx((a.mean() - reach, a.mean() + reach), abs=0.15 * reach)
    paired = 1.96 * (b - a).std() / math.sqrt(IMAGES)
    assert difference.value == pytest.approx((b - a).mean())
    assert difference.interval == pytest.approx(((b - a).mean() - paired, (b - a).mean() + paired), abs=0.15 * paired)
    assert paired < 0.5 * reach  # the images' difficulty is shared
    exact = sign_flip_test(b - a, np.random.default_rng(0), draws=100_000).p
    assert difference.images is not None
    assert difference.images.p == pytest.approx(exact, abs=0.02)
    assert difference.seeds is None


def test_several_seeds_have_a_spread_and_a_test_of_their_own(tmp_path: Path) -> None:
    a, b = scores(1, 3, 0.5), scores(2, 2, 0.6)
    seeds(tmp_path, "a", "cut", a)
    seeds(tmp_path, "b", "cutcam", b)
    comparison = Comparison(methods(tmp_path, "a_s1", "a_s2", "a_s3", "b_s1", "b_s2"), baseline="b")
    means_a, means_b = ([float(run.mean()) for run in runs] for runs in (a, b))
    score, (difference,) = comparison.scores["a", "ssim"], comparison.differences
    assert score.runs == 3
    assert score.value == pytest.approx(np.mean(means_a))
    assert score.spread == pytest.approx(np.std(means_a, ddof=1))
    by_seeds, student = welch(means_a, means_b), t_interval(means_a)
    assert by_seeds is not None
    assert student is not None
    assert difference.seeds is not None
    assert difference.images is not None
    assert difference.value == pytest.approx(np.mean(means_a) - np.mean(means_b))
    assert difference.seeds.p == pytest.approx(by_seeds[1])
    assert score.interval is not None
    assert score.interval.high - score.interval.low > student.high - student.low  # images vary as well
    assert difference.images.p < difference.seeds.p


def test_where_images_hardly_differ_intervals_are_those_over_seeds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, (5, IMAGES))
    a, b = ([mean + noise[n] for n, mean in enumerate(means)] for means in ([0.5, 0.53, 0.6], [0.8, 0.7]))
    seeds(tmp_path, "a", "cut", a)
    seeds(tmp_path, "b", "cutcam", b)
    comparison = Comparison(methods(tmp_path, "a_s1", "a_s2", "a_s3", "b_s1", "b_s2"))
    by_seeds = welch([0.8, 0.7], [0.5, 0.53, 0.6])
    assert by_seeds is not None
    assert comparison.scores["a", "ssim"].interval == pytest.approx(t_interval([0.5, 0.53, 0.6]), abs=0.02)
    assert comparison.differences[0].interval == pytest.approx(by_seeds[0], abs=0.05)


def test_images_without_a_value_in_some_run_are_left_out_everywhere(tmp_path: Path) -> None:
    (a,), (b,) = scores(1, 1, 0.5), scores(2, 1, 0.6)
    a[3], b[5] = np.nan, np.nan
    seeds(tmp_path, "a", "cut", [a])
    seeds(tmp_path, "b", "cutcam", [b])
    comparison = Comparison(methods(tmp_path, "a_s1", "b_s1"))
    sampling = comparison.columns["ssim"].sampling
    assert sampling is not None
    assert sampling.images == IMAGES - 2
    assert comparison.differences[0].value == pytest.approx(np.nanmean(b - a))
    assert comparison.scores["a_s1", "ssim"].value == pytest.approx(np.nanmean(a))


def test_a_value_that_is_no_mean_over_images_has_no_interval_over_images(tmp_path: Path) -> None:
    for name, model in (("a", "cut"), ("b", "cutcam")):
        table = per_image("acc", [0.0, 1.0, 1.0])
        write(tmp_path, content(name, model=model, metrics={"acc": number(0.5, "higher")}, per_image=table))
    comparison = Comparison(methods(tmp_path, "a", "b"))
    assert comparison.columns["acc"].sampling is None
    assert comparison.columns["acc"].reason == "not the mean of its values per image (run a)"
    assert comparison.scores["a", "acc"].interval is None


def test_set_metrics_have_intervals_over_seeds(tmp_path: Path) -> None:
    for model, values in (("cut", [50.0, 52.0, 57.0]), ("cutcam", [40.0, 41.0])):
        for seed, value in enumerate(values):
            write(tmp_path, content(f"{model}_{seed}", seed, model=model, metrics={"fid": number(value)}))
    comparison = Comparison(methods(tmp_path, "cut_0", "cut_1", "cut_2", "cutcam_0", "cutcam_1"))
    assert comparison.scores["cut", "fid"].interval == t_interval([50, 52, 57])
    by_seeds = welch([40, 41], [50, 52, 57])
    assert by_seeds is not None
    (difference,) = comparison.differences
    assert (difference.interval, difference.images) == (by_seeds[0], None)
    assert comparison.scores["cutcam", "fid"].best
    assert not comparison.scores["cut", "fid"].best


def test_holm_counts_every_test_of_the_table(tmp_path: Path) -> None:
    for run, shift in (("a", 0.0), ("b", 0.04), ("c", 0.01)):
        seeds(tmp_path, run, run, scores(ord(run), 1, 0.5 + shift))
    comparison = Comparison(methods(tmp_path, "a_s1", "b_s1", "c_s1"))
    small, large = sorted(test.p for item in comparison.differences if (test := item.images))
    corrected = sorted(test.corrected for item in comparison.differences if (test := item.images))
    assert corrected == pytest.approx(sorted([min(1, 2 * small), max(large, min(1, 2 * small))]))


def test_equal_values_are_all_best_and_one_alone_or_without_direction_is_not(tmp_path: Path) -> None:
    metrics = {"fid": number(1.0), "n": number(3.0, "")}
    write(tmp_path, content("a", metrics=metrics | {"acc": number(0.5, "higher")}))
    write(tmp_path, content("b", model="x", metrics=metrics | {"acc": number(None, "higher", note="no labels")}))
    found = Comparison(methods(tmp_path, "a", "b")).scores
    assert [found[m, "fid"].best for m in "ab"] == [True, True]
    assert not any(found[key].best for key in found if key[1] != "fid")
    assert found["b", "acc"].reason == "b: no labels"


# --- the script


def demo(folder: Path) -> None:
    seeds(folder, "cut", "cut", scores(1, 2, 0.5))
    seeds(folder, "cutcam", "cutcam", scores(2, 2, 0.6))
    path = folder / "cut_s1/evaluations/test_10.json"
    made = json.loads(path.read_text())
    made["metrics"]["lpips"] = number(None, note="weights are missing")
    path.write_text(json.dumps(made))


RUNS = ["cut_s1", "cut_s2", "cutcam_s1", "cutcam_s2"]


def test_nothing_is_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(tmp_path)
    assert main([*RUNS, "--checkpoints_dir", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "2 methods on 24 images of the phase test",
        "the last evaluation of each run",
        "cut: n = 2 seeds: cut_s1 (seed 1, epoch 10), cut_s2 (seed 2, epoch 10).",
        "ssim (24 images): paired bootstrap, 10,000 resamples",
        "Holm: corrected over all 1 tests of images, and over all 1 of seeds",
        "lpips lacks: cut_s1: weights are missing; cut_s2: not measured; cutcam_s1: not measured",
    ):
        assert part in said
    assert main([RUNS[0], "--checkpoints_dir", str(tmp_path)]) == 0
    assert "one seed is no evidence about a method" in " ".join(capsys.readouterr().out.split())


def test_the_json_is_for_machines_and_equal_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(tmp_path)
    out = tmp_path / "out/table.json"
    command = [*RUNS, "--checkpoints_dir", str(tmp_path), "--format", "json", "--baseline", "cutcam"]
    assert main([*command, "--output", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    main(command)
    assert capsys.readouterr().out == out.read_text()
    data = json.loads(out.read_text())
    assert (data["baseline"], data["rule"], data["images"]) == ("cutcam", "last", IMAGES)
    assert [[run["seed"] for run in method["runs"]] for method in data["methods"]] == [[1, 2], [1, 2]]
    found = {(score["method"], score["metric"]): score for score in data["scores"]}
    assert found["cut", "ssim"]["value"] < found["cutcam", "ssim"]["value"]
    assert found["cutcam", "ssim"]["best"]
    assert found["cut", "lpips"]["value"] is None
    assert data["differences"][0]["method"] == "cut"
    assert data["differences"][0]["images"]["p"] > 0


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_written_by_the_script(tmp_path: Path, form: str) -> None:
    demo(tmp_path)
    out = tmp_path / "table"
    command = [*RUNS, "--checkpoints_dir", str(tmp_path), "--metrics", "ssim", "--format", form, "--output", str(out)]
    assert main(command) == 0
    assert "cutcam" in out.read_text()
    assert "lpips" not in out.read_text()


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(tmp_path)
    assert exit_code(lambda: main([*RUNS, "--checkpoints_dir", str(tmp_path), "--epoch", "7"])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --epoch 7: cut_s1 has no such evaluation")
    assert error.count("\n") == 1
