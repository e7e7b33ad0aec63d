-- The schema of the document-link service, whole. `python -m service migrate` applies it to an empty database.
--
-- Two programs share this schema, and nothing else: the service writes a link and its event in one transaction; the
-- outbox worker reads the events and publishes them to Kafka. PostgreSQL 15 or later.
--
-- Rules that hold for every table:
--   * a tenant's row begins its primary key with workspace_id, so that workspaces can be spread over databases later;
--   * ids are compared byte by byte (COLLATE "C"): it is faster, and the order is the one in which programs sort
--     them before they lock, whatever the locale of the database;
--   * documents, entities and links are marked with deleted_at. Rows so marked are removed by `service erase` and, after
--     LINKS_KEEP_DELETED_DAYS, by the service.

CREATE TABLE schema_version (
    version integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    migration integer NOT NULL,
    CONSTRAINT schema_version_pkey PRIMARY KEY (migration)
);

COMMENT ON TABLE schema_version IS
'One row a migration; the newest row tells which schema this is, and which programs can run on it.';
COMMENT ON COLUMN schema_version.migration IS
'The schema after this migration: the number of its file in service/store/migrations.';
COMMENT ON COLUMN schema_version.version IS
'The oldest schema whose programs can run on this one: a program refuses a greater number than its own. The programs of '
'release 0.1 refuse each number but 1, so it stays 1 as long as they may run.';

INSERT INTO schema_version (version, migration) VALUES (1, 4);

------------------------------------------------------------------------------------------------------------------------
-- Tenants and their keys
------------------------------------------------------------------------------------------------------------------------

CREATE TABLE workspaces (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workspaces_pkey PRIMARY KEY (id),
    CONSTRAINT workspaces_name_key UNIQUE (name),
    CONSTRAINT workspaces_name_check CHECK (length(name) BETWEEN 1 AND 128)
);

CREATE TABLE api_keys (
    id text COLLATE "C" NOT NULL,
    workspace_id uuid NOT NULL,
    -- SHA-256 of the key. A key is 52 random characters, so a plain hash cannot be guessed back.
    hash bytea NOT NULL,
    scopes text[] NOT NULL,
    -- As the `limits` library reads it, "1000/minute"; NULL: the service's default.
    rate_limit text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_hash_key UNIQUE (hash),
    CONSTRAINT api_keys_workspace_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces (id),
    CONSTRAINT api_keys_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT api_keys_scopes_check CHECK (scopes <@ ARRAY['read:documents', 'write:documents'])
);

COMMENT ON COLUMN api_keys.id IS 'Public name of the key: shown in lists, logs and events. Never the key.';

-- When each key was last used, to the hour. It is a table of its own, so that the service needs no right to change keys. A
-- key without a row was not used since the service can write here.
CREATE TABLE api_key_uses (
    key_id text COLLATE "C" NOT NULL,
    last_used_at timestamptz NOT NULL,
    CONSTRAINT api_key_uses_pkey PRIMARY KEY (key_id),
    CONSTRAINT api_key_uses_key_fkey FOREIGN KEY (key_id) REFERENCES api_keys (id) ON DELETE CASCADE
);

------------------------------------------------------------------------------------------------------------------------
-- Documents, entities and the links between them
------------------------------------------------------------------------------------------------------------------------

