"""Connections to Postgres; the worker holds the same files."""
