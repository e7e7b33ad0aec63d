"""In process, against a real Postgres and a real Kafka."""
