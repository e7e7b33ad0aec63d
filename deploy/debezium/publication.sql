-- What Debezium reads of the outbox: run it once as the owner of the database, with wal_level = logical.
-- Inserts only (retention truncates), of the whole ring under one name, and just the columns that become the message.
CREATE PUBLICATION document_links
FOR TABLE outbox (position, slot, event_id, event_type, key, payload, traceparent)
WITH (publish = 'insert', publish_via_partition_root = true);

-- From here on the events are Debezium's. While no connector reads, the slot keeps all WAL: watch its size.
SELECT pg_create_logical_replication_slot('document_links', 'pgoutput');
