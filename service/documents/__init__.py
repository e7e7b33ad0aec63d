"""Documents: what gets linked."""
