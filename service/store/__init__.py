"""SQL, one module a table or path. `write` is the only writer of document_links and outbox."""
