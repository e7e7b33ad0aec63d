"""The relay's protocol: how each committed row of the outbox gets to Kafka once and in order.

A worker stands by until it has the leader's lock, and takes over (`process`, `takeover`). Then it leads
for a *term* (`term`): it reads pages of rows from Postgres and publishes each page together with the
cursor after it. A term ends at a stop signal, at an error, or when its producer has to be replaced.
After that the worker begins again. The worker writes to Postgres only one checkpoint for every 10 s of
work, and truncates old slots of the outbox.


Which rows are next
-------------------

Each row has a position from a sequence and the xid of its transaction. Positions become visible out
of order: a transaction that took position 7 may commit after the one that took 8. So a cursor
"position > 8" would lose row 7. The cursor is a pair of snapshots instead, as in PgQ:

* s0: every row visible in this snapshot is published;
* s1: a later `pg_current_snapshot()`. The *window* is the rows visible in s1 and not in s0. These are
  the *late rows*, whose xid was in progress in s0 (`xid = ANY(in-progress xids of s0)`), and the
  *new rows*, whose transaction got its xid later (`xid >= xmax(s0)`).

When a window is published, s1 becomes the next s0. Rows are published by position within a window.
The service takes a position while it holds the lock of the document's row, so for one document the
order of positions is the order of commits. Windows follow one another, so this order holds across
windows too.

s1 is clipped before the first page of its window is published. Its xmax becomes the greatest xid
among the window's rows plus one, and the xids above that leave its in-progress list. Without
clipping, events are lost after a crash: Postgres hands out again the xids of transactions that ended
without a commit record in the flushed WAL, and a cursor beyond such an xid would hide the rows of its
next owner. The xid of a committed row is durable, so no xid below the clipped xmax is handed out
again, except those in the in-progress list, which the next window reads as late rows. A window
without rows does not move the cursor.

One statement serves a relay that keeps up; if it finds more rows than a page holds, the window is a
*backlog* and is read in pages (`postgres/window.py`). Neither the backlog nor a long transaction
elsewhere makes a page slower. While one page of a backlog is published, the next one is read.


Exactly once
------------

The events of a page and the cursor after it are published in one Kafka transaction. The cursor is a
*progress record* on the relay's progress topic (`<topic>.progress.<relay name>`: one partition,
compacted). After a crash a `read_committed` reader finds both or neither, so there is nothing to
reconcile. The cursor is not stored as a consumer group's offset, because brokers delete the offsets of
an idle group after a week, and a transaction with offsets needs two more requests.

The record also holds the evidence that the cursor is valid: the cluster, the database and the timeline
of its xids; the token of the newest *checkpoint*, which is a copy of the record in the database; an
*anchor*, which is the row of the greatest xid that the cursor covers; the highest acknowledged offset
of each partition, and the id of the event topic.

At least once (`OUTBOX_DELIVERY=at-least-once`) uses an idempotent producer without transactions. It
sends the progress record after every batch of the page is acknowledged, so a page may be published
twice. At most one batch for each partition is in flight, because a second one could overtake a first one
that failed. The delivery mode may change at each start.


Leading and taking over
-----------------------

The leader holds an advisory lock on a session of its own (`leader`). Standbys try the lock twice a
second. They never wait for it in a statement, because the snapshot of a waiting statement holds back
vacuum. The leader's session sends a sign of life every second. A standby ends a session that has been
silent for 8 s, and Postgres itself ends it after 10 s.

The lock chooses the leader, but a former leader may go on publishing without it. Kafka's fencing
prevents that: all producers of a relay have one transactional id, in either delivery mode. A start or a
take-over has these steps, and the worker goes through them again after every error of the producer:

1. Take the lock (`leader`).
2. Read the progress record (`kafka.progress_topic`). Refuse the progress of another database, before
   anything is fenced.
3. Start a producer (`kafka.producers`). InitProducerId gives it a higher epoch and aborts its
   predecessor's transaction. A transaction on all partitions, aborted immediately, shows the epoch to each
   of them. From now on, partitions refuse every batch of the predecessor, also those in flight.
4. Read the last committed progress record again. Now it cannot change. The read goes backwards from
   the end of the topic, with `read_committed`. An error is retried and never means "no record".
5. Decide where to start from (`start`):

   ========================================================  ==========================================
   progress record                                           start from
   ========================================================  ==========================================
   of this cluster, database and timeline; the database      its cursor
   has its checkpoint and, if the record is newer than the
   newest checkpoint, its anchor
   missing, hidden by an open transaction, of another        the newest checkpoint, if it is of this
   cluster or timeline, older than the newest checkpoint,    database. It went back in time together
   or its checkpoint or anchor is not in the database        with the data, so no event is lost. Up to
   (failover, point-in-time restore, volume rolled back)     10 s of events are published twice
   missing or not trusted, and there is no checkpoint        the beginning, s0 = 1:1:
   of another cluster or database, and there is no           nothing: RefusedError, because xids of two
   checkpoint of this one (dump and restore, pg_upgrade)     clusters cannot be compared. An operator
                                                             runs `rebase` (`operator.rebase`)
   ========================================================  ==========================================

6. Check that the event topic is the one that was written to (`event_topic`), write a checkpoint, publish
   a progress record, and lead (`term`). Each transaction checks the topic again (`kafka.guard`).

A physical copy of the database (a cloned volume, a promoted replica) has the same identity as the
original and looks like a failover. It must not have access to the original's Kafka.


Topics
------

The first start makes the event topic without retention limits, so that the topic from its beginning
rebuilds the database, and records its partition count in the database. Keys are hashed over that
count even if the topic grows. A topic that was deleted and made again has another id, and its offsets
begin at 0. The leader then stops publishing until an operator has filled the topic (`snapshot`) and
starts the worker once with `--accept-topic`.


Around the protocol
-------------------

* Wake-up (`wakeup`): LISTEN on a session of its own, and a poll every 2 to 500 ms. A lost notification
  delays events until the next poll.
* Retention (`retention`): the outbox is a ring of 16 daily slots. A slot is truncated when each of its
  rows is published and older than the retention.
* Lag (`lag`): gauges of what is committed and not yet published, also while Kafka is unreachable.
* Pause (`pausing`): after `outbox_worker pause`, the leader of each term finishes the page in flight and
  publishes nothing until `resume`.
* Standby checks (`standby`): a standby that could not use Kafka is not ready.
* Failures (`process`, `health`): the worker retries Postgres and Kafka with back-off and jitter, and is
  unhealthy after 30 s without progress. No event is skipped. After SIGTERM, the transaction in flight is
  committed, or aborted after 4 s.
"""
