"""SinCUT (Park et al., ECCV 2020, arXiv:2007.15651, section 4.3): CUT on one image of each domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from models.base import MODELS
from models.cut_model import CutModel, CutState, check_channels
from models.cut_options import CutOptions
from models.losses.identity import identity_loss
from options.schema import Group, option

if TYPE_CHECKING:
    from options.parse import RunOptions

# Where the published code differs from CUT: small networks, strong penalties, one patch of each of many crops.
PUBLISHED: Mapping[str, Any] = {
    "netG": "stylegan2",
    "netD": "stylegan2",
    "ngf": 10,
    "ndf": 8,
    "mbstd_group": 0,
    "gan_mode": "nonsaturating",
    "lambda_NCE": 4.0,
    "nce_layers": (0, 2, 4),
    "nce_includes_all_negatives_from_minibatch": True,
    "num_patches": 1,
    "lambda_R1": 1.0,
    "r1_every": 1,
    "preprocess": "zoom_and_patch",
    "load_size": (1024, 1024),
    "crop_size": (64, 64),
    "batch_size": 16,
    "lr": 0.002,
    "beta1": 0.0,
    "beta2": 0.99,
    "n_epochs": 8,
    "n_epochs_decay": 8,
    "save_epoch_freq": 1,
    "save_latest_freq": 20000,
}


@dataclass(frozen=True)
class SincutOptions(CutOptions):
    """SinCUT: CUT on one image of each domain"""

    lambda_identity: float = option(1.0, "weight of |G(y) - y|", low=0)

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        own = dict(PUBLISHED)
        if not str(given.get("netG", PUBLISHED["netG"])).endswith("stylegan2"):
            del own["nce_layers"]  # ids of another network
        return {**own, **super().preset(given)}


@MODELS.register("sincut")
class SincutModel(CutModel):
    """CUT with R1 and an identity term.

    Args:
        lambda_identity: weight of the mean |G(y) - y|.
        cut: arguments of CutModel.
    """

    Options: ClassVar[type[Group]] = SincutOptions
    DATASET_MODE: ClassVar[str] = "singleimage"

    def __init__(self, nets: dict[str, nn.Module], *, lambda_identity: float = 1.0, **cut: Any) -> None:
        super().__init__(nets, **cut)
        self.lambda_identity = lambda_identity

    @classmethod
    def from_options(cls, run: RunOptions) -> CutModel:
        model, opt = super().from_options(run), run.model
        assert isinstance(opt, SincutOptions)
        images = run.data.batch_size if opt.nce_includes_all_negatives_from_minibatch else 1
        if images * opt.num_patches == 1 and opt.lambda_NCE > 0 and opt.netF != "reshape":
            model.messages.append(
                "--num_patches 1: a patch has no negatives without other images or patches, "
                "so the contrastive loss teaches nothing; raise --batch_size or --num_patches"
            )
        return model

    @classmethod
    def arguments_from(cls, run: RunOptions) -> dict[str, Any]:
        opt: SincutOptions = run.model  # type: ignore[assignment]
        if opt.lambda_identity > 0:
            check_channels(run, "the identity loss")
        return super().arguments_from(run) | {"lambda_identity": opt.lambda_identity}

    @property
    def weights(self) -> dict[str, float]:
        return super().weights | {"lambda_identity": self.lambda_identity}

    @property
    def translates_target(self) -> bool:
        return super().translates_target or self.lambda_identity > 0

    def g_losses(self, state: CutState) -> dict[str, Tensor]:
        terms = super().g_losses(state)
        if self.lambda_identity > 0:
            assert state.idt_B is not None
            copied = identity_loss(state.upright(state.idt_B), state.batch.target)
            terms["IDT"] = self.lambda_identity * copied.mean()
        return terms
