"""Claims of the soak."""
