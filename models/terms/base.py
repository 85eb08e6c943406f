"""What an extra loss term is: an option group of its own, and terms of G's phase made from CUT's state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from options.schema import Group
from util.registry import Registry
from util.seeding import StepInfo

if TYPE_CHECKING:
    from models.cut_model import CutModel, CutState
    from options.parse import RunOptions


class ExtraTerm(ABC):
    """One entry of `--extra_losses`.

    Attributes:
        Options: its flags; they exist where the term is asked for.
        reads_queries: it needs E(G(x)), which CUT computes only where a loss asks for it.
        messages: what the user must know before training; the model passes them on.
    """

    Options: ClassVar[type[Group]]
    reads_queries: bool = False
    messages: Sequence[str] = ()

    @classmethod
    @abstractmethod
    def from_options(cls, options: Group, run: RunOptions) -> ExtraTerm:
        """The term of a run; the only place where it sees options.

        Args:
            options: its own group.

        Raises:
            OptionError: options that contradict each other.
        """

    @property
    def weights(self) -> Mapping[str, float]:
        """Its weight by the flag that gives it; a run in which all weights are 0 is refused. None of its own: 1."""
        return {"extra_losses": 1.0}

    @abstractmethod
    def terms(self, model: CutModel, state: CutState) -> dict[str, Tensor]:
        """Weighted terms by log name, added to those of phase G; a weight of 0 computes nothing."""

    def begin_epoch(self, info: StepInfo) -> Sequence[str]:
        """Called before an epoch's first step; returns what is then to be said."""
        return ()


TERMS: Registry[ExtraTerm] = Registry("extra_losses", "models.terms", "_term")
