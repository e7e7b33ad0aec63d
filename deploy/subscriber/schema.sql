-- The tables of the subscriber, in a Postgres of its own. It makes them at its start.

-- The state of each partition of the topic. It is written in the transaction that writes the rows of the partition.
CREATE TABLE IF NOT EXISTS positions (
    partition int PRIMARY KEY,
    next_offset bigint NOT NULL, -- each record before it is applied, and no other one
    snapshot text, -- the snapshot whose beginning was read and whose end was not; its records are in `held`
    after_snapshot boolean NOT NULL -- the rows come from a snapshot: it has no document without an active link
);

-- The version of the last event that was applied to each document, by the key of the records.
CREATE TABLE IF NOT EXISTS documents (
    key text PRIMARY KEY,
    partition int NOT NULL,
    version bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_partition_idx ON documents (partition);

-- All active links.
CREATE TABLE IF NOT EXISTS links (
    id uuid PRIMARY KEY,
    key text NOT NULL REFERENCES documents ON DELETE CASCADE,
    workspace_id uuid NOT NULL,
    document_id text NOT NULL,
    entity_type text NOT NULL,
    entity_id text NOT NULL,
    role text,
    created_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS links_key_idx ON links (key);
CREATE INDEX IF NOT EXISTS links_entity_idx ON links (workspace_id, entity_type, entity_id);

-- The records of a partition between the beginning and the end of a snapshot.
CREATE TABLE IF NOT EXISTS held (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition int NOT NULL,
    in_snapshot boolean NOT NULL, -- false: an event of the relay, applied after the snapshot
    value text NOT NULL
);
CREATE INDEX IF NOT EXISTS held_partition_idx ON held (partition, number);
