"""The write path: every change of a link, a document or an entity goes through here.

One transaction
---------------
`execute` is the only code between BEGIN and COMMIT. It takes one write or a group of them:

1. Lock and read, each kind in sorted order and the kinds in this order, so that nothing deadlocks:
   idempotency scopes (advisory locks), documents (FOR NO KEY UPDATE), entities (FOR KEY SHARE). Rows that
   are to be made are inserted first, because a row that does not exist cannot be locked. Links are read by a
   later statement than the one that locks: the snapshot of a statement that waits for a lock is older than
   what the other transaction wrote.
2. Decide (service/core): pure functions fold the writes over what was read, and give the new rows, one event
   for each link that changed, and a reply for each caller.
3. Save: one statement writes links, documents, replies and events, each row once and in its final state.
   The events' positions are taken while their documents are locked, so for one document the order of
   positions is the order of commits.

COMMIT makes all of it durable together. The relay is told by NOTIFY afterwards, outside the transaction:
inside, NOTIFY takes a lock of the whole database at commit.

Group commit
------------
A process has one writing connection. While a transaction is in flight, the next group fills; no timer delays
a lone write. The joint transaction never waits for locks (SKIP LOCKED). A write whose rows another
transaction has locked, which inserts rows, or which is large, gets a transaction of its own that waits, at
most 2 s for each lock. Writes with the same idempotency scope never share a transaction.

Certainty
---------
Before COMMIT was sent, a write whose connection broke is done again, alone. After it was sent and the answer
was lost, a new connection looks for the witness: a row that only this transaction wrote. There: the prepared
replies are true. Not there, and the transaction has ended: the write is done again. Neither within 5 s: 503.
A blind retry would answer 404 to an unlink that was done. The status of the xid alone would be wrong after
a crash, when Postgres assigns the xids again whose WAL was not flushed.
"""
