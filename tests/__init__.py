"""Tests on real Postgres and Kafka; see .github/CONTRIBUTING.md."""
