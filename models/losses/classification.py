"""Class consistency: the translation must keep the class of its source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam.functional import full_precision


def class_consistency(
    logits_x: Tensor,
    logits_fake: Tensor,
    labels: Tensor,
    soft: Tensor,
    smoothing: float = 0.1,
    temperature: float = 1.0,
    seen: Tensor | None = None,
    taught: Tensor | None = None,
) -> Tensor:
    """Half the cross-entropy of the input plus half the disagreement of the translation, per image.

    The head learns from the first half. The second half trains the generator, so the caller computes
    `logits_fake` with a frozen head. For a true label it is the cross-entropy with that label (semantic
    consistency as in CyCADA, Hoffman et al. 2018); for a pseudo-label it is KL(softmax(x/T) ||
    softmax(fake/T)) with the input's side detached, as a wrong label should not be forced on the translation.

    Args:
        logits_x: (N,K) of the inputs.
        logits_fake: (N,K) of the translations.
        labels: (N,) int64 in 0..K-1, or -1 for unknown.
        soft: (N,) bool, true where the label is a pseudo-label.
        smoothing: label smoothing of both cross-entropies, in [0,1).
        temperature: T of the KL term; gradients are not rescaled by its square.
        seen: (N,K) of the inputs by whoever gives `logits_fake`, to agree with a pseudo-label's; None: `logits_x`.
        taught: (N,K) of the translations as constants, by the learning head: half their cross-entropy is added, so
            that the head knows the classes in the target's style too and the second half does not hold on to the
            source's.

    Returns:
        (N,), 0 without gradient where the label is unknown. A mean over known samples is `sum() / (labels >=
        0).sum()`; over several processes divide by the count of all of them, not of each.
    """
    with torch.autocast(logits_x.device.type, enabled=False):
        logits_x, logits_fake = full_precision(logits_x), full_precision(logits_fake)
        known = labels >= 0
        # Unknown labels are computed as class 0 and dropped by `where`, so that the shape never depends on
        # the data.
        target = labels.clamp_min(0)
        learn = F.cross_entropy(logits_x, target, reduction="none", label_smoothing=smoothing)
        hard = F.cross_entropy(logits_fake, target, reduction="none", label_smoothing=smoothing)
        reference = logits_x if seen is None else full_precision(seen)
        teacher = (reference.detach() / temperature).log_softmax(dim=1)
        student = (logits_fake / temperature).log_softmax(dim=1)
        agree = (teacher.exp() * (teacher - student)).sum(dim=1)
        if taught is not None:
            learn = learn + F.cross_entropy(full_precision(taught), target, reduction="none", label_smoothing=smoothing)
        loss = 0.5 * (learn + torch.where(soft, agree, hard))
    return torch.where(known, loss, torch.zeros_like(loss))
