"""Links of a document to business resources: making, changing, removing and listing them.

`/link` and `/links` are the APIs of two vendors, with messages of their own: `/link` names the entity's type,
`/links` infers it from the prefix of the resource's id. `/links/batch` takes many changes. Each write is one
`LinksWrite` (service/core/links.py).
"""
