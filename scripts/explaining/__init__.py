"""What `cam_infer.py` is made of: a split translated and explained, grids over epochs, and explainers of any run."""
