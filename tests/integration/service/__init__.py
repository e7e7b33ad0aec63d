"""The service in this process, on a real Postgres."""
