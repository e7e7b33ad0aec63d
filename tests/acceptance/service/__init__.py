"""The service as its callers use it."""
