"""The worker, the outbox, and load on both."""
