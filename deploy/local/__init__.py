"""Postgres and Kafka on this machine: found, or started and surely ended again."""
