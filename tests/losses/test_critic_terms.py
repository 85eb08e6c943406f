"""A discriminator's terms: values by hand, what carries a gradient, and the penalty of a Wasserstein critic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.losses.critic import critic_terms

REAL, FAKE = torch.tensor([[[[2.0]]], [[[0.0]]]]), torch.tensor([[[[-1.0]]], [[[3.0]]]])


def twice(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize(
    ("mode", "fake", "real"),
    [
        ("lsgan", (4 + 36) / 2, (9 + 1) / 2),  # logits -2, 6 and 4, 0
        ("hinge", (0 + 7) / 2, (0 + 1) / 2),
        (
            "vanilla",
            (math.log1p(math.exp(-2)) + math.log1p(math.exp(6))) / 2,
            (math.log1p(math.exp(-4)) + math.log(2)) / 2,
        ),
    ],
)
def test_by_hand(mode: str, fake: float, real: float) -> None:
    terms = critic_terms(twice, REAL, FAKE, mode, name="D_A")
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"D_A_fake": fake / 2, "D_A_real": real / 2}
    )
    assert critic_terms(twice, REAL, FAKE, mode, weight=1)["D_fake"].item() == pytest.approx(fake)


def test_the_penalty_is_of_the_slope_between_the_images() -> None:
    terms = critic_terms(twice, REAL, FAKE, "wgangp", penalty=10, alpha=torch.tensor([0.2, 0.9]))
    assert terms["D_GP"].item() == pytest.approx(0.5 * 10 * (2 - 1) ** 2)
    assert set(critic_terms(twice, REAL, FAKE, "wgangp", penalty=0)) == {"D_fake", "D_real"}
    with pytest.raises(ValueError, match="needs alpha"):
        critic_terms(twice, REAL, FAKE, "wgangp")


def test_translations_get_no_gradient_and_the_critic_does() -> None:
    fake, critic = FAKE.clone().requires_grad_(), nn.Conv2d(1, 1, 1)
    torch.stack(list(critic_terms(critic, REAL, fake, "lsgan").values())).sum().backward()  # type: ignore[no-untyped-call]
    assert fake.grad is None
    assert critic.weight.grad is not None
    assert bool(critic.weight.grad.any())
