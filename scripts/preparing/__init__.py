"""What scripts/prepare_wsol.py is made of."""
