"""The options of F-CAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.cam.layers import AUTO
from models.localisation import MEASURE_HELP, MEASURES
from models.losses import crf
from models.losses.crf import Affinity
from models.losses.fcam import Barrier, Span
from models.networks.blocks import NORMS
from models.networks.unet_decoder import WIDTH
from models.seeding import Seeder
from models.trained_classifier import images_of
from options.schema import Group, OptionError, option


@dataclass(frozen=True)
class FcamOptions(Group):
    """F-CAM: the classifier it explains, its decoder, and the terms that train it"""

    classifier_run: str | None = option(
        None, "run (folder, or name beside this one) of a trained std_cl, classifier or cutcam, which is kept frozen"
    )
    classifier_epoch: str = option("latest", "which exported weights of it: latest, best, a number")
    teacher: str = option("cam", "method of the maps that seeds are drawn from; builtin: the classifier's own maps")
    teacher_layer: str = option(AUTO, "layer of these maps: its name, its number, or auto, the last")
    decoder_width: int = option(
        WIDTH, "channels of the decoder's first block; each further one has half as many", low=8
    )
    decoder_norm: str = option("batch", "normalisation in the decoder", choices=NORMS)

    select: str = option(
        "last",
        "weights that the run ends with: of the last epoch, or (by held-out boxes or masks) of the best localisation",
        choices=("last", "best_loc"),
    )
    loc_measure: str = option("auto", MEASURE_HELP, choices=MEASURES)

    lambda_SL: float = option(1.0, "weight of the seeds' cross-entropy", low=0, aliases=("sl_fc_lambda",))
    sl_start_ep: int = option(1, "first epoch of the seeds' term, from 1", low=0)
    sl_end_ep: int = option(-1, "its last epoch; -1: to the end", low=-1)
    sl_max: int = option(1, "foreground pixels drawn of each image in a step", low=1)
    sl_min: int = option(1, "background pixels drawn", low=1)
    sl_min_p: float = option(0.1, "share of the lowest pixels that background is drawn from", low=1e-6, high=1)
    sl_ksz: int = option(3, "side in pixels of the square that each seed is grown to, odd", low=1)
    sl_fg_erode_k: int = option(11, "side in pixels of the square that the foreground is eroded by, odd", low=1)
    sl_fg_erode_iter: int = option(1, "how often it is", low=0)

    lambda_CRF: float = option(2.8, "weight of the CRF, whatever the resolution", low=0)
    crf_lambda: float = option(0.0, "the same in F-CAM's unit (2e-9 there); above 0 it counts instead", low=0)
    crf_sigma_rgb: float = option(crf.SIGMA_RGB, "of the CRF's kernel, of intensities 0..255", low=1e-3)
    crf_sigma_xy: float = option(0.0, "of the CRF's kernel in pixels; 0: 100 at 224 pixels, in proportion", low=0)
    crf_scale: float = option(1.0, "the CRF is computed at this share of the resolution", low=1e-2, high=1)
    crf_cell: float = option(crf.CELL, "side of a cell of the CRF's grid in sigmas", low=0.1, high=1.4)
    crf_start_ep: int = option(1, "first epoch of the CRF", low=0)
    crf_end_ep: int = option(-1, "its last epoch; -1: to the end", low=-1)

    lambda_SIZE: float = option(0.1, "weight of the areas' barrier", low=0, aliases=("max_sizepos_fc_lambda",))
    size_start_ep: int = option(1, "first epoch of the barrier", low=0, aliases=("max_sizepos_fc_start_ep",))
    size_end_ep: int = option(-1, "its last epoch; -1: to the end", low=-1, aliases=("max_sizepos_fc_end_ep",))
    elb_init_t: float = option(1.0, "steepness t of the barrier in epoch 1", low=1e-3)
    elb_max_t: float = option(10.0, "its limit", low=1e-3)
    elb_mulcoef: float = option(1.01, "its factor from epoch to epoch", low=1)

    lambda_ENT: float = option(0.0, "weight of the entropy", low=0, aliases=("entropy_fc_lambda",))
    ent_start_ep: int = option(1, "first epoch of the entropy", low=0, aliases=("entropy_fc_start_ep",))
    ent_end_ep: int = option(-1, "its last epoch; -1: to the end", low=-1, aliases=("entropy_fc_end_ep",))

    SHAPES: ClassVar[tuple[str, ...]] = ("classifier_run", "classifier_epoch", "decoder_width", "decoder_norm")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "nesterov": str(given.get("optimizer", "sgd")).lower() == "sgd",
            "weight_decay": 1e-4,
            "lr_policy": "none",
            "n_epochs": 50,
            "n_epochs_decay": 0,
            "batch_size": 32,
            "load_size": (256, 256),
            "crop_size": (224, 224),
            # The classifier is kept as it is: at another size it sees, and teaches, something else.
            **(images_of(given) if given.get("classifier_run") else {}),
        }


@dataclass(frozen=True)
class Training:
    """What the options make of the terms.

    Attributes:
        spans: epochs of each term, by its name in the log.
    """

    seeder: Seeder
    affinity: Affinity
    barrier: Barrier
    spans: Mapping[str, Span]


def training_from(opt: FcamOptions) -> Training:
    """Seeds, kernel, barrier and epochs of a run.

    Raises:
        OptionError: options that contradict each other, or a square around a pixel without a middle.
    """
    for flag, side in (("sl_ksz", opt.sl_ksz), ("sl_fg_erode_k", opt.sl_fg_erode_k)):
        if side % 2 == 0:
            raise OptionError(f"--{flag} {side}: must be odd, so that a pixel can be its middle")
    if opt.elb_max_t < opt.elb_init_t:
        raise OptionError(f"--elb_max_t {opt.elb_max_t}: is below --elb_init_t {opt.elb_init_t}")
    spans = {
        "SL": _span("sl", opt.sl_start_ep, opt.sl_end_ep),
        "CRF": _span("crf", opt.crf_start_ep, opt.crf_end_ep),
        "SIZE": _span("size", opt.size_start_ep, opt.size_end_ep),
        "ENT": _span("ent", opt.ent_start_ep, opt.ent_end_ep),
    }
    return Training(
        Seeder(opt.sl_max, opt.sl_min, opt.sl_min_p, opt.sl_ksz, opt.sl_fg_erode_k, opt.sl_fg_erode_iter),
        Affinity(opt.crf_sigma_rgb, opt.crf_sigma_xy, opt.crf_cell),
        Barrier(opt.elb_init_t, opt.elb_max_t, opt.elb_mulcoef),
        spans,
    )


def check_terms(opt: FcamOptions, training: Training, first: int, last: int) -> None:
    """Raise an OptionError where no term of the loss counts in any epoch from `first` to `last`."""
    weights = {
        "SL": opt.lambda_SL,
        "CRF": opt.crf_lambda or opt.lambda_CRF,
        "SIZE": opt.lambda_SIZE,
        "ENT": opt.lambda_ENT,
    }
    flags = " ".join(f"--lambda_{name}" for name in weights)
    if not any(weights.values()):
        raise OptionError(f"{flags}: are all 0, and there is nothing to learn from; give one of them a weight")
    spans = [training.spans[name] for name, weight in weights.items() if weight > 0]
    if not any(span.first <= last and (span.last < 0 or first <= span.last) for span in spans):
        raise OptionError(
            f"--n_epochs {last}: in epochs {first} to {last} no term of the loss counts, by --sl_start_ep, --sl_end_ep "
            "and their like"
        )


def _span(term: str, first: int, last: int) -> Span:
    if 0 <= last < first:
        raise OptionError(f"--{term}_end_ep {last}: is before --{term}_start_ep {first}; -1 is the end of the run")
    return Span(first, last)
