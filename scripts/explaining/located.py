"""The images of a phase with what is known of where their targets are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from data.annotations import read_boxes, read_masks
from data.classes_dataset import ClassesOptions, kind_of
from data.domain import Domain, load_classes, preprocess_from
from data.single_dataset import SingleDataset, WholeImage
from data.wsol_dataset import WsolDataset
from options.groups import Inference
from options.parse import RunOptions, extra
from util.metrics.wsol import Truth, truth_from

Truths = Callable[[WholeImage], Truth | None]


def images_of(run: RunOptions, size_multiple: int) -> tuple[SingleDataset, Truths]:
    """The images of the phase, and where their targets are: of --dataset_mode wsol as it knows, else from `boxes.csv`
    and `masks_<phase>` of the data root.

    Raises:
        DataError, ImageError: there is no such split, or its files cannot be used.
    """
    wanted, root = extra(run, Inference), Path(run.data.dataroot)
    if not isinstance(run.dataset, ClassesOptions):
        dataset = SingleDataset.for_phase(run, wanted.phase, wanted.num_test, size_multiple)
        return dataset, _tables(root, wanted.phase, dataset)
    found = kind_of(run).for_phase(run, wanted.phase, size_multiple)
    files, labels = found.source_files[: wanted.num_test], found.labels[: wanted.num_test]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    names = {**(load_classes(run.folder) or {}), **found.class_names}
    skip = run.data.on_bad_image == "skip"
    domain = Domain(folder, files, found.source, run.networks.input_nc, labels, names, skip_bad=skip)
    dataset = SingleDataset(domain, root, preprocess_from(run, size_multiple), found.source)
    known = found.truths if isinstance(found, WsolDataset) else None
    if known is None:
        return dataset, _tables(root, wanted.phase, dataset)
    return dataset, lambda whole: known(whole.sample.path_A)


def _tables(root: Path, phase: str, dataset: SingleDataset) -> Truths:
    names = [
        file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name for file in dataset.source_files
    ]
    table, folder = root / "boxes.csv", root / f"masks_{phase}"
    boxes = read_boxes(table, names) if table.is_file() else [[] for _ in names]
    masks = read_masks(folder, names) if folder.is_dir() else [None for _ in names]
    by_path = {
        name: (box, mask) for name, box, mask in zip(names, boxes, masks, strict=True) if box or mask is not None
    }

    def truth(whole: WholeImage) -> Truth | None:
        found = by_path.get(whole.sample.path_A)
        return None if found is None else truth_from(found[0], whole.size, found[1])

    return truth
