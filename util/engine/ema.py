"""Exponential moving averages of weights: what is exported and evaluated, while training goes on with the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Early averages must forget the first weights: after n updates the decay is at most (1 + n) / (WARM_UP + n).
WARM_UP = 10


class WeightAverage:
    """The average of networks' weights over training steps (Yazıcı et al., ICLR 2019, arXiv:1806.04498).

    After each step: average = d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the nth. Buffers
    (running statistics) are copied. Averages are kept in float32 or wider.

    Args:
        nets: networks by name; none of them where nothing is to be averaged.
        decay: in [0, 1); 0 averages nothing.
    """

    def __init__(self, nets: Mapping[str, nn.Module], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._nets = dict(nets) if decay > 0 else {}
        self._averages = {name: _copied(net.state_dict()) for name, net in self._nets.items()}

    def restart(self) -> None:
        """Forget what was averaged and begin with the weights as they are now."""
        self.updates = 0
        self._averages = {name: _copied(net.state_dict()) for name, net in self._nets.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step into the averages."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (WARM_UP + self.updates))
        for name, net in self._nets.items():
            average = self._averages[name]
            parameters = dict(net.named_parameters())
            weights = [value.detach() for value in parameters.values()]
            if weights:
                torch._foreach_lerp_([average[key] for key in parameters], weights, 1 - decay)
            for key, value in net.named_buffers():
                if key in average:  # buffers that are not saved are none of its business
                    average[key].copy_(value)

    def weights(self, name: str) -> Mapping[str, Tensor] | None:
        """The averaged state dict of a network; None where it is not averaged."""
        return self._averages.get(name)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The networks have their averaged weights within the block, and their own again after it."""
        own = {name: _copied(net.state_dict()) for name, net in self._nets.items()}
        try:
            for name, net in self._nets.items():
                net.load_state_dict(self._averages[name])
            yield
        finally:
            for name, net in self._nets.items():
                net.load_state_dict(own[name])

    def state(self) -> dict[str, Any]:
        """What a run continues from."""
        return {"updates": self.updates, "averages": self._averages}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Continue from what `state` returned; where it lacks a network, its average begins with its weights.

        Raises:
            RuntimeError: the average of a network of another shape.
        """
        self.restart()
        if not state:
            return
        self.updates = int(state["updates"])
        for name, average in self._averages.items():
            for key, value in state["averages"].get(name, {}).items():
                if key not in average or average[key].shape != value.shape:
                    raise RuntimeError(f"the average of {name} has {key} of another shape")
                average[key].copy_(value)


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in weights.items()}
