"""All SQL of the service.

`database` has the connections and says which errors mean that Postgres is unreachable; `postgres` opens a
connection from a URL. `reading` has the SELECTs of the API. `writing` is the write path: it alone writes to
documents, document_links, entities, outbox and idempotency_keys. `keys` and `migrations` have the rest.
"""
