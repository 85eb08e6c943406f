"""The published order of passes, written out with the project's networks and losses.

The yardstick of the benchmark: every feature is computed where it is used, as often as it is used, by PyTorch's
own layers. Float32, no flip equivariance, nce_idt on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from data.base import Batch
from models.cam.functional import rectify
from models.cut_model import CutModel
from models.cutcam_model import CutCamModel
from models.losses.cam import adversarial_weights, cam_invariance
from models.losses.edge import edge_loss
from models.losses.gan import gan_loss
from models.losses.identity import identity_loss
from models.losses.patch_nce import patch_nce
from models.networks import draw_patch_ids
from models.networks.blocks import BlurDownsample, BlurUpsample
from models.networks.fast_parts import InstanceNorm
from util.engine.step import only_trains
from util.seeding import StepInfo


class _PlainBlur(nn.Module):
    """An anti-aliasing filter as a depthwise convolution of PyTorch, which keeps its input for backward."""

    def __init__(self, part: BlurDownsample | BlurUpsample) -> None:
        super().__init__()
        self.up = isinstance(part, BlurUpsample)
        self.register_buffer("filt", part.filt)

    def forward(self, x: Tensor) -> Tensor:
        filt = self.get_buffer("filt")
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate" if self.up else "reflect")
        if self.up:
            return F.conv_transpose2d(padded, filt, stride=2, padding=3, groups=len(filt))
        return F.conv2d(padded, filt, stride=2, groups=len(filt))


def with_plain_parts(net: nn.Module) -> None:
    """Put PyTorch's own layers in place of the project's faster ones."""
    for parent in list(net.modules()):
        for name, part in parent.named_children():
            if isinstance(part, InstanceNorm):
                setattr(parent, name, nn.InstanceNorm2d(part.num_features))
            elif isinstance(part, BlurDownsample | BlurUpsample):
                setattr(parent, name, _PlainBlur(part))


class PublishedCut:
    """CUT's step (Park et al. 2020) in the order of its authors' code.

    Args:
        model: whose networks and settings are used, and nothing it computes.
        optimizers: one for each network, by the network's name.
    """

    def __init__(self, model: CutModel, optimizers: Mapping[str, Optimizer]) -> None:
        self.model, self.nets, self.optimizers = model, model.nets, optimizers
        for net in self.nets.values():
            with_plain_parts(net)
        self.generator, self.sampler, self.critic = model.generator, model.sampler, model.nets["D"]

    def step(self, batch: Batch, info: StepInfo) -> None:
        """One training step in the published order of passes."""
        images, count = torch.cat([batch.A, batch.target]), len(batch.A)
        made = self.generator(images)
        fake, idt = made[:count], made[count:]
        with only_trains(self.nets, ("D",)):
            self._update(self.critic_loss(fake.detach(), batch), ("D",))
        trained = tuple(name for name in self.nets if name != "D")
        with only_trains(self.nets, trained):
            self._update(self.translation_loss(fake, idt, batch, info), trained)

    def critic_loss(self, fake: Tensor, batch: Batch) -> Tensor:
        """D's loss, (): half of both terms, from two passes."""
        mode = self.model.gan_mode
        of_fake = gan_loss(self.critic(fake), False, mode)
        of_real = gan_loss(self.critic(batch.target), True, mode)
        return 0.5 * (of_fake + of_real)

    def translation_loss(self, fake: Tensor, idt: Tensor, batch: Batch, info: StepInfo) -> Tensor:
        """G's loss, (): the adversarial term and both contrasts, each from its own passes."""
        contrast = 0.5 * (self.contrast(batch.A, fake, info) + self.contrast(batch.target, idt, info))
        return self.adversarial(fake, batch) + contrast

    def adversarial(self, fake: Tensor, batch: Batch) -> Tensor:
        """G's adversarial term, ()."""
        judged = self.critic(fake)
        return self.model.lambda_GAN * gan_loss(judged, True, self.model.gan_mode, for_generator=True)

    def contrast(self, source: Tensor, translation: Tensor, info: StepInfo) -> Tensor:
        """lambda_NCE times PatchNCE. The keys' graph is made, as gradients are on, and dropped on return."""
        model = self.model
        query = self.generator.encode(translation, model.nce_layers)
        key = self.generator.encode(source, model.nce_layers)
        sizes = [feature.shape[-2] * feature.shape[-1] for feature in key]
        ids = draw_patch_ids(sizes, model.num_patches, info.seed, info.step, netF=self.sampler.netF)
        keys, queries = self.sampler(key, ids), self.sampler(query, ids)
        losses = [
            patch_nce(q, k, len(source), model.nce_T, model.all_negatives).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        return model.lambda_NCE * torch.stack(losses).mean()

    def _update(self, loss: Tensor, names: tuple[str, ...]) -> None:
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for name in names:
            self.optimizers[name].step()


class PublishedCutCam(PublishedCut):
    """CUTCAM's step in the order of its public code: four more encoder passes, five with weighted D.

    Its class term encodes x and G(x) once more; its CAM term encodes both without gradients, so that it is a
    constant; the weights of the adversarial term encode x again.
    """

    def __init__(self, model: CutCamModel, optimizers: Mapping[str, Optimizer]) -> None:
        super().__init__(model, optimizers)
        self.head, self.opt = model.head, model.opt
        self.layer = [model.nce_layers[model.cam_index]]

    def translation_loss(self, fake: Tensor, idt: Tensor, batch: Batch, info: StepInfo) -> Tensor:
        """G's loss, (): CUT's and the class and CAM terms, each from its own passes."""
        opt, loss = self.opt, super().translation_loss(fake, idt, batch, info)
        moved = cam_invariance(self.grad_cam(batch.A), self.grad_cam(fake), "minmax", opt.cam_eps)
        return (
            loss
            + opt.lambda_CLS * self.classification(fake, batch)
            + opt.lambda_CAM * moved.mean()
            + opt.lambda_IDT * identity_loss(idt, batch.target).mean()
            + opt.lambda_EDGE * edge_loss(fake, batch.A).mean()
        )

    def adversarial(self, fake: Tensor, batch: Batch) -> Tensor:
        """G's adversarial term, (), weighted by the CAM where that is asked for."""
        if not self.opt.cam_weight_adv:
            return super().adversarial(fake, batch)
        judged = self.critic(fake)
        size = (judged.shape[-2], judged.shape[-1])
        weights = adversarial_weights(rectify(self.grad_cam(batch.A)), size)
        return self.model.lambda_GAN * gan_loss(judged, True, self.model.gan_mode, True, weights)

    def classification(self, fake: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of x and of G(x) with the class the head sees in x."""
        of_x = self.head(self.generator.encode(batch.A, self.layer)[0])
        of_fake = self.head(self.generator.encode(fake, self.layer)[0])
        classes = of_x.detach().argmax(1)
        return F.cross_entropy(of_x, classes) + F.cross_entropy(of_fake, classes)

    def grad_cam(self, image: Tensor) -> Tensor:
        """(N, h, w) map of the head's own choice, by autograd at a detached feature."""
        with torch.no_grad():
            feature = self.generator.encode(image, self.layer)[0]
        feature.requires_grad_(True)
        score = self.head.logits_from_hidden(self.head.hidden_map(feature)).amax(1).sum()
        (gradient,) = torch.autograd.grad(score, feature)
        return (gradient.mean(dim=(2, 3), keepdim=True) * feature.detach()).sum(1)