CREATE TABLE documents (
    workspace_id uuid NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- Grows by one with each link event, so that subscribers can detect a lost or repeated event.
    version bigint NOT NULL DEFAULT 0,
    -- Grows with each write to the document or its links: the ETag.
    revision bigint NOT NULL DEFAULT 1,
    display_name text,
    category text,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    -- The id of the document's deletion. The links that it removed have the same id; a restore brings back only these.
    deletion_id uuid,
    CONSTRAINT documents_pkey PRIMARY KEY (workspace_id, id),
    CONSTRAINT documents_workspace_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces (id),
    -- Each update checks this. The length is apart, since a bounded repetition makes the match twenty times slower.
    CONSTRAINT documents_id_check CHECK (length(id) <= 128 AND id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$'),
    CONSTRAINT documents_version_check CHECK (version >= 0 AND revision >= 1),
    CONSTRAINT documents_deletion_check CHECK ((deleted_at IS NULL) = (deletion_id IS NULL))
) WITH (fillfactor = 80); -- each link event updates its document: the free space is for HOT updates

CREATE TABLE entities (
    workspace_id uuid NOT NULL,
    -- The registry of types lives in code (service/core/ids.py); a new type needs no migration.
    type text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT entities_pkey PRIMARY KEY (workspace_id, type, id),
    CONSTRAINT entities_workspace_fkey FOREIGN KEY (workspace_id) REFERENCES workspaces (id),
    CONSTRAINT entities_id_check CHECK (length(id) <= 128 AND id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$')
) WITH (fillfactor = 90);

CREATE TABLE document_links (
    workspace_id uuid NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    -- UUIDv7 made of created_at, to the microsecond: ordering by id is ordering by (created_at, id).
    id uuid NOT NULL,
    entity_type text COLLATE "C" NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    role text,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz,
    deleted_cause text,
    deletion_id uuid,
    -- The document comes before the id: each query for a link names its document, and lists of a document's links are
    -- read from this index in order.
    CONSTRAINT document_links_pkey PRIMARY KEY (workspace_id, document_id, id),
    -- One row for each document and entity. Linking them again restores this row.
    CONSTRAINT document_links_triple_key UNIQUE (workspace_id, document_id, entity_type, entity_id),
    CONSTRAINT document_links_document_fkey
    FOREIGN KEY (workspace_id, document_id) REFERENCES documents (workspace_id, id),
    CONSTRAINT document_links_entity_fkey
    FOREIGN KEY (workspace_id, entity_type, entity_id) REFERENCES entities (workspace_id, type, id),
    CONSTRAINT document_links_role_check CHECK (length(role) <= 64),
    CONSTRAINT document_links_deleted_check CHECK (
        (deleted_at IS NULL) = (deleted_cause IS NULL) AND (deleted_at IS NOT NULL OR deletion_id IS NULL)
    ),
    CONSTRAINT document_links_cause_check CHECK (
        deleted_cause IN ('unlink', 'update', 'batch', 'document_deleted', 'entity_deleted')
    )
);

-- The reverse look-up: the active links of an entity, oldest first. The type comes last because a query may leave it
-- open ("which documents belong to X?"), and two types rarely share an id.
CREATE INDEX document_links_entity_idx ON document_links (workspace_id, entity_id, id, entity_type)
WHERE deleted_at IS NULL;

------------------------------------------------------------------------------------------------------------------------
-- Rows that are removed (service/store/erasing)
------------------------------------------------------------------------------------------------------------------------

-- A tombstone for each document whose row was removed. A document that is made again with such an id continues its version
-- and revision: subscribers would take events from version 1 for duplicates, and callers an old ETag for the present one.
-- The tombstone then stays, and counts again when the document is removed again.
CREATE TABLE erased_documents (
    workspace_id uuid NOT NULL,
    -- SHA-256 of the id, so that the id itself is erased. An id that can be guessed can be recognized by its hash.
    id_hash bytea NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT erased_documents_pkey PRIMARY KEY (workspace_id, id_hash),
    CONSTRAINT erased_documents_hash_check CHECK (octet_length(id_hash) = 32),
    CONSTRAINT erased_documents_version_check CHECK (version >= 0 AND revision >= 1)
);

-- Gives a new document the version and revision of its tombstone. A trigger, so that the programs of release 0.1 continue
-- them, too. AFTER: the INSERT may wait for the transaction that removes the earlier row, and a statement that begins after
-- this wait sees that transaction's tombstone.
CREATE FUNCTION continue_erased_document()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    erased erased_documents;
BEGIN
    SELECT *
    INTO erased
    FROM erased_documents AS e
    WHERE e.workspace_id = new.workspace_id AND e.id_hash = sha256(convert_to(new.id, 'UTF8'));
    IF FOUND THEN
        UPDATE documents AS d
        SET version = erased.version, revision = erased.revision + 1
        WHERE d.workspace_id = new.workspace_id AND d.id = new.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER documents_continue_erased AFTER INSERT ON documents
FOR EACH ROW EXECUTE FUNCTION continue_erased_document();

-- The sweep that removes expired rows: one row. Its lock admits one process at a time, behind a transaction pooler too.
CREATE TABLE expiry_sweep (
    singleton boolean NOT NULL DEFAULT true,
    -- The last document that was swept; NULL: the next sweep begins with the first.
    workspace_id uuid,
    document_id text COLLATE "C",
    -- What the present sweep has removed so far.
    documents bigint NOT NULL DEFAULT 0,
    links bigint NOT NULL DEFAULT 0,
    -- The time of the next batch; after a sweep, that of the next sweep.
    next_at timestamptz NOT NULL DEFAULT now(),
    -- The end of the last sweep.
    finished_at timestamptz,
    CONSTRAINT expiry_sweep_pkey PRIMARY KEY (singleton),
    CONSTRAINT expiry_sweep_singleton_check CHECK (singleton),
    CONSTRAINT expiry_sweep_place_check CHECK ((workspace_id IS NULL) = (document_id IS NULL))
);

INSERT INTO expiry_sweep DEFAULT VALUES;

------------------------------------------------------------------------------------------------------------------------
-- Replies to calls that carried an Idempotency-Key
------------------------------------------------------------------------------------------------------------------------

CREATE TABLE idempotency_keys (
    workspace_id uuid NOT NULL,
    -- SHA-256 of method, path and key.
    scope bytea NOT NULL,
    -- SHA-256 of the query string and the body: the same key with another request is refused.
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (workspace_id, scope),
    CONSTRAINT idempotency_keys_hashes_check CHECK (octet_length(scope) = 32 AND octet_length(fingerprint) = 32),
    CONSTRAINT idempotency_keys_status_check CHECK (status BETWEEN 200 AND 299) -- a failed call has written nothing
);

CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

------------------------------------------------------------------------------------------------------------------------
-- The outbox: events on their way to Kafka
------------------------------------------------------------------------------------------------------------------------

-- Insert-only: no row is ever updated or deleted, so there are no dead tuples, nothing for vacuum to do, and no
-- slow-down while some session holds an old snapshot.
--
-- A ring of sixteen days: a row's slot is its UTC day modulo 16. All slots exist from the start, so no job has to create
-- partitions. Retention is TRUNCATE of a slot whose rows are all published and old enough (outbox_worker/relay/retention.py).
CREATE TABLE outbox (
    -- The relay's cursor selects rows by xid and position (outbox_worker/postgres/cursor.py).
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Taken while the document's row lock is held: for one document, position order is commit order. The sequence has
    -- to keep its default, CACHE 1: positions that a session has cached would break this order.
    position bigint GENERATED ALWAYS AS IDENTITY,
    slot smallint NOT NULL DEFAULT (extract(EPOCH FROM now())::bigint / 86400 % 16),
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    -- Kafka's message key: workspace_id/document_id.
    key text NOT NULL,
    -- Kafka's message value, byte for byte: a CloudEvent in JSON. SELECT convert_from(payload, 'UTF8') reads it.
    payload bytea NOT NULL,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_pkey PRIMARY KEY (position, slot),
    -- Far below the message size limit of any broker, so that each event can be delivered.
    CONSTRAINT outbox_payload_check CHECK (octet_length(payload) <= 16384),
    CONSTRAINT outbox_key_check CHECK (octet_length(key) <= 256)
) PARTITION BY LIST (slot);

CREATE INDEX outbox_xid_position_idx ON outbox (xid, position);

CREATE TABLE outbox_00 PARTITION OF outbox FOR VALUES IN (0);
CREATE TABLE outbox_01 PARTITION OF outbox FOR VALUES IN (1);
CREATE TABLE outbox_02 PARTITION OF outbox FOR VALUES IN (2);
CREATE TABLE outbox_03 PARTITION OF outbox FOR VALUES IN (3);
CREATE TABLE outbox_04 PARTITION OF outbox FOR VALUES IN (4);
CREATE TABLE outbox_05 PARTITION OF outbox FOR VALUES IN (5);
CREATE TABLE outbox_06 PARTITION OF outbox FOR VALUES IN (6);
CREATE TABLE outbox_07 PARTITION OF outbox FOR VALUES IN (7);
CREATE TABLE outbox_08 PARTITION OF outbox FOR VALUES IN (8);
CREATE TABLE outbox_09 PARTITION OF outbox FOR VALUES IN (9);
CREATE TABLE outbox_10 PARTITION OF outbox FOR VALUES IN (10);
CREATE TABLE outbox_11 PARTITION OF outbox FOR VALUES IN (11);
CREATE TABLE outbox_12 PARTITION OF outbox FOR VALUES IN (12);
CREATE TABLE outbox_13 PARTITION OF outbox FOR VALUES IN (13);
CREATE TABLE outbox_14 PARTITION OF outbox FOR VALUES IN (14);
CREATE TABLE outbox_15 PARTITION OF outbox FOR VALUES IN (15);

-- The relay of this outbox: one row, inserted by the worker's first start. A database made from a migrated template has
-- none yet, so that two databases never share a name.
CREATE TABLE outbox_relay (
    singleton boolean NOT NULL DEFAULT true,
    -- Random; names the transactional id, the advisory lock and the progress topic.
    name text NOT NULL,
    -- The cluster and database of the first start: the relay of a copy of the database must not fence the original.
    -- The identifier is PostgreSQL's unsigned 64-bit number as text.
    system_identifier text NOT NULL,
    database_oid oid NOT NULL,
    -- Keys are hashed by this count even if partitions are added to the topic: the order of a document's events depends
    -- on it.
    topic_partitions integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- What a worker without OUTBOX_COMPRESSION compresses batches with. The default is for workers of the releases before,
    -- which do not name this column and compress nothing; this release's worker records its own default.
    compression text NOT NULL DEFAULT 'none',
    CONSTRAINT outbox_relay_pkey PRIMARY KEY (singleton),
    CONSTRAINT outbox_relay_singleton_check CHECK (singleton),
    CONSTRAINT outbox_relay_partitions_check CHECK (topic_partitions > 0),
    CONSTRAINT outbox_relay_compression_check CHECK (compression IN ('none', 'gzip', 'snappy', 'lz4', 'zstd'))
);

-- The relay's cursor, saved after every 10 s of work. The cursor on the progress topic counts, except after a failover or
-- a point-in-time restore: this copy goes back in time together with the data, and the record on the topic does not.
CREATE TABLE outbox_checkpoints (
    id bigint GENERATED ALWAYS AS IDENTITY,
    relay text NOT NULL,
    system_identifier text NOT NULL,
    database_oid oid NOT NULL,
    timeline text COLLATE "C" NOT NULL,
    -- The same fields as the progress record's (outbox_worker/postgres/progress.py).
    cursor jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT outbox_checkpoints_pkey PRIMARY KEY (id)
);

-- One row while an operator has paused the relay (outbox_worker/postgres/pause.py); none: it publishes. The leader reads it
-- every second.
CREATE TABLE outbox_pause (
    singleton boolean NOT NULL DEFAULT true,
    paused_at timestamptz NOT NULL DEFAULT now(),
    -- User and host of the command `pause`.
    paused_by text NOT NULL,
    CONSTRAINT outbox_pause_pkey PRIMARY KEY (singleton),
    CONSTRAINT outbox_pause_singleton_check CHECK (singleton)
);

-- The runs of an operator's replay, snapshot and rebase, with their progress (outbox_worker/postgres/task_progress.py).
CREATE TABLE outbox_tasks (
    id bigint GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    -- The options of the command. --resume goes on with the newest run that has the same ones.
    parameters jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    -- The run's session writes every few seconds. A run that was killed stops doing so.
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- The events (rebase: rows) that are done, and all of them; NULL: unknown.
    events bigint NOT NULL DEFAULT 0,
    total bigint,
    -- Where --resume goes on; NULL: the run cannot be resumed.
    position jsonb,
    finished_at timestamptz,
    -- Why the run has ended before its end.
    error text,
    CONSTRAINT outbox_tasks_pkey PRIMARY KEY (id),
    CONSTRAINT outbox_tasks_kind_check CHECK (kind IN ('replay', 'snapshot', 'rebase')),
    CONSTRAINT outbox_tasks_finished_check CHECK (finished_at IS NULL OR error IS NULL)
);

------------------------------------------------------------------------------------------------------------------------
-- The write path (service/store/writing): one function to lock scopes, two to lock and read, one to save. In a VOLATILE
-- function one round trip holds several statements, each with a snapshot of its own. The planner's settings are fixed on
-- the functions: a plan made while the tables are empty would be a sequential scan, or a whole index read and
-- materialized, and a session keeps it.
------------------------------------------------------------------------------------------------------------------------

CREATE TYPE link_key AS (workspace_id uuid, document_id text, entity_type text, entity_id text);

CREATE TYPE new_link AS (
    workspace_id uuid, document_id text, id uuid, entity_type text, entity_id text, role text
);

CREATE TYPE changed_link AS (
    workspace_id uuid, document_id text, id uuid, role text, deleted_at timestamptz, deleted_cause text, deletion_id uuid
);

CREATE TYPE read_link AS (
    id uuid, entity_type text, entity_id text, role text,
    created_at timestamptz, deleted_at timestamptz, deleted_cause text, deletion_id uuid
);

CREATE TYPE document_counters AS (workspace_id uuid, id text, version bigint, revision bigint);

CREATE TYPE changed_document AS (
    workspace_id uuid, id text, version bigint, revision bigint,
    display_name text, category text, metadata jsonb, deleted_at timestamptz, deletion_id uuid
);

CREATE TYPE new_event AS (event_id uuid, event_type text, key text, payload bytea, traceparent text);

CREATE TYPE stored_reply AS (workspace_id uuid, scope bytea, fingerprint bytea, status smallint, body bytea);

-- Locks idempotency scopes and returns the replies stored under them, one row for each scope that is locked now.
--   patient  wait for locks, at most lock_timeout; otherwise scopes that another transaction has locked are left out; the
--            name is release 0.1's, whose programs call this function too: CREATE OR REPLACE cannot rename a parameter
CREATE FUNCTION lock_scopes(workspaces uuid [], scopes bytea [], patient boolean)
RETURNS TABLE (ordinal integer, fingerprint bytea, status smallint, body bytea)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
DECLARE
    locked integer[] := '{}';
    scope record;
BEGIN
    FOR scope IN
        SELECT u.ordinal::integer AS ordinal, hashtextextended(u.workspace::text || encode(u.scope, 'hex'), 0) AS lock_key
        FROM unnest(workspaces, scopes) WITH ORDINALITY AS u (workspace, scope, ordinal)
        ORDER BY 2
    LOOP
        IF patient THEN
            PERFORM pg_advisory_xact_lock(scope.lock_key);
            locked := locked || scope.ordinal;
        ELSIF pg_try_advisory_xact_lock(scope.lock_key) THEN
            locked := locked || scope.ordinal;
        END IF;
    END LOOP;
    RETURN QUERY
    SELECT u.ordinal::integer, k.fingerprint, k.status, k.body
    FROM unnest(workspaces, scopes) WITH ORDINALITY AS u (workspace, scope, ordinal)
    LEFT JOIN LATERAL (
        SELECT k.fingerprint, k.status, k.body, k.created_at
        FROM idempotency_keys AS k
        WHERE k.workspace_id = u.workspace AND k.scope = u.scope
        OFFSET 0 -- keeps the planner from joining all replies, or those of 24 hours, if statistics say that they are few
    ) AS k ON k.created_at > now() - interval '24 hours'
    WHERE u.ordinal = ANY (locked);
END
$$;

-- Finds what a link, active or not, links its document to. It is a function for its settings: a session that prepared the
-- statement while there were few links would go on reading all of them.
CREATE FUNCTION find_link(workspace uuid, document text, link uuid)
RETURNS TABLE (entity_type text, entity_id text)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT l.entity_type, l.entity_id
    FROM (
        SELECT l.id, l.entity_type, l.entity_id
        FROM document_links AS l
        WHERE l.workspace_id = workspace AND l.document_id = document AND l.id >= link
        ORDER BY l.id -- only the primary key has this order, as in save_changes
        LIMIT 1
    ) AS l
    WHERE l.id = link;
END
$$;

-- Locks documents and reads them with their active links, and with the links that their present deletion removed. One row
-- for each document that exists.
--   wait        wait for locks, at most lock_timeout; otherwise documents that another transaction has locked are left out
--   most_links  links is NULL if the document's version, which counts its link events, is greater than this
CREATE FUNCTION lock_documents(workspaces uuid [], ids text [], wait boolean, most_links bigint)
RETURNS TABLE (
    locked_at timestamptz, workspace_id uuid, id text, version bigint, revision bigint,
    display_name text, category text, metadata jsonb, created_at timestamptz, updated_at timestamptz,
    deleted_at timestamptz, deletion_id uuid, links read_link []
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    locked documents[];
BEGIN
    SELECT array_agg(coalesce(waited, skipped))
    INTO locked
    FROM (SELECT * FROM unnest(workspaces, ids) AS k (workspace_id, id) ORDER BY 1, 2) AS k
    LEFT JOIN LATERAL (
        SELECT d.* FROM documents AS d
        WHERE wait AND d.workspace_id = k.workspace_id AND d.id = k.id FOR NO KEY UPDATE
    ) AS waited ON true
    LEFT JOIN LATERAL (
        SELECT d.* FROM documents AS d
        WHERE NOT wait AND d.workspace_id = k.workspace_id AND d.id = k.id FOR NO KEY UPDATE SKIP LOCKED
    ) AS skipped ON true;
    RETURN QUERY
    SELECT
        clock_timestamp(), d.workspace_id, d.id, d.version, d.revision,
        d.display_name, d.category, d.metadata, d.created_at, d.updated_at, d.deleted_at, d.deletion_id,
        CASE WHEN d.version <= most_links THEN (
            SELECT coalesce(
                array_agg(
                    (
                        l.id, l.entity_type, l.entity_id, l.role,
                        l.created_at, l.deleted_at, l.deleted_cause, l.deletion_id
                    )::read_link
                    ORDER BY l.id
                ),
                '{}'
            )
            FROM document_links AS l
            WHERE l.workspace_id = d.workspace_id AND l.document_id = d.id
                AND (l.deleted_at IS NULL OR l.deletion_id = d.deletion_id)
        ) END
    FROM unnest(locked) AS d
    WHERE d.id IS NOT NULL;
END
$$;

-- Locks the links' documents, then their entities, then reads the links: one row for each, in order. A locked row is read
-- as the transaction that held its lock before has committed it. The links are read by a later statement, whose snapshot
-- includes that transaction. A deleted entity is not locked: its deletion marks it first and then waits for the locks on
-- it, and new locks would make that wait endless.
--   wait          wait for locks, at most lock_timeout; otherwise rows that another transaction has locked are skipped
--   locked_at     the clock after the locks: the time of everything that is written
--   is_locked     document and entity are locked, or do not exist; if false, the rest of the row is not valid
--   entity_known  the entity exists, is not deleted, and is locked
CREATE FUNCTION lock_links(wanted link_key [], wait boolean)
RETURNS TABLE (
    locked_at timestamptz, is_locked boolean,
    version bigint, revision bigint, document_deleted_at timestamptz, entity_known boolean,
    link_id uuid, role text, created_at timestamptz, deleted_at timestamptz
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- One element for each link, in order; NULL: not there, or skipped.
    versions bigint[];
    revisions bigint[];
    document_deletions timestamptz[];
    entities_locked boolean[];
BEGIN
    SELECT
        array_agg(coalesce(waited.version, skipped.version) ORDER BY k.n),
        array_agg(coalesce(waited.revision, skipped.revision) ORDER BY k.n),
        array_agg(coalesce(waited.deleted_at, skipped.deleted_at) ORDER BY k.n)
    INTO versions, revisions, document_deletions
    FROM (
        SELECT k.workspace_id, k.document_id, k.ordinality AS n
        FROM unnest(wanted) WITH ORDINALITY AS k
        ORDER BY 1, 2
    ) AS k
    LEFT JOIN LATERAL (
        SELECT d.version, d.revision, d.deleted_at
        FROM documents AS d
        WHERE wait AND d.workspace_id = k.workspace_id AND d.id = k.document_id FOR NO KEY UPDATE
    ) AS waited ON true
    LEFT JOIN LATERAL (
        SELECT d.version, d.revision, d.deleted_at
        FROM documents AS d
        WHERE NOT wait AND d.workspace_id = k.workspace_id AND d.id = k.document_id FOR NO KEY UPDATE SKIP LOCKED
    ) AS skipped ON true;
    SELECT array_agg(coalesce(waited.locked, skipped.locked) ORDER BY k.n)
    INTO entities_locked
    FROM (
        SELECT k.workspace_id, k.entity_type, k.entity_id, k.ordinality AS n
        FROM unnest(wanted) WITH ORDINALITY AS k
        ORDER BY 1, 2, 3
    ) AS k
    LEFT JOIN LATERAL (
        SELECT true AS locked
        FROM entities AS e
        WHERE wait AND e.workspace_id = k.workspace_id AND e.type = k.entity_type AND e.id = k.entity_id
            AND e.deleted_at IS NULL
        FOR KEY SHARE
    ) AS waited ON true
    LEFT JOIN LATERAL (
        SELECT true AS locked
        FROM entities AS e
        WHERE NOT wait AND e.workspace_id = k.workspace_id AND e.type = k.entity_type AND e.id = k.entity_id
            AND e.deleted_at IS NULL
        FOR KEY SHARE SKIP LOCKED
    ) AS skipped ON true;
    RETURN QUERY
    SELECT
        clock_timestamp(),
        -- (For NOT EXISTS the planner might build a hash of all documents.)
        (
            k.version IS NOT NULL
            OR (SELECT true FROM documents AS d WHERE d.workspace_id = k.workspace_id AND d.id = k.document_id) IS NULL
        )
        AND (
            k.entity_locked IS NOT NULL
            OR (
                SELECT true FROM entities AS e
                WHERE e.workspace_id = k.workspace_id AND e.type = k.entity_type AND e.id = k.entity_id
                    AND e.deleted_at IS NULL
            ) IS NULL
        ),
        k.version, k.revision, k.document_deleted_at, k.entity_locked IS NOT NULL,
        l.id, l.role, l.created_at, l.deleted_at
    FROM unnest(wanted, versions, revisions, document_deletions, entities_locked) WITH ORDINALITY AS k (
        workspace_id, document_id, entity_type, entity_id, version, revision, document_deleted_at, entity_locked, n
    )
    -- Only document_links_triple_key has this order. Without ORDER BY, and with statistics by which documents have few
    -- links, the planner takes the primary key, and would read all links of a document for each of them.
    LEFT JOIN LATERAL (
        SELECT l.id, l.entity_id, l.role, l.created_at, l.deleted_at
        FROM document_links AS l
        WHERE l.workspace_id = k.workspace_id AND l.document_id = k.document_id
            AND l.entity_type = k.entity_type AND l.entity_id >= k.entity_id
        ORDER BY l.entity_id
        LIMIT 1
    ) AS l ON l.entity_id = k.entity_id
    ORDER BY k.n;
END
$$;

-- Removes the links of a deleted entity whose documents no other transaction has locked, and counts them in their documents.
-- The links are those with an id greater than `after`, up to `up_to`; none if the entity is not deleted. One row for each
-- removed link, with its document's new version. Rows are found by their place (ctid), which an index would cost more:
--   * a place that was read before the lock may be that of an older row, or of another one; then the second statement, whose
--     snapshot is from after the locks, does not find the link or the document at its place, and the link is not removed;
--   * a document that is locked has its place until this transaction ends.
-- An entity with an active link is not registered again, and nothing links to a deleted one. So the entity is deleted until
-- this transaction ends, if one snapshot has both.
CREATE FUNCTION unlink_entity(workspace uuid, of_type text, of_id text, after uuid, up_to uuid)
RETURNS TABLE (
    written_at timestamptz, document_id text, version bigint, link_id uuid, role text, created_at timestamptz
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- One element for each link whose document is locked, in the documents' order.
    documents text[];
    document_places tid[];
    links uuid[];
    link_places tid[];
    now_locked timestamptz;
BEGIN
    SELECT array_agg(l.document_id), array_agg(d.place), array_agg(l.id), array_agg(l.place)
    INTO documents, document_places, links, link_places
    FROM (
        SELECT l.document_id, l.id, l.place
        FROM (
            SELECT l.document_id, l.id, l.ctid AS place
            FROM document_links AS l
            WHERE l.workspace_id = workspace AND l.entity_id = of_id AND l.entity_type = of_type
                AND l.id > after AND l.id <= up_to AND l.deleted_at IS NULL
            ORDER BY l.workspace_id, l.entity_id, l.id -- only document_links_entity_idx has this order
        ) AS l
        ORDER BY l.document_id
    ) AS l
    CROSS JOIN LATERAL (
        SELECT d.ctid AS place
        FROM documents AS d
        WHERE d.workspace_id = workspace AND d.id = l.document_id FOR NO KEY UPDATE SKIP LOCKED
    ) AS d;
    now_locked := clock_timestamp();
    RETURN QUERY
    WITH removed AS (
        UPDATE document_links AS l
        SET deleted_at = now_locked, deleted_cause = 'entity_deleted'
        FROM unnest(documents, document_places, links, link_places) AS k (document, document_place, link, link_place)
        -- What is at a place is read before it is compared (OFFSET 0): with a condition on another column, and with
        -- statistics by which rows are few, the planner might find each row by an index that has a part of the key.
        CROSS JOIN LATERAL (
            SELECT d.workspace_id, d.id FROM documents AS d WHERE d.ctid = k.document_place OFFSET 0
        ) AS d
        CROSS JOIN LATERAL (
            SELECT s.workspace_id, s.document_id, s.id, s.deleted_at
            FROM document_links AS s
            WHERE s.ctid = k.link_place
            OFFSET 0
        ) AS s
        WHERE l.ctid = k.link_place
            AND d.workspace_id = workspace AND d.id = k.document
            AND s.workspace_id = workspace AND s.document_id = k.document AND s.id = k.link AND s.deleted_at IS NULL
            AND (
                SELECT true FROM entities AS e
                WHERE e.workspace_id = workspace AND e.type = of_type AND e.id = of_id AND e.deleted_at IS NOT NULL
            )
        RETURNING k.document_place, l.id, l.role, l.created_at
    )
    UPDATE documents AS d
    SET version = d.version + 1, revision = d.revision + 1, updated_at = now_locked
    FROM removed AS r
    WHERE d.ctid = r.document_place
    RETURNING now_locked, d.id, d.version, r.id, r.role, r.created_at;
END
$$;

-- Writes one transaction's changes: each link and each document once, in its final state; events in list order, which
-- becomes the order of their positions; the replies kept for idempotency. Returns the transaction's xid, which is needed
-- if the answer to COMMIT is lost. A NULL array costs less than an empty one.
CREATE FUNCTION save_changes(
    written_at timestamptz,
    new_links new_link [], documents document_counters [], events new_event [],
    changed_links changed_link [] DEFAULT NULL,
    changed_documents changed_document [] DEFAULT NULL,
    replies stored_reply [] DEFAULT NULL
)
RETURNS xid8
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    counters document_counters;
    document changed_document;
BEGIN
    -- An event must not be visible to the relay before its row is durable.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF cardinality(new_links) > 0 THEN
        INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, role, created_at)
        SELECT n.workspace_id, n.document_id, n.id, n.entity_type, n.entity_id, n.role, written_at
        FROM unnest(new_links) AS n;
    END IF;
    IF cardinality(changed_links) > 0 THEN
        -- Only the primary key has this order. Without ORDER BY, and with statistics by which documents have few links,
        -- the planner takes document_links_triple_key, and would read all links of a document for each of them.
        UPDATE document_links AS l
        SET role = c.role, deleted_at = c.deleted_at, deleted_cause = c.deleted_cause, deletion_id = c.deletion_id
        FROM unnest(changed_links) AS c
        CROSS JOIN LATERAL (
            SELECT s.id, s.ctid AS place -- does not change: the document is locked
            FROM document_links AS s
            WHERE s.workspace_id = c.workspace_id AND s.document_id = c.document_id AND s.id >= c.id
            ORDER BY s.id
            LIMIT 1
        ) AS s
        -- For another condition on l the planner might read a whole index.
        WHERE l.ctid = s.place AND s.id = c.id;
    END IF;
    IF cardinality(save_changes.documents) = 1 THEN -- the commonest write, for which a join costs more
        counters := save_changes.documents[1];
        UPDATE documents AS d
        SET version = counters.version, revision = counters.revision, updated_at = written_at
        WHERE d.workspace_id = counters.workspace_id AND d.id = counters.id;
    ELSIF cardinality(save_changes.documents) > 1 THEN
        UPDATE documents AS d
        SET version = c.version, revision = c.revision, updated_at = written_at
        FROM unnest(save_changes.documents) AS c
        CROSS JOIN LATERAL (
            SELECT s.ctid AS place
            FROM documents AS s
            WHERE s.workspace_id = c.workspace_id AND s.id = c.id
            OFFSET 0 -- keeps the planner from joining all documents, which it does if statistics say that they are few
        ) AS s
        WHERE d.ctid = s.place;
    END IF;
    FOREACH document IN ARRAY coalesce(changed_documents, '{}') LOOP
        UPDATE documents AS d
        SET version = document.version, revision = document.revision, updated_at = written_at,
            display_name = document.display_name, category = document.category, metadata = document.metadata,
            deleted_at = document.deleted_at, deletion_id = document.deletion_id
        WHERE d.workspace_id = document.workspace_id AND d.id = document.id;
    END LOOP;
    IF cardinality(replies) > 0 THEN
        INSERT INTO idempotency_keys (workspace_id, scope, fingerprint, status, body, created_at)
        SELECT r.workspace_id, r.scope, r.fingerprint, r.status, r.body, written_at
        FROM unnest(replies) AS r
        ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE -- a stored reply here is older than 24 hours
        SET fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body,
            created_at = excluded.created_at;
    END IF;
    INSERT INTO outbox (event_id, event_type, key, payload, traceparent)
    SELECT e.event_id, e.event_type, e.key, e.payload, e.traceparent
    FROM unnest(events) WITH ORDINALITY AS e
    ORDER BY e.ordinality;
    RETURN pg_current_xact_id();
END
$$;

-- Adds a new link, with its event, if nothing is in the way: a lone write takes one statement, which is its own transaction.
-- It waits for no lock. If it writes nothing, it returns what lock_links would, so that the call can be decided.
--   most_version  nothing is written if the document's version, which counts its link events, is greater
--   latest        nothing is written if the locks are taken later: after this time, and with the document's lock, a caller
--                 that has lost the answer knows whether the link was written
--   link_end      the ends of the ids of link and event, UUIDv7, whose beginnings are made of locked_at
--   event         the event as a template of format(), in the order of the arguments below: service/core/events.py
--   locked_at     NULL: the session has settings with which only a transaction that sets others may write
--   version       of the document before, like revision
CREATE FUNCTION add_link(
    workspace uuid, document text, entity_type text, entity text, new_role text,
    most_version bigint, latest timestamptz, link_end text, event_end text, event text, traceparent text,
    OUT locked_at timestamptz, OUT is_locked boolean,
    OUT version bigint, OUT revision bigint, OUT document_deleted_at timestamptz, OUT entity_known boolean,
    OUT link_id uuid, OUT role text, OUT created_at timestamptz, OUT deleted_at timestamptz,
    OUT is_written boolean
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    microseconds bigint;
    id_start text;
BEGIN
    -- If statement_timeout ends the wait of the COMMIT for a synchronous standby, the link is on the primary only.
    IF current_setting('statement_timeout') <> '0' OR current_setting('transaction_isolation') <> 'read committed' THEN
        is_written := false;
        RETURN;
    END IF;
    -- An event must not be visible to the relay before its row is durable.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT d.version, d.revision, d.deleted_at
    INTO version, revision, document_deleted_at
    FROM documents AS d
    WHERE d.workspace_id = workspace AND d.id = document
    FOR NO KEY UPDATE SKIP LOCKED;
    SELECT true
    INTO entity_known
    FROM entities AS e
    WHERE e.workspace_id = workspace AND e.type = entity_type AND e.id = entity AND e.deleted_at IS NULL
    FOR KEY SHARE SKIP LOCKED;
    locked_at := clock_timestamp();
    -- Only document_links_triple_key has this order, as in lock_links.
    SELECT l.id, l.role, l.created_at, l.deleted_at
    INTO link_id, role, created_at, deleted_at
    FROM (
        SELECT l.id, l.entity_id, l.role, l.created_at, l.deleted_at
        FROM document_links AS l
        WHERE l.workspace_id = workspace AND l.document_id = document
            AND l.entity_type = add_link.entity_type AND l.entity_id >= entity
        ORDER BY l.entity_id
        LIMIT 1
    ) AS l
    WHERE l.entity_id = entity;
    is_written := coalesce(
        link_id IS NULL AND entity_known AND document_deleted_at IS NULL
        AND version <= most_version AND locked_at <= latest,
        false
    );
    IF is_written THEN
        microseconds := extract(EPOCH FROM locked_at) * 1000000;
        -- 48 bits of milliseconds, the digit of the version, and 12 bits of the fraction (RFC 9562, section 6.2, method 3).
        id_start := lpad(
            to_hex(microseconds / 1000 << 16 | 28672 | microseconds % 1000 * 4096 / 1000), 16, '0'
        );
        id_start := format('%s-%s-%s-', left(id_start, 8), substr(id_start, 9, 4), right(id_start, 4));
        INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, role, created_at)
        VALUES (workspace, document, (id_start || link_end)::uuid, entity_type, entity, new_role, locked_at);
        UPDATE documents AS d
        SET version = d.version + 1, revision = d.revision + 1, updated_at = locked_at
        WHERE d.workspace_id = workspace AND d.id = document;
        INSERT INTO outbox (event_id, event_type, key, payload, traceparent)
        VALUES (
            (id_start || event_end)::uuid, 'document.linked', workspace || '/' || document,
            convert_to(
                format(
                    event,
                    id_start,
                    to_char(locked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    lpad((version + 1)::text, 20, '0'),
                    version + 1
                ),
                'UTF8'
            ),
            traceparent
        );
        is_locked := true;
        RETURN;
    END IF;
    -- A COMMIT of nothing but locks need not be durable.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- (For NOT EXISTS the planner might build a hash of all documents.)
    is_locked := (
        version IS NOT NULL
        OR (SELECT true FROM documents AS d WHERE d.workspace_id = workspace AND d.id = document) IS NULL
    )
    AND (
        entity_known IS NOT NULL
        OR (
            SELECT true FROM entities AS e
            WHERE e.workspace_id = workspace AND e.type = entity_type AND e.id = entity AND e.deleted_at IS NULL
        ) IS NULL
    );
    entity_known := entity_known IS NOT NULL;
END
$$;

------------------------------------------------------------------------------------------------------------------------
-- Functions that release 0.1 calls. They stay as long as its programs may run beside this release.
------------------------------------------------------------------------------------------------------------------------

-- Like lock_links, with an array for each column; `patient` is `wait`, `moment` is `locked_at`, `held` is `is_locked`, and
-- `entity_deleted_at` is always NULL. Without an entity (NULL, NULL) only the document is locked.
CREATE FUNCTION lock_and_read(
    workspaces uuid [], document_ids text [], entity_types text [], entity_ids text [], patient boolean
)
RETURNS TABLE (
    moment timestamptz, held boolean,
    version bigint, revision bigint, document_deleted_at timestamptz,
    entity_known boolean, entity_deleted_at timestamptz,
    link_id uuid, role text, created_at timestamptz, deleted_at timestamptz
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- One element for each link, in order; NULL: not there, or skipped.
    versions bigint[];
    revisions bigint[];
    document_deletions timestamptz[];
    entities_locked boolean[];
    now_locked timestamptz;
BEGIN
    IF patient THEN
        SELECT array_agg(l.version ORDER BY n), array_agg(l.revision ORDER BY n), array_agg(l.deleted_at ORDER BY n)
        INTO versions, revisions, document_deletions
        FROM (SELECT * FROM unnest(workspaces, document_ids) WITH ORDINALITY AS u (w, d, n) ORDER BY w, d) AS u
        LEFT JOIN LATERAL (
            SELECT d.version, d.revision, d.deleted_at
            FROM documents AS d
            WHERE d.workspace_id = u.w AND d.id = u.d FOR NO KEY UPDATE
        ) AS l ON true;
        SELECT array_agg(l.locked ORDER BY n)
        INTO entities_locked
        FROM (
            SELECT * FROM unnest(workspaces, entity_types, entity_ids) WITH ORDINALITY AS u (w, t, e, n)
            ORDER BY w, t, e
        ) AS u
        LEFT JOIN LATERAL (
            SELECT true AS locked
            FROM entities AS e
            WHERE e.workspace_id = u.w AND e.type = u.t AND e.id = u.e AND e.deleted_at IS NULL FOR KEY SHARE
        ) AS l ON true;
    ELSE
        SELECT array_agg(l.version ORDER BY n), array_agg(l.revision ORDER BY n), array_agg(l.deleted_at ORDER BY n)
        INTO versions, revisions, document_deletions
        FROM unnest(workspaces, document_ids) WITH ORDINALITY AS u (w, d, n)
        LEFT JOIN LATERAL (
            SELECT d.version, d.revision, d.deleted_at
            FROM documents AS d
            WHERE d.workspace_id = u.w AND d.id = u.d FOR NO KEY UPDATE SKIP LOCKED
        ) AS l ON true;
        SELECT array_agg(l.locked ORDER BY n)
        INTO entities_locked
        FROM unnest(workspaces, entity_types, entity_ids) WITH ORDINALITY AS u (w, t, e, n)
        LEFT JOIN LATERAL (
            SELECT true AS locked
            FROM entities AS e
            WHERE e.workspace_id = u.w AND e.type = u.t AND e.id = u.e AND e.deleted_at IS NULL
            FOR KEY SHARE SKIP LOCKED
        ) AS l ON true;
    END IF;
    now_locked := clock_timestamp();
    RETURN QUERY
    SELECT
        now_locked,
        -- (For NOT EXISTS the planner might build a hash of all documents.)
        (u.v IS NOT NULL OR (SELECT true FROM documents AS d WHERE d.workspace_id = u.w AND d.id = u.d) IS NULL)
        AND (
            u.k IS NOT NULL
            OR (
                SELECT true FROM entities AS e
                WHERE e.workspace_id = u.w AND e.type = u.t AND e.id = u.e AND e.deleted_at IS NULL
            ) IS NULL
        ),
        u.v, u.r, u.x,
        u.k IS NOT NULL, NULL::timestamptz,
        l.id, l.role, l.created_at, l.deleted_at
    FROM unnest(
        workspaces, document_ids, entity_types, entity_ids,
        versions, revisions, document_deletions, entities_locked
    ) WITH ORDINALITY AS u (w, d, t, e, v, r, x, k, n)
    -- Only document_links_triple_key has this order, as in lock_links.
    LEFT JOIN LATERAL (
        SELECT k.id, k.entity_id, k.role, k.created_at, k.deleted_at
        FROM document_links AS k
        WHERE k.workspace_id = u.w AND k.document_id = u.d AND k.entity_type = u.t AND k.entity_id >= u.e
        ORDER BY k.entity_id
        LIMIT 1
    ) AS l ON l.entity_id = u.e
    ORDER BY u.n;
END
$$;

-- Like save_changes, with an array for each column.
CREATE FUNCTION write_changes(
    moment timestamptz,
    new_workspaces uuid [], new_documents text [], new_ids uuid [], new_types text [], new_entities text [],
    new_roles text [],
    document_workspaces uuid [], document_ids text [], document_versions bigint [], document_revisions bigint [],
    event_ids uuid [], event_types text [], event_keys text [], event_payloads bytea [], event_traceparents text [],
    old_workspaces uuid [] DEFAULT '{}', old_documents text [] DEFAULT '{}', old_ids uuid [] DEFAULT '{}',
    old_roles text [] DEFAULT '{}', old_deleted_ats timestamptz [] DEFAULT '{}', old_causes text [] DEFAULT '{}',
    old_deletions uuid [] DEFAULT '{}',
    reply_workspaces uuid [] DEFAULT '{}', reply_scopes bytea [] DEFAULT '{}', reply_fingerprints bytea [] DEFAULT '{}',
    reply_statuses smallint [] DEFAULT '{}', reply_bodies bytea [] DEFAULT '{}'
)
RETURNS xid8
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    -- An event must not be visible to the relay before its row is durable.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF cardinality(new_ids) > 0 THEN
        INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, role, created_at)
        SELECT u.w, u.d, u.i, u.t, u.e, u.r, moment
        FROM unnest(new_workspaces, new_documents, new_ids, new_types, new_entities, new_roles) AS u (w, d, i, t, e, r);
    END IF;
    IF cardinality(old_ids) > 0 THEN
        -- Only the primary key has this order, as in save_changes.
        UPDATE document_links AS l
        SET role = u.r, deleted_at = u.x, deleted_cause = u.c, deletion_id = u.y
        FROM unnest(old_workspaces, old_documents, old_ids, old_roles, old_deleted_ats, old_causes, old_deletions)
            AS u (w, d, i, r, x, c, y)
        CROSS JOIN LATERAL (
            SELECT k.id, k.ctid AS place -- does not change: the document is locked
            FROM document_links AS k
            WHERE k.workspace_id = u.w AND k.document_id = u.d AND k.id >= u.i
            ORDER BY k.id
            LIMIT 1
        ) AS k
        WHERE l.ctid = k.place AND k.id = u.i;
    END IF;
    IF cardinality(document_ids) > 0 THEN
        UPDATE documents AS d
        SET version = u.v, revision = u.r, updated_at = moment
        FROM unnest(document_workspaces, document_ids, document_versions, document_revisions) AS u (w, i, v, r)
        CROSS JOIN LATERAL (
            SELECT k.ctid AS place FROM documents AS k WHERE k.workspace_id = u.w AND k.id = u.i OFFSET 0
        ) AS k
        WHERE d.ctid = k.place;
    END IF;
    IF cardinality(reply_scopes) > 0 THEN
        INSERT INTO idempotency_keys AS k (workspace_id, scope, fingerprint, status, body)
        SELECT u.w, u.s, u.f, u.c, u.b
        FROM unnest(reply_workspaces, reply_scopes, reply_fingerprints, reply_statuses, reply_bodies)
            AS u (w, s, f, c, b)
        ON CONFLICT ON CONSTRAINT idempotency_keys_pkey DO UPDATE -- a stored reply here is older than 24 hours
        SET fingerprint = excluded.fingerprint, status = excluded.status, body = excluded.body, created_at = now();
    END IF;
    INSERT INTO outbox (event_id, event_type, key, payload, traceparent)
    SELECT u.i, u.t, u.k, u.p, u.x
    FROM unnest(event_ids, event_types, event_keys, event_payloads, event_traceparents)
        WITH ORDINALITY AS u (i, t, k, p, x, n)
    ORDER BY u.n;
    RETURN pg_current_xact_id();
END
$$;
