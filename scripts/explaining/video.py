"""A video, translated frame by frame, and its maps laid over it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from data.base import UNKNOWN, Sample
from data.domain import load_formats, preprocess_from
from data.images import DomainFormat, ImageError, Window, unit_to_uint8, windowed
from data.single_dataset import WholeImage
from models.base import Model
from options.groups import Explanation
from options.parse import RunOptions, extra
from scripts.explaining.sizes import SizeNote
from scripts.explaining.translation import explain_group, translate_group
from util.engine.build import Pace
from util.engine.inference import by_size
from util.errors import printable
from util.files import check_writable, write_atomic
from util.seeding import generator
from util.visual.overlay import heat_map, overlay

VIDEOS = frozenset({".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"})
Frame = NDArray[np.uint8]  # (H, W, 3), RGB


def is_video(given: str) -> bool:
    """Whether a path is a video, by its ending."""
    return Path(given).suffix.lower() in VIDEOS and not Path(given).is_dir()


class Frames:
    """The frames of a video as the network takes them.

    Args:
        file: the video.
        run: whose window and geometry are used.
        multiple: sides of what the network takes are multiples of it.

    Raises:
        ImageError: it cannot be opened, or the run's images are not of 8 bits, as a video's are.
    """

    def __init__(self, file: Path, run: RunOptions, multiple: int) -> None:
        formats = load_formats(run.folder)
        self.format = formats[run.turned] if formats else DomainFormat(Window(0.0, 255.0), "uint8")
        if self.format.depth != "uint8":
            raise ImageError(
                f"--input {printable(file)}: a video has 8 bits, and this run was trained on {self.format.depth}; "
                "give a folder of its frames at that depth"
            )
        self._file, self._channels = file, run.channels[0]
        self._preprocess = preprocess_from(run, multiple).for_inference()
        self._note = SizeNote(run, multiple)
        self._video = cv2.VideoCapture(str(file))
        if not file.is_file() or not self._video.isOpened():
            raise ImageError(f"--input {printable(file)}: cannot be opened as a video; convert it to .mp4 (H.264)")
        self.rate = float(self._video.get(cv2.CAP_PROP_FPS)) or 25.0
        self.count = max(int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[WholeImage]:
        """Each frame, as if it were a file of its number in a folder of the video's name.

        Raises:
            ImageError: there is none.
        """
        number = 0
        bar = tqdm(total=self.count or None, unit="frame", disable=None)
        with bar:
            while (read := self._video.read())[0]:
                raw = np.ascontiguousarray(read[1][:, :, ::-1])
                image = windowed(raw, self._channels, self.format, f"frame {number}")
                taken = self._preprocess(image, generator(0, "whole")) * 2 - 1
                name = Path(self._file.name, str(number))
                whole = WholeImage(
                    image, Sample(taken, None, name.as_posix(), "", UNKNOWN, number, number), name, number
                )
                self._note.see(whole.size, (taken.shape[-2], taken.shape[-1]))
                yield whole
                number += 1
                bar.update()
        self._video.release()
        if not number:
            raise ImageError(f"--input {printable(self._file)}: holds no frame that can be read; convert it to .mp4")


class VideoWriter:
    """Writes frames as MPEG-4; the file appears under its name when it is whole.

    Args:
        file: ends in .mp4.
        rate: frames a second.
    """

    def __init__(self, file: Path, rate: float) -> None:
        self.file, self._rate = file, rate
        self._part = file.with_name(f".{file.stem}.part.mp4")
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: Frame) -> None:
        """The next frame; all have the first one's size.

        Raises:
            ImageError: OpenCV has no encoder here.
        """
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), code, self._rate, (frame.shape[1], frame.shape[0]))
            if not self._writer.isOpened():
                raise ImageError(f"{self.file}: OpenCV cannot write MPEG-4 here; give a folder of frames by --input")
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._part.replace(self.file)
        else:
            self._part.unlink(missing_ok=True)


def translate_video(model: Model[Any], run: RunOptions, file: Path, folder: Path, speed: Pace) -> Path:
    """Write `STEM_fake.mp4`; returns its path.

    Args:
        speed: frames at once, and the number format of the networks.

    Raises:
        UserError: the video cannot be read, or nothing can be written there.
    """
    frames = Frames(file, run, model.size_multiple)
    check_writable(folder, "--output")
    folder.mkdir(parents=True, exist_ok=True)
    with VideoWriter(folder / f"{file.stem}_fake.mp4", frames.rate) as out:
        for _, fake in by_size(frames, partial(translate_group, model, run, speed.amp), speed.together):
            out.add(unit_to_uint8(fake))
    return out.file


def explain_video(model: Model[Any], run: RunOptions, file: Path, folder: Path, speed: Pace) -> Sequence[Path]:
    """Write the translation, both overlays, the four side by side, and a table of classes; returns the files.

    A frame is explained for --class_idx, else for the class that the head sees in it. A map is scaled by its own ends,
    frame by frame.

    Args:
        speed: as `translate_video`.

    Raises:
        UserError: as `translate_video`.
    """
    look, frames = extra(run, Explanation), Frames(file, run, model.size_multiple)
    check_writable(folder, "--output")
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("fake", "overlay_input", "overlay_output", "all")
    writers = {kind: VideoWriter(folder / f"{file.stem}_{kind}.mp4", frames.rate) for kind in kinds}
    rows: list[Sequence[object]] = [("frame", "class", "confidence_input", "confidence_output")]
    with writers["fake"], writers["overlay_input"], writers["overlay_output"], writers["all"]:
        for whole, (fake, seen) in by_size(frames, partial(explain_group, model, run, speed.amp), speed.together):
            for kind, frame in _drawn(whole.image, fake, (seen.cam, seen.cam_fake), look).items():
                writers[kind].add(frame)
            chosen = int(seen.classes[0])
            shares = (float(one[0, chosen]) for one in (seen.probabilities, seen.probabilities_fake))
            rows.append((whole.number, chosen, *(f"{share:.6f}" for share in shares)))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    table = folder / f"{file.stem}_cams.csv"
    write_atomic(table, text.getvalue().encode())
    return [*(writer.file for writer in writers.values()), table]


def _drawn(image: Tensor, fake: Tensor, cams: tuple[Tensor, Tensor], look: Explanation) -> Mapping[str, Frame]:
    """The frames of each video."""
    pictures = unit_to_uint8(image), unit_to_uint8(fake)
    size = pictures[0].shape[0], pictures[0].shape[1]
    overlays = [
        overlay(picture, heat_map(cam[0].float().cpu().numpy(), size), look.overlay_strength, look.colormap)
        for picture, cam in zip(pictures, cams, strict=True)
    ]
    together = np.hstack([pictures[0], overlays[0], pictures[1], overlays[1]])
    return {"fake": pictures[1], "overlay_input": overlays[0], "overlay_output": overlays[1], "all": together}
