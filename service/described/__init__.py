"""What machines and people can read of the API: documents, schemas and a page; no key needed."""
