"""The write path: every change of a link, a document or an entity goes through here.

One transaction
---------------
`execute.Executor` takes one write or a group of writes through the steps between BEGIN and COMMIT:

1. Lock and read (rows.py; also replies.py, counts.py, entities.py), each kind in sorted order and the kinds
   in this order, so that nothing deadlocks: idempotency scopes (advisory locks), documents (FOR NO KEY
   UPDATE), entities (FOR KEY SHARE). Missing rows that the write needs are inserted first, because a row
   that does not exist cannot be locked. What the locks protect is read by a later statement than the one
   that locks: a statement that waits for a lock has an older snapshot, without the rows of the transaction
   that it waited for.
2. Decide (service/core): each write changes the state, which gives the new rows, one event for each changed
   link, and a reply for each caller.
3. Save (rows.py): one statement writes links, documents, replies and events, each row once and in its final
   state. The events' positions are taken while their documents are locked, so for one document the order of
   positions is the order of commits.

A lone link (lone.py) is the exception: if no other write is queued, one statement, which is its own
transaction, takes the place of BEGIN, the steps and COMMIT. Its function writes only a link that is new, for
which nothing remains to be decided once its rows are locked. The same code decides it, before with
placeholders for what the locks tell, and after for the reply. Other writes continue with the steps.

The relay is told by NOTIFY after COMMIT (notifier.py).

Three kinds of transactions
---------------------------
`group.GroupWriter` is the entry, and chooses the kind for each write in one place (`_kind_of`):

* Joint (group.py): with all other writes, in the transactions of the one connection that a process has for
  them. While one is in flight, the writes of the next one are queued; no timer delays a lone write. A joint
  transaction takes free locks only (SKIP LOCKED), and inserts no missing rows.
* Contended (contended.py): the writes whose document another transaction has locked wait for it together,
  and share the transaction that gets the lock, with those to other contended documents. Those that change
  nothing need no lock: a read answers them before (unchanged.py).
* Alone (alone.py): a write that inserts a missing row, is large, needs several locked documents, or is
  about an entity itself. The writes of one document take turns. The deletion of an entity goes on in
  further transactions, which unlink the entity everywhere (cascade.py). All but the last of them replace the
  steps 1 and 2: one statement locks, decides and writes, because the decision about each of these links is
  the same. It skips locked documents, whose links the last transactions remove in the usual steps.

A write waits at most 2 s for each lock. Writes with the same idempotency scope never share a transaction.

Certainty
---------
transaction.py begins and ends a transaction, and witness.py finds out whether it was committed. If the
connection breaks before COMMIT was sent, the write is retried in a transaction of its own. If it breaks
later, a new connection looks up the witness, a row that only this transaction wrote. If the row is found,
the replies are sent. If it is not found and the transaction has ended, the write is retried. If neither is
known within 5 s, the caller is answered 503. The witness of a lone link is the link: nobody knows the xid
of its statement, so the statement writes nothing if it takes its locks later than 0.5 s after it was sent.
The look-up waits for this time and for the document's lock. If the link may have been erased since, neither
is known.

A blind retry would answer 404 to an unlink that was committed. The status of the xid is no proof: after a
crash Postgres assigns xids again whose WAL was not flushed.
"""
