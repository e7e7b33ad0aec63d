-- Release 1.0.0: functions for faster ways of the write path, and the codec of a relay that is started later.
-- oldest programs: 1
-- lock: outbox_relay, ACCESS EXCLUSIVE, momentary

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
        JOIN documents AS d ON d.ctid = k.document_place AND d.workspace_id = workspace AND d.id = k.document
        WHERE l.ctid = k.link_place AND l.workspace_id = workspace AND l.document_id = k.document AND l.id = k.link
            AND l.deleted_at IS NULL
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

-- The roles that may execute save_changes may execute the new function.
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
        JOIN (VALUES ('save_changes', 'unlink_entity')) AS f (proname, successor) USING (proname)
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
