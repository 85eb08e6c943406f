"""Data sets: `DATASETS.get(name)` finds `data/<name>_dataset.py`."""

from data.base import DATASETS

__all__ = ["DATASETS"]
