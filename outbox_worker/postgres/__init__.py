"""What the worker reads from and writes to Postgres."""
