"""Counts that depend on no machine: an operation's round trips, statements, WAL bytes and dead tuples.

`measure` runs each operation several times on a separate Postgres, and keeps the least of each count.
`tests/integration/test_counts.py` compares them with `counts.json`, and `make counts` writes that file.
Each count is of one run, so that of a group or a batch includes all its links.

- Round trips and statements are messages of Postgres' protocol from a call until its reply, counted by a
  proxy (`sessions.py`). Only sessions that committed count: no caller waits for the sessions that refresh
  keys or send NOTIFY.
- WAL bytes and dead tuples are counted from the WAL records that pg_waldump prints (`wal.py`).
- For a relayed event, the session that reads the outbox counts: from the read that returns the event to
  the next one, which returns none.
"""
