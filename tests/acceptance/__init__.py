"""The programs as processes, started and signalled as in production."""
