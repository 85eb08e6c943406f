"""What `scripts/evaluate.py` is made of: what there is to measure by, the measuring, and what is written."""
