"""The report: escaped, self-contained, every number where it belongs, and sorted and filtered in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.headless import CHROMIUM, Browser
from util.visual.embedded import preview
from util.visual.figures import confusion_figure, figure_bytes
from util.visual.report import ReportRow, number_text, select_images, write_report

HOSTILE = "<script>document.title='broken'</script>'\"&{{ 7 * 7 }}</script><!--<script>$x\u2028"


def metric(value: float | None, better: str = "", **more: Any) -> dict[str, Any]:
    return {"value": value, "spread": None, "kind": "", "note": "", "better": better} | more


def evaluation(**more: Any) -> dict[str, Any]:
    """Five images, of which lpips (lower is better) lacks one and cc_input has no direction."""
    metrics = {
        "fid": metric(54.123456, "lower", kind="inception-v3-compat, TF1 bilinear resize to 299"),
        "lpips": metric(0.25, "lower", spread=0.0213),
        "ms_ssim": metric(None, "higher", note="images of 128 px are too small"),
        "flip_rate": metric(0.5, "lower"),
        "CAM_corr": metric(0.7, "higher"),
        "mIoU": metric(0.9, "higher"),
        "cc_input": metric(0.1),
        "own_idea": metric(1234.5678),
    }
    per_image = {
        "file": ["a.png", "b.png", "c.png", "d.png", "e.png"],
        "label": [0, 1, 1, 0, -1],
        "lpips": [0.1, 0.5, None, 0.3, 0.2],
        "cc_input": [0.9, 0.8, 0.7, 0.6, 0.5],
    }
    return {
        "run": "cutcam_run",
        "model": "cutcam",
        "seed": 0,
        "epoch": "100",
        "step": 1200,
        "phase": "test",
        "direction": "AtoB",
        "data": {"dataroot": "datasets/x", "source": {"count": 5, "digest": "ab" * 32}, "target": None},
        "versions": {"torch": "2.15.0"},
        "options": {"lambda_CAM": 25.0},
        "features": "inception-v3-compat",
        "metrics": metrics,
        "per_image": per_image,
        "seconds": {"translate": 1.25},
    } | more


def picture(value: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def rows_of(content: Mapping[str, Any]) -> list[ReportRow]:
    files = zip(content["per_image"]["file"], content["per_image"]["label"], strict=True)
    return [
        ReportRow(file, {"input": picture(10 * n), "translation": picture(10 * n + 5)}, label)
        for n, (file, label) in enumerate(files)
    ]


class Page(HTMLParser):
    """Addresses, tags and table rows of a page, and the blocks of data in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.blocks: dict[str, Any] = {}
        self.tables: list[list[str]] = []
        self._block: str | None = None
        self._cell = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.names |= set(values)
        self.sources += [values[name] or "" for name in ("src", "href") if name in values]
        self._block = values.get("id") or "" if tag == "script" else None
        if tag == "tr":
            self.tables.append([])
        if tag in ("td", "th"):
            self.tables[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._block:
            self.blocks[self._block] = json.loads(data)
        elif self._block is None:
            self.text += data
            if self._cell:
                self.tables[-1][-1] += data
        self._block = None

    def line(self, name: str) -> list[str]:
        (found,) = [row for row in self.tables if row and row[0].split()[0] == name]
        return [" ".join(cell.split()) for cell in found]


def written(tmp_path: Path, content: Mapping[str, Any], **more: Any) -> Page:
    if "rows" not in more:
        more["rows"] = rows_of(content) if content else []
    rows = more.pop("rows")
    write_report(tmp_path / "report.html", content, rows, more.pop("figures", {}), **more)
    return Page(tmp_path / "report.html")


# --- numbers


def test_every_metric_is_in_its_table_with_direction_kind_and_reason(tmp_path: Path) -> None:
    page = written(tmp_path, evaluation())
    assert page.line("fid") == ["fid ↓", "54.12", "inception-v3-compat, TF1 bilinear resize to 299"]
    assert page.line("lpips") == ["lpips ↓", "0.250 ± 0.021", ""]
    assert page.line("ms_ssim") == ["ms_ssim ↑", "–", "not computed: images of 128 px are too small"]
    assert page.line("cc_input")[0] == "cc_input"
    assert page.line("own_idea")[1] == "1235"
    titles = ["Distribution", "Pairs", "Semantics", "Explanations", "Segmentation", "Others"]
    assert re.findall(r"<h3>(\w+)</h3>", page.source) == titles
    headings = [number for number, row in enumerate(page.tables) if row[0] == "metric"]
    rows = {name: page.tables.index(row) for row in page.tables for name in row[0].split()[:1]}
    assert headings[1] < rows["lpips"] < headings[2] < rows["flip_rate"] < headings[3] < rows["CAM_corr"] < headings[4]


def test_last_best_and_mean_stand_beside_each_other(tmp_path: Path) -> None:
    best = {"fid": metric(50.5, "lower"), "kid": metric(0.031, "lower", spread=0.002)}
    protocol = {"best by fid (epoch 80)": best, "mean of the last five": evaluation()["metrics"]}
    page = written(tmp_path, evaluation(), protocol=protocol)
    assert page.tables[0] == ["metric", "epoch 100", "best by fid (epoch 80)", "mean of the last five", "what it is"]
    assert page.line("fid")[1:4] == ["54.12", "50.50", "54.12"]
    assert page.line("kid")[1:4] == ["–", "0.0310 ± 0.0020", "–"]


@pytest.mark.parametrize(
    ("value", "spread", "expected"),
    [
        (None, None, "–"),
        (54.123456, None, "54.12"),
        (0.031234, 0.00213, "0.0312 ± 0.0021"),
        (12345.6, 78.9, "12346 ± 79"),
        (0.0, None, "0.000"),
        (0.5, 0.0, "0.5000 ± 0.0000"),
        (1.0, 2.2e-16, "1.000 ± 0.000"),
        (54.123456, 1e-5, "54.12 ± 0.00"),
        (0.0, 1e-12, "0.000 ± 0.000"),
        (1e-5, 2e-6, "0.0000100 ± 0.0000020"),
        (-0.25, None, "-0.2500"),
        (1e-12, None, "0.00000000"),
    ],
)
def test_numbers_have_the_digits_that_they_know(value: float | None, spread: float | None, expected: str) -> None:
    assert number_text(value, spread) == expected


def test_the_facts_say_what_the_numbers_depend_on(tmp_path: Path) -> None:
    page = written(tmp_path, evaluation(), chosen="120 of 1000 images: the 60 worst by X and 60 at equal distances")
    for fact in ("cutcam_run", "1200", "AtoB", "datasets/x", "5, digest abababababab", "translate 1.2 s", "25.0"):
        assert fact in page.text
    assert "Shown: 120 of 1000 images: the 60 worst by X and 60 at equal distances." in page.text
    assert "at most 256 px a side" in page.text
    assert re.search(r"<dt>seed</dt><dd>0</dd>", page.source), "a seed of 0 is one"
    assert "target images" not in page.text


def test_the_page_says_its_size(tmp_path: Path) -> None:
    size = write_report(tmp_path / "new" / "r.html", evaluation(), rows_of(evaluation()), {}, "\0 bytes")
    file = tmp_path / "new" / "r.html"
    assert file.stat().st_size == size
    assert f"direction AtoB · {size / 1000:.0f} kB" in file.read_text().replace("test · AtoB", "direction AtoB")
    assert [found.name for found in file.parent.iterdir()] == ["r.html"]


def test_a_report_of_little(tmp_path: Path) -> None:
    page = written(tmp_path, {})
    assert "Nothing was measured." in page.text
    assert "script" not in page.tags
    assert page.tables == []


# --- on its own, whatever the names are


def test_hostile_names_are_text_and_nothing_comes_from_outside(tmp_path: Path) -> None:
    content = evaluation(run=HOSTILE, options={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE}, features=HOSTILE)
    content["metrics"] = {HOSTILE: metric(1.0, HOSTILE, kind=HOSTILE, note=HOSTILE)}
    content["per_image"] = {"file": [HOSTILE], HOSTILE: [0.5]}
    row = ReportRow(HOSTILE, {HOSTILE: picture(1)}, 0, HOSTILE)
    figures = {HOSTILE: figure_bytes(confusion_figure([[1]], [HOSTILE]), "svg").decode()}
    page = written(
        tmp_path,
        content,
        rows=[row],
        figures=figures,
        class_names={0: HOSTILE},
        protocol={HOSTILE: {}},
        chosen=HOSTILE,
    )
    shown = HOSTILE.replace("\u2028", "\\u2028")
    assert page.tags.count("script") == 3  # the data, one block of pictures, the program
    assert page.text.count(shown) >= 8
    assert page.blocks["data"]["rows"][0]["file"] == shown
    assert page.blocks["data"]["classes"] == {"0": shown}
    assert page.blocks["data"]["scores"][0]["name"] == shown
    assert not re.search(r"https?:|@import|url\(", page.source)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert not [name for name in page.names if name.startswith("on")]
    assert {source.split(",")[0] for source in page.sources if source[0] != "#"} == {"data:image/svg+xml;base64"}
    assert "default-src 'none'" in page.source


def test_previews_are_in_the_page_and_are_the_pictures(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    red = np.zeros((16, 600, 3), np.uint8)
    red[..., 0] = 200
    page = written(
        tmp_path, evaluation(), rows=[ReportRow("a.png", {"input": grey, "map": red}, 0)], class_names={0: "car"}
    )
    facts = page.blocks["data"]["rows"][0]
    assert facts["pictures"] == [["input", 30, 40], ["map", 256, 7]]
    assert facts["scores"] == [0.1, 0.9]
    assert page.blocks["data"]["classes"] == {"0": "car"}
    first, second = (decoded(source) for source in page.blocks["pictures-0"])
    np.testing.assert_array_equal(first, np.repeat(grey[..., None], 3, axis=2))
    assert np.abs(second.astype(int) - red[:7, :256]).max() <= 3
    assert not [source for source in page.sources if source.startswith("data:")], "no image before it is looked at"


def decoded(address: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[:, :, ::-1]


def test_previews_are_averages_and_choose_the_smaller_file() -> None:
    pairs = np.tile(np.array([[0, 100]], np.uint8), (64, 32))
    address, size = preview(pairs, 32)
    assert size == (32, 32)
    assert set(decoded(address).ravel().tolist()) == {50}
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert preview(noise)[0].startswith("data:image/jpeg;")
    assert np.abs(decoded(preview(noise)[0]).astype(int) - noise).mean() < 12
    assert preview(noise[..., 0])[0].startswith("data:image/png;"), "grey pictures keep their pixels"
    assert preview(np.zeros((1, 999), np.uint8), 100)[1] == (100, 1)


def test_scores_belong_to_files_and_not_to_places(tmp_path: Path) -> None:
    rows = [ReportRow("d.png", {}), ReportRow("unknown.png", {}), ReportRow("c.png", {})]
    data = written(tmp_path, evaluation(), rows=rows).blocks["data"]
    assert [row["scores"] for row in data["rows"]] == [[0.3, 0.6], [None, None], [None, 0.7]]
    assert data["scores"] == [
        {"name": "lpips", "better": "lower", "low": 0.3, "high": 0.3},
        {"name": "cc_input", "better": "", "low": 0.6, "high": 0.7},
    ]
    assert data["classes"] == {"-1": "unlabelled"}


def test_scores_without_a_metric_of_their_name_have_their_own_direction(tmp_path: Path) -> None:
    content = evaluation(per_image_better={"class_kept": "higher", "lpips": "lower"})
    content["per_image"] = content["per_image"] | {"class_kept": [1.0, 0.0, None, 1.0, 0.0]}
    scores = written(tmp_path, content).blocks["data"]["scores"]
    assert {score["name"]: score["better"] for score in scores} == {
        "lpips": "lower",
        "cc_input": "",
        "class_kept": "higher",
    }


def test_annotated_pictures_lie_behind_the_plain_ones(tmp_path: Path) -> None:
    shown = {"input": picture(10), "target": picture(20), "translation": picture(30)}
    rows = [ReportRow("a.png", shown, 0, annotated={"translation": picture(230)}), ReportRow("b.png", shown)]
    page = written(tmp_path, evaluation(), rows=rows, annotations=f"orange: {HOSTILE}")
    assert [row["annotated"] for row in page.blocks["data"]["rows"]] == [[2], []]
    levels = [[int(decoded(source).mean()) for source in page.blocks[f"pictures-{n}"]] for n in (0, 1)]
    assert levels == [[10, 20, 30, 230], [10, 20, 30]]
    assert "Annotations: orange: <script>" in page.text
    assert "<fieldset><legend>pictures</legend>" in page.source
    bare = written(tmp_path, evaluation(), annotations="orange: boxes")
    assert "Annotations" not in bare.text
    assert "<fieldset hidden><legend>pictures</legend>" in bare.source
    for wrong in ({"translation": picture(1, 9, 8)}, {"mask": picture(1)}):
        with pytest.raises(ValueError, match=r"a\.png: the annotated .* has no plain picture of its size"):
            written(tmp_path, evaluation(), rows=[ReportRow("a.png", shown, annotated=wrong)])


def test_figures_are_shown_at_their_size_in_order(tmp_path: Path) -> None:
    figure = confusion_figure([[1]], ["a"])
    png = figure_bytes(figure, "png")
    page = written(tmp_path, evaluation(), figures={"one": png, "two": figure_bytes(picture(1, 20, 30), "png")})
    first, second = page.sources[-2:]
    assert base64.b64decode(first.split(",")[1]) == png
    assert decoded(second).shape == (20, 30, 3)
    widths = re.findall(r' width="(\d+)"', page.source)
    assert widths == [str(round(figure.get_size_inches()[0] * 96)), "30"]
    for bad in (b"GIF89a", "no picture"):
        with pytest.raises(ValueError, match="'one' is"):
            written(tmp_path, evaluation(), figures={"one": bad})


# --- which images


def test_a_selection_holds_the_worst_and_others_at_equal_distances() -> None:
    scores = [None if n == 19 else float(n % 10) for n in range(100)]
    chosen = select_images(100, 12, scores, "lpips", "lower")
    worst = [9, 29, 39, 49, 59, 69]  # of equal ones the first; 19 has no score
    rest = [n for n in range(100) if n not in worst]
    assert list(chosen.numbers) == sorted(worst + [rest[round(place)] for place in np.linspace(0, 93, 6)])
    assert chosen.statement == "12 of 100 images: the 6 worst by lpips and 6 of the others at equal distances"
    low = select_images(100, 12, scores, "cc_input")
    assert {0, 10, 20, 30, 40, 50} <= set(low.numbers)
    assert "the 6 lowest by cc_input" in low.statement


def test_a_selection_without_scores_or_of_all() -> None:
    assert select_images(101, 5).numbers == [0, 25, 50, 75, 100]
    assert select_images(101, 5).statement == "5 of 101 images: at equal distances"
    assert (list(select_images(3, 5).numbers), select_images(3, 5).statement) == ([0, 1, 2], "all 3 images")
    assert len(select_images(9, 4, [None] * 8 + [1.0], "cc", "higher").numbers) == 4
    with pytest.raises(ValueError, match="room for 2"):
        select_images(9, 1)
    with pytest.raises(ValueError, match="score for each"):
        select_images(9, 4, [1.0])


# --- in a browser


class Shown(HTMLParser):
    """Files of the cards that are not hidden, in order, and the images that have been loaded."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.files: list[str] = []
        self.loaded = 0
        self.sources: list[str] = []
        self.visible = self._file = self._title = False
        self.title = self.count = ""
        self._count = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "article":
            self.visible = "hidden" not in values
        self._file = self.visible and values.get("class") == "file"
        self._title, self._count = tag == "title", values.get("id") == "shown"
        if tag == "img" and values.get("src"):
            self.sources.append(values["src"] or "")

    def handle_data(self, data: str) -> None:
        if self._file:
            self.files.append(data)
        if self._count:
            self.count += data
        self.title += data if self._title else ""
        self._file = self._title = self._count = False


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`browse(fragment)` -> what a browser makes of a report of 60 images."""
    if not CHROMIUM:
        pytest.skip("no Chromium on the PATH")
    folder = tmp_path_factory.mktemp("report")
    content, count = evaluation(), 60
    names = [f"{n:02d}.Png" for n in range(count - 1)] + [HOSTILE]
    lpips = [None if n == 7 else abs(n - 20.5) / 100 for n in range(count)]
    kept = [float(n % 4 > 0) for n in range(count)]
    content["per_image"] = {"file": names, "lpips": lpips, "cc_input": [n / 100 for n in range(count)], "kept": kept}
    content["per_image_better"] = {"kept": "higher"}
    rows = [
        ReportRow(
            names[n],
            {"target": picture(90, 64, 64), "input": picture(n, 64, 64)},
            n % 3 - 1,
            HOSTILE,
            annotated={"input": picture(n + 150, 64, 64)},
        )
        for n in range(count)
    ]
    write_report(folder / "a b#c.html", content, rows, {}, HOSTILE, class_names={0: "car", 1: HOSTILE})
    return partial(in_browser, folder / "a b#c.html", folder / "profile")


def in_browser(page: Path, profile: Path, fragment: str, ready: str = "true") -> Shown:
    """The page as it stands once it is loaded and `ready` holds."""
    browser = Browser(profile)
    try:
        browser.page(
            "Emulation.setDeviceMetricsOverride", width=1000, height=1400, deviceScaleFactor=1, mobile=False
        )  # high enough for the first pictures to be near
        browser.page("Page.navigate", url=page.as_uri() + fragment)
        browser.wait_for("location.protocol === 'file:' && document.readyState === 'complete'")
        browser.wait_for(ready)
        return Shown(browser.run("document.documentElement.outerHTML"))
    finally:
        browser.close()


def by_lpips(numbers: Any, worst_first: bool) -> list[str]:
    known = sorted((n for n in numbers if n != 7), key=lambda n: (-abs(n - 20.5) if worst_first else abs(n - 20.5), n))
    return [f"{n:02d}.Png" if n < 59 else HOSTILE.replace("\u2028", "\\u2028") for n in known]


def test_a_browser_shows_all_in_order_and_loads_only_what_is_near(browse: Any) -> None:
    seen = browse("", "document.querySelector('img[src^=\"data:image/\"]')")  # filled once they have been drawn
    assert seen.files == [*(f"{n:02d}.Png" for n in range(59)), HOSTILE.replace("\u2028", "\\u2028")]
    assert seen.count == "60 of 60 shown"
    assert 0 < len(seen.sources) < 120  # two pictures a card
    assert all(source.startswith("data:image/") for source in seen.sources)
    assert "broken" not in seen.title.replace(HOSTILE.replace("\u2028", "\\u2028"), "")


def test_a_browser_sorts_the_worst_first_and_those_without_a_score_last(browse: Any) -> None:
    assert browse("#sort=lpips&order=worst").files == [*by_lpips(range(60), True), "07.Png"]
    assert browse("#sort=lpips&order=low").files == [*by_lpips(range(60), False), "07.Png"]


def test_a_browser_filters_by_class_range_and_name(browse: Any) -> None:
    seen = browse("#sort=lpips&order=best&class=0,1&score=lpips&min=0.015&max=0.2")
    wanted = [n for n in range(60) if n % 3 != 0 and n != 7 and 0.015 <= abs(n - 20.5) / 100 <= 0.2]
    assert seen.files == by_lpips(wanted, False)
    assert seen.count == f"{len(wanted)} of 60 shown"


def test_a_browser_knows_low_and_high_where_neither_is_worse(browse: Any) -> None:
    assert browse("#sort=cc_input&order=high&text=1.PNG").files == [
        "51.Png",
        "41.Png",
        "31.Png",
        "21.Png",
        "11.Png",
        "01.Png",
    ]


def test_a_browser_sorts_yes_and_no_worst_first(browse: Any) -> None:
    wanted = [*range(0, 59, 4), *(n for n in range(59) if n % 4)]
    assert browse("#sort=kept&order=worst").files[:59] == [f"{n:02d}.Png" for n in wanted]
    assert browse("#sort=kept").files[:4] == ["00.Png", "04.Png", "08.Png", "12.Png"], "also where no order is given"


def test_a_browser_swaps_pictures_for_annotated_ones(browse: Any) -> None:
    for address, levels in (("#text=07.png", [90, 7]), ("#text=07.png&annotations=on", [90, 157])):
        assert [int(decoded(source).mean()) for source in browse(address).sources[:2]] == levels


def test_a_browser_is_not_led_astray_by_its_address(browse: Any) -> None:
    assert browse("#sort=nonsense&order=up&score=none&min=x&class=9,a").count == "60 of 60 shown"
