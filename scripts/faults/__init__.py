"""Faults made on purpose: what `scripts/torture.py` runs long, and tests run short."""
