"""Real Postgres, Kafka, Redis and PgBouncer for tests."""
