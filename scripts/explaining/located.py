"""The images of a phase, or given ones, with what is known of where their targets are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data.classes_dataset import ClassesOptions, kind_of
from data.domain import preprocess_from
from data.single_dataset import SingleDataset
from data.wsol_dataset import WsolDataset
from options.groups import Explanation, Inference
from options.parse import RunOptions, extra
from scripts.evaluating.annotated import find_boxes
from scripts.explaining.inputs import Input, Inputs, asked_pictures, domain_of, folder_of, numbers_asked
from util.metrics.wsol import Truth, truth_from

Truths = Callable[[Input], Truth | None]


def inputs_of(run: RunOptions, size_multiple: int) -> tuple[Inputs, Truths]:
    """The images asked for, and where their targets are: of --dataset_mode wsol as it knows, else from `boxes.csv` and
    the masks of the data root. Of pictures given by --image or --input nothing is known.

    Raises:
        UserError: there is no such file, split or number, or files cannot be used.
    """
    given = asked_pictures(run, size_multiple)
    if given is not None:
        return given, lambda source: None
    wanted, look, root = extra(run, Inference), extra(run, Explanation), Path(run.data.dataroot)
    known = None
    if isinstance(run.dataset, ClassesOptions):
        found = kind_of(run).for_phase(run, wanted.phase, size_multiple)
        domain, bad = domain_of(run, found, folder_of(found.source_files)), found.bad_images
        known = found.truths if isinstance(found, WsolDataset) else None
    else:
        most = float("inf") if look.random or look.index is not None else wanted.num_test
        split = SingleDataset.for_phase(run, wanted.phase, most, size_multiple)
        domain, bad = domain_of(run, split, split.folder), split.bad_images
    chosen = numbers_asked(run, len(domain.files))
    inputs = Inputs(domain, chosen, True, preprocess_from(run, size_multiple).for_inference(), list(bad))
    if known is None:
        # Masks of none of the images are a mistake, those of others than the few drawn are not.
        few = look.random or look.index is not None
        files = domain.files if few else [domain.files[number] for number in chosen]
        return inputs, _tables(root, wanted.phase, files)
    asks = known
    return inputs, lambda source: asks(source.path.relative_to(root).as_posix())


def _tables(root: Path, phase: str, files: Sequence[Path]) -> Truths:
    boxes = find_boxes(root, phase, files, None, None)
    if boxes is None:
        return lambda source: None
    found = zip(files, boxes.rectangles, boxes.masks, strict=True)
    by_path = {file: (corners, mask) for file, corners, mask in found if corners or mask is not None}

    def truth(source: Input) -> Truth | None:
        there = by_path.get(source.path)
        return None if there is None else truth_from(there[0], source.size, there[1])

    return truth
