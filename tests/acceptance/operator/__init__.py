"""Both programs as their operators meet them."""
