"""What `cam_infer.py` is made of: a split translated and explained by one epoch, and grids over several."""
