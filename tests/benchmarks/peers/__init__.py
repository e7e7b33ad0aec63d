"""What others would have used instead, set up as its makers advise, on the same Postgres and Kafka."""
