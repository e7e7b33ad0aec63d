"""Relays the outbox table to Kafka, exactly once. Start reading at relay.py."""
