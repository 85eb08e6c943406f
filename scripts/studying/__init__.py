"""What scripts/user_study.py is made of: a page of trials, its key, votes read back, and their statistics."""
