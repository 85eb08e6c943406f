"""Measures of a translation: `METRICS.get(name)` finds `util/metrics/<name>_metric.py`."""

from util.metrics.base import METRICS

__all__ = ["METRICS"]
