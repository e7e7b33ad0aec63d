"""Both programs as operators use them."""
