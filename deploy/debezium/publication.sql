-- The publication and the slot that Debezium reads. Run this once as the owner of the database, with wal_level = logical.
-- It has only inserts, because retention truncates; the whole ring under one name; and only the columns of a message.
CREATE PUBLICATION document_links
FOR TABLE outbox (position, slot, event_id, event_type, key, payload, traceparent)
WITH (publish = 'insert', publish_via_partition_root = true);

-- From here on, the slot keeps the events for Debezium. While no connector reads, it keeps all WAL: watch its size.
SELECT pg_create_logical_replication_slot('document_links', 'pgoutput');
