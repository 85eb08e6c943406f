"""What `scripts/app.py` is made of: a trained run asked about one picture, and the page in front of it."""
