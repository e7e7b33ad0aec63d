-- A backlog as the service would have written it: the same fields, a few hundred bytes an event.
CREATE PROCEDURE fill_outbox(workspace uuid, documents integer, events integer, per_transaction integer)
LANGUAGE plpgsql AS $$
BEGIN
    FOR start IN 0..events - 1 BY per_transaction LOOP
        INSERT INTO outbox (event_id, event_type, key, payload)
        SELECT
            e.id, 'document.linked', workspace || '/' || e.document,
            convert_to(json_build_object(
                'specversion', '1.0', 'id', e.id, 'source', '/workspaces/' || workspace, 'type', 'document.linked',
                'subject', e.document, 'time', now(), 'datacontenttype', 'application/json',
                'dataschema', 'urn:document-links:document.linked:1', 'partitionkey', workspace || '/' || e.document,
                'sequence', lpad(e.n::text, 20, '0'),
                'data', json_build_object(
                    'workspace_id', workspace, 'document_id', e.document, 'document_version', e.n,
                    'link', json_build_object(
                        'id', e.id, 'resource', json_build_object('id', 'deal_' || e.n, 'type', 'deal'),
                        'role', 'signed', 'created_at', now(), 'deleted_at', NULL
                    ),
                    'previous', NULL, 'cause', 'link', 'actor', 'key_0123456789', 'request_id', 'req_' || e.n
                )
            )::text, 'UTF8')
        FROM (
            SELECT gen_random_uuid() AS id, start + n AS n, 'doc_' || 1 + floor(random() * documents)::integer AS document
            FROM generate_series(1, least(per_transaction, events - start)) AS n
        ) AS e;
        COMMIT;
    END LOOP;
END $$;
