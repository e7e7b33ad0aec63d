"""Claims of the benchmark."""
