"""Pages of pictures and loss curves that open from the disk, without a server, a script or a network."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from util.errors import counted
from util.files import write_atomic
from util.visual.base import Moment
from util.visual.curves import svg_groups
from util.visual.files import png_bytes, set_aside, slug
from util.visual.jsonl import read_log

LOWEST, HIGHEST = 192, 480  # height of a picture on a page, CSS pixels
TEMPLATES = Path(__file__).with_name("templates")
PICTURE_FILE = re.compile(r"epoch(\d{3,})_step(\d{6,})_(.+)\.png")


def render(template: str, **fields: Any) -> bytes:
    """Fill a template of `util/visual/templates`; every value is escaped unless it is `Markup`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 0.2 s, which --help need not wait for

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**fields).encode()


@dataclass(frozen=True)
class _Picture:
    """A picture on a page and the size it is shown at, fixed so that nothing jumps while pages load."""

    label: str
    source: str
    width: int
    height: int


def _picture(label: str, file: Path, source: str) -> _Picture:
    """Small pictures are shown enlarged and large ones reduced; the sides keep their ratio."""
    try:
        with Image.open(file) as image:
            width, height = image.size
    except OSError:  # absent, or a format that a browser may know all the same
        width, height = LOWEST, LOWEST
    shown = min(max(height, LOWEST), HIGHEST)
    return _Picture(label, quote(os.fsencode(source)), round(width * shown / height), shown)


@dataclass(frozen=True)
class Row:
    """One row of a results page.

    Args:
        caption: its heading, for example the input's path and class.
        cells: (label, path of the picture relative to the page's folder, with forward slashes).
    """

    caption: str
    cells: Sequence[tuple[str, str]]


def write_results_page(
    path: str | Path,
    title: str,
    rows: Sequence[Row],
    text: str = "",
    curves_svg: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a page of pictures in captioned rows, with facts and loss curves.

    Args:
        path: the HTML file; folders are made as needed, the file appears whole or not at all.
        title: the heading.
        rows: the pictures, in order.
        text: plain text under the heading; an empty line starts a new paragraph.
        curves_svg: the loss curves, from `util.visual.curves.svg_groups` or `svg_curves`; inserted as it is.
        facts: name -> value: options, scores, counts.
    """
    path = Path(path)
    shown = [(row.caption, [_picture(label, path.parent / file, file) for label, file in row.cells]) for row in rows]
    page = render(
        "results.html",
        title=title,
        state=f"{counted(len(rows), 'row')}, {datetime.now():%d %b %Y %H:%M}",
        refresh=None,
        paragraphs=[part for part in re.split(r"\n\s*\n", text.strip()) if part],
        facts=facts or {},
        rows=shown,
        curves=Markup(curves_svg or ""),
    )
    write_atomic(path, page)


@dataclass(frozen=True)
class _PictureMoment:
    epoch: int
    step: int
    pictures: list[_Picture]


class HtmlSink:
    """Keep the pictures of a training run in `<run>/web` with a page, `index.html`, that reloads itself.

    Pictures are `web/images/epoch001_step000400_NAME.png`. The page is made anew whenever pictures arrive,
    from the folder's files and `<run>/log.jsonl`, so it needs no memory of its own and survives a resume.

    Args:
        run_dir: the run's folder; made if absent.
        title: the page's heading, usually the run's name.
        resume_step: the step that a resumed run continues from: pictures of later steps are removed, since
            they are about to be drawn again. None: a new run; an older `web` folder is renamed by its date.
        refresh_seconds: how often an open page reloads itself while the run goes on.
        newest: so many moments are shown; the pictures of earlier ones stay in the folder.
    """

    def __init__(
        self,
        run_dir: str | Path,
        title: str,
        resume_step: int | None = None,
        refresh_seconds: int = 60,
        newest: int = 200,
    ) -> None:
        self._run_dir, self._title = Path(run_dir), title
        self._refresh, self._newest = refresh_seconds, newest
        self._web = self._run_dir / "web"
        if resume_step is None:
            set_aside(self._web)
        for path, _, step, _ in self._files():
            if resume_step is not None and step > resume_step:
                path.unlink()
        self._last: Moment | None = None

    @property
    def page(self) -> Path:
        """The page to open."""
        return self._web / "index.html"

    def scalars(self, moment: Moment, values: Mapping[str, float]) -> None:
        """Only note the time: the curves come from the log when the page is made anew."""
        self._last = moment

    def images(self, moment: Moment, pictures: Mapping[str, np.ndarray]) -> None:
        """Write the pictures and make the page anew."""
        for name, picture in pictures.items():
            file = f"epoch{moment.epoch:03d}_step{moment.step:06d}_{slug(name)}.png"
            write_atomic(self._web / "images" / file, png_bytes(picture))
        self._last = moment
        self._write_page(self._refresh, "running")

    def close(self) -> None:
        """Make the page a last time, without the reloading."""
        self._write_page(None, "ended")

    def _files(self) -> list[tuple[Path, int, int, str]]:
        """Every picture in the folder: (path, epoch, step, name)."""
        found = ((path, PICTURE_FILE.fullmatch(path.name)) for path in self._web.glob("images/epoch*.png"))
        return [(path, int(m[1]), int(m[2]), m[3]) for path, m in found if m]

    def _moments(self) -> tuple[list[_PictureMoment], int]:
        """The newest moments, newest first, and how many earlier ones there are; only the newest are opened.

        Within a moment, pictures are in the order they were written.
        """
        files: dict[tuple[int, int], list[tuple[Path, str]]] = {}
        for path, epoch, step, name in self._files():
            files.setdefault((step, epoch), []).append((path, name))
        moments = []
        for step, epoch in sorted(files, reverse=True)[: self._newest]:
            written = sorted(files[step, epoch], key=lambda file: file[0].stat().st_mtime_ns)
            pictures = [_picture(name, path, f"images/{path.name}") for path, name in written]
            moments.append(_PictureMoment(epoch, step, pictures))
        return moments, len(files) - len(moments)

    def _write_page(self, refresh: int | None, state: str) -> None:
        moments, left_out = self._moments()
        if self._last is not None:
            when = f"epoch {self._last.epoch}, step {self._last.step:,}, {datetime.now():%d %b %Y %H:%M}"
            state = f"{state}: {when}"
        page = render(
            "training.html",
            title=self._title,
            state=state,
            refresh=refresh,
            curves=Markup(svg_groups(read_log(self._run_dir / "log.jsonl"))),
            moments=moments,
            left_out=left_out,
        )
        write_atomic(self.page, page)
