"""What `scripts/reproduce.py` is made of: the plan, the data, the runs, and the report."""
