"""CAM: the last linear layer's weights applied to every position."""

from __future__ import annotations

from torch import Tensor

from models.cam.arithmetic import in_full_precision, weighted_sum
from models.cam.base import EXPLAINERS, Explainer
from models.cam.errors import ExplainError
from models.cam.subject import Subject


@in_full_precision
def cam(activations: Tensor, class_weights: Tensor) -> Tensor:
    """sum_k W_ck A_k (Zhou et al., CVPR 2016, eq. 2); its mean over positions plus the bias is the logit.

    Args:
        activations: (..., C, h, w), A.
        class_weights: (..., C), the class's row of W; leading axes broadcast.

    Returns:
        (..., h, w), with sign.
    """
    return weighted_sum(activations, class_weights)


@EXPLAINERS.register("cam")
class Cam(Explainer):
    """See `cam`. For a target other than a class, the rows are weighted by the score's gradient to the logits.

    The network must be a mean over positions and one linear layer behind the layer; a ReLU may come before the mean,
    as in DenseNet. Needs no gradient through the network. Shown without a ReLU, as published.
    """

    rectified = False

    def maps(self, subject: Subject) -> Tensor:
        """See `Explainer.maps`.

        Raises:
            ExplainError: the network goes on otherwise behind the layer.
        """
        if (found := subject.averaged()) is not None:
            features, head = found
            return cam(features[:, None], _rows(subject.output_gradients, head.weight))
        raise ExplainError(
            f"cam needs a mean over positions and one linear layer behind layer '{subject.layer_name}', which is not"
            " how this network goes on: take the last layer before the mean, or gradcam, which is its generalisation"
        )


@in_full_precision
def _rows(output_gradients: Tensor, weight: Tensor) -> Tensor:
    """The row of W that belongs to each target, (N, T, K) and (K, C) -> (N, T, C)."""
    return output_gradients @ weight
