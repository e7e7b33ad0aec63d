"""Callers of the service, and what it has to answer."""
