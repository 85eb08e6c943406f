"""Options of `scripts/export.py` beside those of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from options.schema import Group, OptionError, check_line, check_place, option

FORMATS = ("onnx", "torch", "safetensors", "hub")


@dataclass(frozen=True)
class Exporting(Group):
    """export: in which format, what, and where to"""

    format: str = option("onnx", "onnx, torch (torch.export), safetensors, or hub (with a model card)", choices=FORMATS)
    output: str = option("./export", "folder of the files")
    with_cam: bool = option(False, "onnx and torch: the class head's maps beside the translation")
    check: bool = option(False, "compare the file's results with PyTorch's at several sizes")
    license: str = option("unknown", "licence of the weights for the model card, for example mit or cc-by-4.0")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_place("output", self.output)
        check_line("license", self.license)
        if self.with_cam and self.format in ("safetensors", "hub"):
            raise OptionError(f"--with_cam: --format {self.format} holds every network anyway; leave it out")

    @property
    def place(self) -> Path:
        """The folder of the files."""
        return Path(self.output)
