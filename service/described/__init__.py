"""The descriptions of the API, which need no key: documents, schemas and a page.

The OpenAPI document is made from the route table that serves the requests: paths and methods from the
routes, bodies and queries from the structs that decode them, errors from the table of error codes,
descriptions from the handlers' docstrings. The AsyncAPI document and the JSON Schemas of the events are
made from the structs that the events are encoded from. So a document cannot differ from the service.
The page `/docs/events` is made from the AsyncAPI document, as HTML without scripts.
All documents are made once, at the start.
"""
