"""What `scripts/explainers_table.py` and `scripts/evaluate.py --maps` are made of: maps, and how far to trust them."""
