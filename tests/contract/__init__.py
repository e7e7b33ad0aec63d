"""The published descriptions of the service, checked with tools of others."""
