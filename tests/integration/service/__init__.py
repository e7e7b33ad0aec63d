"""The service in this process, with a real Postgres."""
