"""What `scripts/export.py` is made of: networks to hand on, their formats, the comparison with PyTorch, model cards."""
