"""Settings of single explainers: which are refused, whom they concern, and where a reader of maps sees them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from models.cam.base import EXPLAINERS
from options.groups import Explanation
from options.schema import OptionError
from scripts.explaining.maps import MapMaker
from scripts.explaining.settings import explainers
from scripts.explaining.written import Writer
from scripts.faithfulness.saved import find_maps
from util.strict_json import JsonError
from util.visual import html


@pytest.mark.parametrize("word", ["gradcam++.eps=nan", "sscam.std=nan", "smoothgradcam++.std=inf", "sscam.std=-inf"])
def test_a_setting_that_is_no_finite_number_is_refused(word: str) -> None:
    with pytest.raises(OptionError) as raised:
        explainers([word.partition(".")[0]], [word])
    assert str(raised.value) == f"--method_settings {word}: give a finite number"


def test_settings_are_of_methods_asked_for_not_of_those_shown_beside_them() -> None:
    net = nn.Conv2d(1, 1, 1)
    words = ("gradcam++.eps=0.5",)
    alone = Explanation(explain_with=("guided_gradcam++",), method_settings=words)
    with pytest.raises(OptionError, match=r"gradcam\+\+ is not asked for \(guided_gradcam\+\+\)"):
        MapMaker(net, alone, "auto")
    both = Explanation(explain_with=("guided_gradcam++", "gradcam++"), method_settings=words)
    made = MapMaker(net, both, "auto")._explainers
    assert vars(made["gradcam++"]) == {**vars(EXPLAINERS.get("gradcam++")()), "eps": 0.5}
    beside = MapMaker(net, Explanation(explain_with=("guided_gradcam++",)), "auto")._explainers
    assert set(beside) == {"guided_gradcam++", "gradcam++", "guided_backprop"}
    assert vars(beside["gradcam++"]) == vars(EXPLAINERS.get("gradcam++")())


def test_the_page_names_the_settings_that_were_changed(tmp_path: Path) -> None:
    for folder, words in (("changed", ("scorecam.channels=1", "sscam.std=2")), ("usual", ())):
        look = Explanation(method_settings=words)
        page = Writer(tmp_path / folder, look, {}, {}).close("Title", "sscam does not apply", {}).read_text()
        assert ("<p>Settings: scorecam.channels=1, sscam.std=2</p>" in page) == bool(words)
        assert ("Settings" in page) == bool(words)
        assert "<p>sscam does not apply</p>" in page


def saved(folder: Path, settings: Any) -> list[str]:
    maps = [{"method": name, "layer": "trunk.4", "raw": "a.npy", "target": 0} for name in ("scorecam", "gradcam")]
    content: dict[str, Any] = {"images": [{"file": "a.png", "label": 0, "maps": maps}]}
    (folder / "manifest.json").write_text(json.dumps(content | settings))
    (folder / "a.png").touch()
    return [one.method for one in find_maps(folder, None)]


def test_rows_of_saved_maps_name_the_settings_that_were_changed(tmp_path: Path) -> None:
    assert saved(tmp_path, {}) == ["scorecam at trunk.4", "gradcam at trunk.4"]
    words = ["scorecam.channels=3", "scorecam.scale_first=yes", "scorecam.channels=1"]
    expected = ["scorecam (channels=1, scale_first=yes) at trunk.4", "gradcam at trunk.4"]
    assert saved(tmp_path, {"method_settings": words}) == expected
    for wrong in ("scorecam.channels=1", [1], ["channels=1"], ["scorecam.channels"]):
        with pytest.raises(JsonError, match="method_settings should be a list"):
            saved(tmp_path, {"method_settings": wrong})


def test_one_row_is_one_row(tmp_path: Path) -> None:
    rows = [html.Row("first", []), html.Row("second", [])]
    for count, text in ((1, "1 row, "), (2, "2 rows, "), (0, "0 rows, ")):
        html.write_results_page(tmp_path / "index.html", "Title", rows[:count])
        assert f">{text}{datetime.now():%d}" in (tmp_path / "index.html").read_text()
