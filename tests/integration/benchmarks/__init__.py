"""The benchmark's own claims."""
