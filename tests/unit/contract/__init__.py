"""The checks of the published descriptions, on documents alone."""
