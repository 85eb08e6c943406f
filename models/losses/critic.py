"""What a discriminator learns from: real images, translations and, for a Wasserstein critic, points between them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from models.losses.gan import gan_loss, gradient_penalty

Critic = Callable[[Tensor], Tensor]


def critic_terms(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    mode: str,
    *,
    name: str = "D",
    weight: float = 0.5,
    penalty: float = 10.0,
    alpha: Tensor | None = None,
) -> dict[str, Tensor]:
    """A discriminator's terms, each times `weight`: the half of CycleGAN and pix2pix slows D relative to G.

    Args:
        critic: (N,C,H,W) -> values of any shape.
        real: (N,C,H,W).
        fake: (N,C,H,W); detached here.
        mode: as for `gan_loss`.
        name: what the terms' names begin with.
        penalty: weight of the gradient penalty, of mode wgangp alone; 0 leaves it out.
        alpha: (N,) in [0,1], where between fake (0) and real (1) the penalty is taken; mode wgangp needs it.

    Returns:
        `<name>_fake`, `<name>_real` and, for a penalty, `<name>_GP`; scalars.

    Raises:
        ValueError: an unknown mode, wgangp without alpha, or shapes that the penalty cannot mix.
    """
    fake = fake.detach()
    terms = {
        f"{name}_fake": weight * gan_loss(critic(fake), False, mode),
        f"{name}_real": weight * gan_loss(critic(real), True, mode),
    }
    if mode == "wgangp" and penalty > 0:
        if alpha is None:
            raise ValueError("the gradient penalty of wgangp needs alpha, a draw in [0, 1] for each image")
        terms[f"{name}_GP"] = weight * penalty * gradient_penalty(critic, real, fake, alpha)
    return terms
