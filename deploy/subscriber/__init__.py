"""Two subscribers to start from. Copy this folder: it needs nothing else of the repository."""
