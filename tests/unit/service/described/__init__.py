"""The service's descriptions of itself."""
