"""The options of CUT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.losses.diff_augment import AUGMENTATIONS
from models.losses.nce_weighting import NCE_WEIGHTINGS
from models.networks.patch_sampler import PATCH_SAMPLERS
from models.queries import NCE_QUERIES
from options.schema import Group, option


@dataclass(frozen=True)
class CutOptions(Group):
    """CUT: contrastive and adversarial loss"""

    CUT_mode: str = option("CUT", "preset of the paper: CUT or FastCUT", choices=("CUT", "FastCUT"))
    lambda_GAN: float = option(1.0, "weight of the adversarial loss of G", low=0)
    lambda_NCE: float = option(1.0, "weight of the contrastive loss", low=0)
    lambda_GP: float = option(10.0, "weight of the gradient penalty of --gan_mode wgangp", low=0)
    nce_idt: bool = option(True, "contrastive loss also between y and G(y)")
    nce_layers: tuple[int, ...] = option((0, 4, 8, 12, 16), "layers of G that are contrasted", low=0)
    nce_includes_all_negatives_from_minibatch: bool = option(
        False, "negatives from the whole batch instead of the same image"
    )
    netF: str = option(
        "mlp_sample",
        "embedding of patches; reshape: of every position of a layer, so for small images",
        choices=PATCH_SAMPLERS,
    )
    netF_nc: int = option(256, "length of an embedded patch", low=1)
    nce_T: float = option(0.07, "temperature of the contrastive loss", low=1e-4)
    num_patches: int = option(256, "patches per layer and image", low=1)
    nce_query: str = option("random", "patches asked about: drawn, or where attention is sharp", choices=NCE_QUERIES)
    nce_weighting: str = option("none", "weights of the negatives: MoNCE's or hDCE's", choices=tuple(NCE_WEIGHTINGS))
    nce_weighting_T: float = option(1.0, "temperature of --nce_weighting; low: hard negatives count more", low=1e-3)
    flip_equivariance: bool = option(False, "mirror G's input at random, and its features back")
    diffaug: tuple[str, ...] = option((), "random changes of what D sees", choices=tuple(AUGMENTATIONS))
    lambda_R1: float = option(0.0, "weight of the squared slope of D at real images", low=0)
    r1_every: int = option(16, "steps between the steps with R1, which then counts as often", low=1)
    extra_losses: tuple[str, ...] = option(
        (), "loss terms taken on, with their flags: sr (robustness), src (relations), pair (true targets)"
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fastcut": {
            "lambda_NCE": 10.0,
            "nce_idt": False,
            "flip_equivariance": True,
            "n_epochs": 150,
            "n_epochs_decay": 50,
        }
    }

    SHAPES: ClassVar[tuple[str, ...]] = ("nce_layers", "netF", "netF_nc")

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        defaults = dict(cls.PRESETS.get(str(given.get("CUT_mode", "")).lower(), {}))
        backbone = str(given.get("netG", ""))
        if backbone.startswith("unet"):  # a U-Net numbers its layers by level
            defaults["nce_layers"] = (0, 1, 2, 3, 4)
        elif backbone.endswith("stylegan2"):  # the image, the halved image, a block
            defaults["nce_layers"] = (0, 2, 4)
        return defaults
