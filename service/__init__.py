"""The document-link service: which documents belong to which business resources, over HTTP."""
