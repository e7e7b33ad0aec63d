-- pgbench: the rows that the service writes for a new link, in one statement and one transaction.
\set document random(1, :documents)
\set entity random(1, :entities)
WITH document AS (
    UPDATE documents SET version = version + 1, revision = revision + 1, updated_at = now()
    WHERE workspace_id = :workspace::uuid AND id = 'doc_' || :document AND deleted_at IS NULL
    RETURNING workspace_id, id
), link AS (
    INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, role, created_at)
    SELECT workspace_id, id, gen_random_uuid(), 'deal', 'deal_' || :entity, 'signed', now() FROM document
    ON CONFLICT DO NOTHING
    RETURNING workspace_id, document_id
)
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'document.linked', workspace_id || '/' || document_id,
    convert_to(rpad('{"specversion":"1.0"', :payload_bytes::int, 'x'), 'UTF8')
FROM link;
