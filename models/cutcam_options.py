"""The options of CUTCAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.cam.functional import CAM_NORMS
from models.cut_options import CutOptions
from models.losses.cam import CONTRAST
from models.losses.diff_augment import AUGMENTATIONS
from models.losses.edge import EDGE_MODES
from models.networks.class_head import POOLS
from models.pseudo_labels import MODES
from models.queries import CAM_QUERY, NCE_QUERIES
from options.schema import OptionError, option

CAM_METHODS = ("gradcam", "gradcam_feature", "label_free")


@dataclass(frozen=True)
class CutCamOptions(CutOptions):
    """CUTCAM: contrastive and adversarial loss, class head, class activation maps"""

    CUT_mode: str = option("CUTCAM", "preset: CUTCAM (CUT's values) or FastCUT", choices=("CUTCAM", "CUT", "FastCUT"))
    nce_query: str = option(
        "random",
        "patches asked about: drawn, where attention is sharp, or where the CAM is",
        choices=(*NCE_QUERIES, CAM_QUERY),
    )
    num_classes: int = option(7, "classes of the head", low=2)
    cam_layer: int = option(-1, "layer of the head and its maps, as an index into nce_layers; -1: the last")
    cam_pool: str = option("gap", "pooling of the head: mean, log-mean-exp, or top 5 %", choices=POOLS)
    cam_method: str = option(
        "gradcam",
        "map: gradcam (at the head's hidden layer), gradcam_feature (at cam_layer), label_free",
        choices=CAM_METHODS,
    )
    cam_standardise: bool = option(True, "centre and scale the head's pooled channels by running statistics")
    lambda_CLS: float = option(0.1, "weight of class consistency", low=0)
    lambda_CAM: float = option(25.0, "weight of CAM invariance; means something only with --cam_norm", low=0)
    head_learns: str = option(
        "inputs", "from which images the head learns the labels: x, or x and G(x)", choices=("inputs", "both")
    )
    classifier_run: str | None = option(
        None, "run (folder, or name beside this one) of a classifier, kept frozen, that judges G(x) in the head's place"
    )
    classifier_epoch: str = option("latest", "which exported weights of it: latest, best, a number")
    cls_augment: tuple[str, ...] = option(
        (), "random changes of G(x) before its class is judged", choices=tuple(AUGMENTATIONS)
    )
    lambda_IDT: float = option(0.0, "weight of |G(y) - y|", low=0)
    lambda_EDGE: float = option(0.0, "weight of the Sobel edge loss", low=0)
    cam_norm: str = option(
        "minmax",
        "maps in the CAM loss; minmax, mean: L1; l2: 2 - 2 cos; softmax: KL; contrast: InfoNCE at --nce_T",
        choices=(*CAM_NORMS, CONTRAST),
    )
    cam_tau: float = option(1.0, "temperature of --cam_norm softmax", low=1e-6)
    cam_eps: float = option(1e-6, "guard of the maps' normalisation", low=1e-12)
    cam_grad_cap: float = option(
        1.0,
        "largest ratio of CAM to NCE gradient on G(x), measured every 50 steps; 0: no cap",
        low=0,
    )
    cam_weight_adv: bool = option(False, "weight D's map by the input's CAM")
    cam_adv_side: str = option("both", "whose adversarial terms: D's and G's, or G's alone", choices=("both", "g"))
    cam_adv_strength: float = option(1.0, "0: no weighting, 1: the map alone", low=0, high=1)
    edge_mode: str = option("l1", "edges: equal (l1), aligned (ngf), not lost (keep)", choices=tuple(EDGE_MODES))
    label_smoothing: float = option(0.1, "of the class loss", low=0, high=0.99)
    head_dropout: float = option(0.0, "dropout in the class head", low=0, high=0.99)
    pseudo_labels: str = option("kmeans", "labels for unlabelled images", choices=MODES)
    pseudo_every: int = option(0, "epochs between rounds of pseudo-labels; 0: 1, and 5 after 5 rounds", low=0)
    cls_start_epoch: float = option(
        -1.0, "epochs before the class terms start; -1: 0 with labels, else 5 % of the run", low=-1
    )
    cam_start_epoch: float = option(
        -1.0, "epochs before the CAM terms start; -1: 5 % of the run after the class terms", low=-1
    )
    collapse_window: int = option(200, "steps over which a collapsed head is recognised", low=2)
    on_collapse: str = option("warn", "a collapsed head: warn and drop its terms, or stop", choices=("warn", "stop"))

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = CutOptions.PRESETS
    SHAPES: ClassVar[tuple[str, ...]] = (*CutOptions.SHAPES, "num_classes", "cam_layer", "cam_pool", "cam_standardise")


def head_layer(opt: CutCamOptions) -> int:
    """The head's layer as an index into nce_layers, 0 or more; OptionError where there is no such layer."""
    count = len(opt.nce_layers)
    if not -count <= opt.cam_layer < count:
        raise OptionError(
            f"--cam_layer {opt.cam_layer}: --nce_layers names {count} layers, so it must be in {-count}..{count - 1}"
        )
    return opt.cam_layer % count
