"""--tile asks for the files' own size; a --preprocess that brings them to another would leave nothing to tile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from data.domain import preprocess_from
from models import MODELS
from options.groups import Inference
from options.schema import OptionError

if TYPE_CHECKING:
    from options.parse import RunOptions


def tiled_at_own_size(run: RunOptions) -> RunOptions:
    """The options with --preprocess none where --tile is given to a run that was trained on resized images.

    Raises:
        OptionError: this command gives --tile and such a --preprocess as well.
    """
    tile = next((group.tile for group in run.extra if isinstance(group, Inference)), 0)
    kind = MODELS.get(run.experiment.model)
    preprocess = preprocess_from(run, kind.size_multiple)
    if not tile or kind.translator not in kind.inference_nets or not preprocess.resizes:
        return run
    words = run.data.preprocess
    if "preprocess" in run.given:
        size = " x ".join(map(str, preprocess.test_size))
        raise OptionError(
            f"--tile {tile}: is for images at their own size, and --preprocess {words} brings them to {size}; "
            "leave one of them out"
        )
    return replace(run, data=replace(run.data, preprocess="none"), untiled=words)
