-- Release 1.0.0: functions for faster ways of the write path, and the codec of a relay that is started later.
-- oldest programs: 1
-- lock: outbox_relay, ACCESS EXCLUSIVE, momentary

CREATE OR REPLACE FUNCTION lock_scopes(workspaces uuid [], scopes bytea [], patient boolean)
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

-- The roles that may execute save_changes may execute the new functions.
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
        JOIN (VALUES ('save_changes', 'unlink_entity'), ('save_changes', 'add_link')) AS f (proname, successor) USING (proname)
        WHERE (f.successor, e.grantee) NOT IN (SELECT x.proname, x.grantee FROM executes AS x)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I TO %s', granted.successor, granted.grantee);
    END LOOP;
END
$$;

-- A relay that exists keeps what it had. The check reads the only row of the table.
ALTER TABLE outbox_relay
ADD COLUMN compression text NOT NULL DEFAULT 'none',
-- squawk-ignore constraint-missing-not-valid
ADD CONSTRAINT outbox_relay_compression_check CHECK (compression IN ('none', 'gzip', 'snappy', 'lz4', 'zstd'));
