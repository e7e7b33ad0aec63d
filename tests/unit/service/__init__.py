"""The service's pure parts: no database, no network."""
