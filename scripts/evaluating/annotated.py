"""Tables that an evaluation finds beside the images, or is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.annotations import label_map_of, read_boxes, read_mask_files, read_pairs, target_of
from data.pairing import pairs_by_name
from options.groups import Evaluation
from options.parse import RunOptions
from options.schema import OptionError
from util.metrics.base import Boxes, ImageSet

Segmenter = Callable[[Tensor], Tensor]


def pairs_of(
    run: RunOptions, wanted: Evaluation, phase: str, source: ImageSet, target: ImageSet | None
) -> list[tuple[int, int]] | None:
    """True pairs from --pairs, or from `pairs_<phase>.csv` in the data where it is; None without either.

    Of a run that was trained on pairs, images of one name are pairs too.

    Raises:
        DataError: the table cannot be used.
    """
    root = Path(run.data.dataroot)
    table = Path(wanted.pairs) if wanted.pairs else root / f"pairs_{phase}.csv"
    if target is None:
        return None
    if not (wanted.pairs or table.is_file()):
        aligned = run.data.dataset_mode == "aligned"
        return (pairs_by_name(root, source.files, target.files) or None) if aligned else None
    return read_pairs(table, below(root, source.files), below(root, target.files), run.data.direction)


def boxes_of(run: RunOptions, wanted: Evaluation, phase: str, source: ImageSet) -> Boxes | None:
    """Targets of the inputs from --boxes and --masks, or from `boxes.csv` and `masks_<phase>` in the data.

    Raises:
        DataError: a table or a folder cannot be used.
    """
    return find_boxes(Path(run.data.dataroot), phase, source.files, wanted.boxes, wanted.masks)


def find_boxes(root: Path, phase: str, files: Sequence[Path], boxes: str | None, masks: str | None) -> Boxes | None:
    """Targets of images from a table and a folder, or where none are given from those in the data root, if there.

    Raises:
        DataError: a table or a folder cannot be used.
    """
    names = below(root, files)
    table = Path(boxes) if boxes else root / "boxes.csv"
    folder = Path(masks) if masks else _masks_in(root, phase, names)
    with_boxes, with_masks = bool(boxes) or table.is_file(), bool(masks) or folder.is_dir()
    if not with_boxes and not with_masks:
        return None
    drawn = read_mask_files(folder, names) if with_masks else [None for _ in names]
    return Boxes(
        read_boxes(table, names) if with_boxes else [[] for _ in names],
        [None if raw is None else target_of(raw) for raw in drawn],
        _label_maps(drawn),
    )


def _label_maps(drawn: Sequence[NDArray[Any] | None]) -> list[NDArray[np.int64] | None]:
    """Of files of masks, as class numbers where any of them is a label map; none where all are masks."""
    maps = [None if raw is None else label_map_of(raw) for raw in drawn]
    if all(one is None for one in maps):
        return []
    # Beside label maps, a file of 0 alone, or of 255, is one too: it shows one class.
    return [None if raw is None or raw.ndim != 2 else raw.astype(np.int64) for raw in drawn]


def _masks_in(root: Path, phase: str, names: Sequence[str]) -> Path:
    """Where masks lie: `masks_<phase>`, or `masks/<folder of the images>`, as the generated scenes have them."""
    usual = root / f"masks_{phase}"
    folders = {Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    return root / "masks" / folders.pop() if not usual.is_dir() and len(folders) == 1 else usual


def segmenter_from(wanted: Evaluation) -> Segmenter | None:
    """The function that --segmenter MODULE:FUNCTION names.

    Raises:
        OptionError: there is no such module or function.
    """
    if wanted.segmenter is None:
        return None
    module, _, name = wanted.segmenter.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"--segmenter {wanted.segmenter}: {error}; give MODULE:FUNCTION of a module that python finds from here"
        ) from error
    found: Segmenter = function
    return found


def below(root: Path, files: Sequence[Path]) -> list[str]:
    """Paths below the data root, as tables name them; of files elsewhere their bare names."""
    return [file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in files]
