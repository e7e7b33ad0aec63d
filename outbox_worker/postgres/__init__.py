"""Everything that the worker reads and writes in Postgres.

* Connections (`connection`, `hosts`, `tls`, `url`): each host is tried within a time limit, and only a
  primary is accepted. The service holds the same files.
* `sessions` opens the worker's sessions. Locks, LISTEN and SET last for a session, so the worker
  connects to the server itself or to a pooler in session mode. `reading_session` replaces a session
  that does not answer.
* `registration` says which relay owns this outbox, and in which cluster the database is.
* `cursor` holds the cursor and the pure functions that move it, and `window` the statements that read
  the rows after a cursor. `progress` is the record that stores the cursor, in Kafka and in a row of
  `checkpoints`.
* `task_progress` records how far an operator's `replay`, `snapshot` or `rebase` is.
"""
