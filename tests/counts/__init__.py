"""Counts that depend on no machine: what an operation costs in round trips, statements, WAL and dead tuples.

`measure` runs each operation several times on a Postgres of its own, and keeps the least of each
count. `tests/integration/test_counts.py` compares them with `counts.json`, and `make counts` writes
that file anew. Each count is of one run, so a group or a batch has those of all its links.

- Round trips and statements are messages of Postgres' protocol, counted by a proxy (`sessions.py`)
  from a call until its reply. Only sessions that committed count: no caller waits for the sessions
  that refresh keys or send NOTIFY.
- WAL bytes and dead tuples are those of the records in the WAL, read by pg_waldump (`wal.py`).
- Of a relayed event, the session counts that reads the outbox: from the read that returns the event
  to the next one, which returns none.
"""
