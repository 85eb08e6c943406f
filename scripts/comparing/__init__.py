"""What scripts/compare.py is made of: methods, resampling, the comparison, and tables in four formats."""
