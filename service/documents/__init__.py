"""Documents, each with its fields and all its links.

A write is one `DocumentWrite` (service/core/documents.py). items.py turns a body's `resources` into links,
replies.py encodes documents with thousands of links in pages, and lists.py lists an entity's documents.
"""
