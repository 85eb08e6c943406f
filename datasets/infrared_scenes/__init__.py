"""Generated infrared scenes: vehicles, the ground they stand on, and the two cameras that look at them."""
