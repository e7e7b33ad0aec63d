"""The programs as processes, started and stopped as in production."""
