"""Postgres and Kafka on this machine: running servers are used, others are started and ended again."""
