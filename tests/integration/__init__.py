"""Code in this process, with a real Postgres and a real Kafka."""
