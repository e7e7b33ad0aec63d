"""The checks of what is published, on documents alone."""
