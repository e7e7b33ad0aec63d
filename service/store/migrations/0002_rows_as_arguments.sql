-- Release 1.0.0: the write path passes whole rows to its functions; rows can be erased, and leave tombstones.
-- oldest programs: 1
-- lock: documents, SHARE ROW EXCLUSIVE, momentary
-- lock: schema_version, ACCESS EXCLUSIVE, momentary

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

CREATE TABLE erased_documents (
    workspace_id uuid NOT NULL,
    id_hash bytea NOT NULL,
    version bigint NOT NULL,
    revision bigint NOT NULL,
    CONSTRAINT erased_documents_pkey PRIMARY KEY (workspace_id, id_hash),
    CONSTRAINT erased_documents_hash_check CHECK (octet_length(id_hash) = 32),
    CONSTRAINT erased_documents_version_check CHECK (version >= 0 AND revision >= 1)
);

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

CREATE TABLE expiry_sweep (
    singleton boolean NOT NULL DEFAULT true,
    workspace_id uuid,
    document_id text COLLATE "C",
    documents bigint NOT NULL DEFAULT 0,
    links bigint NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT expiry_sweep_pkey PRIMARY KEY (singleton),
    CONSTRAINT expiry_sweep_singleton_check CHECK (singleton),
    CONSTRAINT expiry_sweep_place_check CHECK ((workspace_id IS NULL) = (document_id IS NULL))
);

INSERT INTO expiry_sweep DEFAULT VALUES;

-- The roles that may read and write documents may do so with the new tables: the trigger below runs with their rights.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_class AS c
        CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
        WHERE c.oid = 'documents'::regclass AND a.grantee <> current_user::regrole
    LOOP
        EXECUTE format('GRANT %s ON erased_documents, expiry_sweep TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
END
$$;

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

-- The functions that release 0.1 calls. They keep their signatures and oids, so that a session of 0.1 calls the new body with
-- its next statement. Dropped and created again, they would fail in a session that has just planned a call.
CREATE OR REPLACE FUNCTION lock_and_read(
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

CREATE OR REPLACE FUNCTION write_changes(
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

-- The roles that may execute the functions of release 0.1 may execute those that take their place, whatever the default
-- privileges are.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        WITH executes AS (
            SELECT p.proname, a.grantee
            FROM pg_proc AS p
            CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE p.pronamespace = current_schema()::regnamespace
        )
        SELECT f.successor, CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE e.grantee::regrole::text END AS grantee
        FROM executes AS e
        JOIN (VALUES
            ('lock_and_read', 'lock_links'), ('lock_and_read', 'lock_documents'), ('lock_and_read', 'find_link'),
            ('write_changes', 'save_changes')
        ) AS f (proname, successor) USING (proname)
        WHERE (f.successor, e.grantee) NOT IN (SELECT x.proname, x.grantee FROM executes AS x)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I TO %s', granted.successor, granted.grantee);
    END LOOP;
END
$$;

-- Last but one, because /readyz of all running programs reads this table. It has one row, so a scan or an index takes no time.
ALTER TABLE schema_version ADD COLUMN migration integer NOT NULL DEFAULT 1;

-- squawk-ignore ban-drop-default
ALTER TABLE schema_version ALTER COLUMN migration DROP DEFAULT;

-- squawk-ignore ban-drop-constraint
ALTER TABLE schema_version DROP CONSTRAINT schema_version_pkey;

-- squawk-ignore constraint-missing-not-valid, adding-serial-primary-key-field
ALTER TABLE schema_version ADD CONSTRAINT schema_version_pkey PRIMARY KEY (migration);

COMMENT ON TABLE schema_version IS
'One row a migration; the newest row tells which schema this is, and which programs can run on it.';
COMMENT ON COLUMN schema_version.migration IS
'The schema after this migration: the number of its file in service/store/migrations.';
COMMENT ON COLUMN schema_version.version IS
'The oldest schema whose programs can run on this one: a program refuses a greater number than its own. The programs of '
'release 0.1 refuse each number but 1, so it stays 1 as long as they may run.';

-- Last, because it keeps writers waiting. Before, the step would hold this lock while it waits for schema_version, which
-- pg_dump has locked for as long as it runs.
CREATE TRIGGER documents_continue_erased AFTER INSERT ON documents
FOR EACH ROW EXECUTE FUNCTION continue_erased_document();
